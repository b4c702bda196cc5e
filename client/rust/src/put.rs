//! Putting blocks: one stream, many blocks, one outcome per block or part.
//!
//! A [`PutStream`] holds at most the bytes and blocks the client's options allow without an outcome. When it is full,
//! [`PutStream::send`] reads outcomes until there is room and keeps them for [`PutStream::next`], so one task can do
//! both and nothing can block for ever: every wait for the daemon is bounded by the stall timeout.
//!
//! ```text
//!   send -> [frames, bounded] -> gRPC -> daemon
//!   next <- [answers] <- outcomes by tag <- gRPC
//! ```
//!
//! A stream that fails tells nothing about the blocks that had no answer yet: each was stored or not, and putting it
//! again is harmless (`Duplicate`). Dropping a stream cancels what was not answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvtier_identity::space::{BLOCK_BYTES_MAX, PARTS_MAX};
use kvtier_proto::tuning::DATA_BYTES_MAX;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::call::Call;
use crate::lookup::check_key;
use crate::{Client, ClientError, DeclineReason, Durability, SpaceDigest, wire};

const PUT: Call = Call::changing("put");
/// Messages between [`PutStream::send`] and the connection. The bytes in them are counted as in flight.
const FRAMES_QUEUED_MAX: usize = 64;
/// Answers kept for [`PutStream::next`] before `send` refuses to go on.
const ANSWERS_KEPT_MAX: usize = 65_536;

/// One block, or one part of it, to be put.
#[derive(Debug, Clone)]
pub struct PutBlock {
    /// The engine's name for the block, 1 to 64 bytes.
    pub key: Bytes,
    /// The key of the block before it in the chain; `None` for the first.
    pub parent: Option<Bytes>,
    /// Which part of the space's parts these bytes are; 0 in a space of one part.
    pub part: u32,
    /// The bytes of the part. Shared, not copied.
    pub bytes: Bytes,
    /// When it counts as stored.
    pub durability: Durability,
}

/// What became of one [`PutBlock`].
#[derive(Debug, Clone, PartialEq)]
pub struct PutAnswer {
    /// What [`PutStream::send`] returned for it.
    pub tag: u64,
    /// Its outcome.
    pub outcome: PutOutcome,
}

/// How a put ended. None of them is an error of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum PutOutcome {
    /// The block is visible, and as durable as it says.
    Stored {
        /// CRC-32 of the whole block, all parts.
        crc32: u32,
        /// What the daemon vouches for.
        durability: Durability,
    },
    /// The block was there already; nothing was written.
    Duplicate,
    /// The part is in; others of its block are still to come.
    PartAccepted,
    /// The daemon refuses it now, for a reason that may pass.
    Declined {
        /// Which bound or rule.
        reason: DeclineReason,
        /// In the daemon's words.
        detail: String,
    },
    /// The block can never be stored like this.
    Rejected {
        /// Which field.
        field: String,
        /// Its value.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

/// Many puts on one call. Made by [`Client::put_stream`].
pub struct PutStream {
    client: Client,
    space: Vec<u8>,
    frames: mpsc::Sender<wire::PutRequest>,
    outcomes: Outcomes,
    in_flight: BTreeMap<u64, usize>,
    bytes_in_flight: usize,
    answers: VecDeque<PutAnswer>,
    next_tag: u64,
    failure: Option<ClientError>,
}

/// The answering half of the call. The daemon may open it only after the first frame, so both must be driven at once.
enum Outcomes {
    Opening(BoxFuture<'static, Result<Response<Streaming<wire::PutResponse>>, Status>>),
    Open(Box<Streaming<wire::PutResponse>>),
}

impl PutBlock {
    /// The only part of the first block of a chain, volatile. See [`PutBlock::after`] and [`PutBlock::durable`].
    pub fn new(key: impl Into<Bytes>, bytes: impl Into<Bytes>) -> Self {
        let (key, bytes) = (key.into(), bytes.into());
        Self { key, parent: None, part: 0, bytes, durability: Durability::Volatile }
    }

    /// The same block, after `parent` in its chain.
    #[must_use]
    pub fn after(self, parent: impl Into<Bytes>) -> Self {
        Self { parent: Some(parent.into()), ..self }
    }

    /// The same block, acknowledged only when bytes and journal are synced.
    #[must_use]
    pub fn durable(self) -> Self {
        Self { durability: Durability::Durable, ..self }
    }

    fn check(&self) -> Result<(), ClientError> {
        check_key("key", &self.key)?;
        self.parent.as_ref().map_or(Ok(()), |parent| check_key("parent", parent))?;
        if self.bytes.is_empty() || self.bytes.len() > BLOCK_BYTES_MAX as usize {
            let value = format!("{} bytes long", self.bytes.len());
            return Err(ClientError::invalid("bytes", value, "a block has 1 byte to 64 MiB"));
        }
        if self.part as usize >= PARTS_MAX {
            return Err(ClientError::invalid("part", self.part.to_string(), "a block has at most 64 parts"));
        }
        Ok(())
    }

    fn begin(&self, tag: u64, space: &[u8]) -> wire::PutBegin {
        wire::PutBegin {
            tag,
            space: space.to_vec(),
            key: self.key.to_vec(),
            parent: self.parent.as_ref().map(|parent| parent.to_vec()),
            part: self.part,
            length: self.bytes.len() as u64,
            crc32: Some(crc32fast::hash(&self.bytes)),
            durability: self.durability as i32,
        }
    }
}

impl Client {
    /// Starts a put stream into one space. Nothing is sent before the first block.
    pub fn put_stream(&self, space: SpaceDigest) -> PutStream {
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let request = self.open_ended(ReceiverStream::new(queue));
        let mut wire = self.wire_for_puts();
        PutStream {
            client: self.clone(),
            space: space.0.to_vec(),
            frames,
            outcomes: Outcomes::Opening(Box::pin(async move { wire.put(request).await })),
            in_flight: BTreeMap::new(),
            bytes_in_flight: 0,
            answers: VecDeque::new(),
            next_tag: 0,
            failure: None,
        }
    }

    /// Puts one block and waits for its outcome.
    pub async fn put(&self, space: SpaceDigest, block: PutBlock) -> Result<PutOutcome, ClientError> {
        let outcomes = self.put_many(space, [block]).await?;
        Ok(outcomes.into_iter().next().expect("put_many answers every block"))
    }

    /// Puts blocks and waits for their outcomes, which are in the order of the blocks. The iterator is asked for a
    /// block only when there is room in flight, so it may make them as it goes.
    pub async fn put_many(
        &self,
        space: SpaceDigest,
        blocks: impl IntoIterator<Item = PutBlock>,
    ) -> Result<Vec<PutOutcome>, ClientError> {
        let mut stream = self.put_stream(space);
        let mut answers = Vec::new();
        for block in blocks {
            stream.send(block).await?;
            answers.extend(stream.answered());
        }
        answers.extend(stream.finish().await?);
        answers.sort_unstable_by_key(|answer| answer.tag);
        Ok(answers.into_iter().map(|answer| answer.outcome).collect())
    }
}

impl PutStream {
    /// Sends a block and returns its tag. Waits while too much is in flight, reading outcomes meanwhile.
    pub async fn send(&mut self, block: PutBlock) -> Result<u64, ClientError> {
        self.check_alive()?;
        block.check()?;
        let options = self.client.options();
        let (blocks_max, bytes_max) = (options.put_blocks_in_flight_max, options.put_bytes_in_flight_max);
        let bytes = block.bytes.len();
        while !self.in_flight.is_empty()
            && (self.in_flight.len() >= blocks_max || self.bytes_in_flight + bytes > bytes_max)
        {
            self.read_outcome().await?;
        }
        if self.answers.len() >= ANSWERS_KEPT_MAX {
            let value = format!("{} answers waiting", self.answers.len());
            return Err(ClientError::invalid("put stream", value, "take them with next() before sending more"));
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        self.in_flight.insert(tag, bytes);
        self.bytes_in_flight += bytes;
        self.send_frames(tag, block).await?;
        Ok(tag)
    }

    /// The outcomes that are known already, without waiting. A caller that sends for long takes them now and then.
    pub fn answered(&mut self) -> impl Iterator<Item = PutAnswer> {
        self.answers.drain(..)
    }

    /// The next outcome, in the daemon's order; `None` when every block sent has been answered.
    pub async fn next(&mut self) -> Result<Option<PutAnswer>, ClientError> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(Some(answer));
            }
            self.check_alive()?;
            if self.in_flight.is_empty() {
                return Ok(None);
            }
            self.read_outcome().await?;
        }
    }

    /// Says that no more blocks come, and waits for every outcome that was not taken yet.
    pub async fn finish(mut self) -> Result<Vec<PutAnswer>, ClientError> {
        let mut answers = Vec::new();
        while let Some(answer) = self.next().await? {
            answers.push(answer);
        }
        if self.next_tag > 0 {
            self.close().await?;
        }
        Ok(answers)
    }

    /// Half-closes the call and lets the daemon end it, so that it does not look cancelled there. Every outcome is
    /// known by now: how the call ends changes nothing, unless more comes.
    async fn close(self) -> Result<(), ClientError> {
        let Self { client, frames, mut outcomes, .. } = self;
        drop(frames);
        match tokio::time::timeout(client.options().stall_timeout, outcomes.next()).await {
            Ok(Ok(Some(extra))) => {
                Err(ClientError::protocol(PUT.name, format!("an outcome for tag {} after the last", extra.tag)))
            }
            _ => Ok(()),
        }
    }

    /// Blocks sent whose outcome is not known yet. After an error: the ones that are indeterminate.
    pub fn in_flight(&self) -> impl Iterator<Item = u64> {
        self.in_flight.keys().copied()
    }

    async fn send_frames(&mut self, tag: u64, block: PutBlock) -> Result<(), ClientError> {
        let mut begin = Some(block.begin(tag, &self.space));
        let mut rest = block.bytes;
        while !rest.is_empty() {
            let data = rest.split_to(rest.len().min(DATA_BYTES_MAX));
            self.send_frame(wire::PutRequest { begin: begin.take(), data }).await?;
        }
        Ok(())
    }

    /// Queues one frame, reading outcomes for as long as the queue is full: a daemon whose outcomes nobody reads may
    /// stop reading frames.
    async fn send_frame(&mut self, frame: wire::PutRequest) -> Result<(), ClientError> {
        let stall_timeout = self.client.options().stall_timeout;
        loop {
            let waiting = async {
                tokio::select! {
                    biased;
                    permit = self.frames.clone().reserve_owned() => Step::Room(permit.ok()),
                    outcome = self.outcomes.next() => Step::Outcome(outcome),
                }
            };
            match tokio::time::timeout(stall_timeout, waiting).await {
                Ok(Step::Room(Some(permit))) => {
                    permit.send(frame);
                    return Ok(());
                }
                // The call is over; its status says why.
                Ok(Step::Room(None)) => self.read_outcome().await?,
                Ok(Step::Outcome(outcome)) => self.file(outcome)?,
                Err(_) => return self.fail(PUT.timed_out(stall_timeout)),
            }
        }
    }

    async fn read_outcome(&mut self) -> Result<(), ClientError> {
        let stall_timeout = self.client.options().stall_timeout;
        match tokio::time::timeout(stall_timeout, self.outcomes.next()).await {
            Ok(outcome) => self.file(outcome),
            Err(_) => self.fail(PUT.timed_out(stall_timeout)),
        }
    }

    fn file(&mut self, outcome: Result<Option<wire::PutResponse>, Status>) -> Result<(), ClientError> {
        let stall_timeout = self.client.options().stall_timeout;
        let response = match outcome {
            Ok(Some(response)) => response,
            Ok(None) => return self.fail(ClientError::protocol(PUT.name, "the stream ended before every outcome")),
            Err(status) => {
                let error = self.client.explain(PUT, stall_timeout, &status);
                return self.fail(error);
            }
        };
        let tag = response.tag;
        let Some(bytes) = self.in_flight.remove(&tag) else {
            return self
                .fail(ClientError::protocol(PUT.name, format!("an outcome for tag {tag}, which is not in flight")));
        };
        self.bytes_in_flight -= bytes;
        match read_outcome(response) {
            Some(outcome) => {
                self.answers.push_back(PutAnswer { tag, outcome });
                Ok(())
            }
            None => self.fail(ClientError::protocol(PUT.name, format!("the outcome of tag {tag} is empty"))),
        }
    }

    fn fail(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.failure = Some(error.clone());
        Err(error)
    }

    fn check_alive(&self) -> Result<(), ClientError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

/// What [`PutStream::send_frame`] waited for.
enum Step {
    Room(Option<mpsc::OwnedPermit<wire::PutRequest>>),
    Outcome(Result<Option<wire::PutResponse>, Status>),
}

impl Outcomes {
    /// Dropping the wait loses nothing: the opening call is kept and polled again.
    async fn next(&mut self) -> Result<Option<wire::PutResponse>, Status> {
        if let Self::Opening(opening) = self {
            let opened = opening.await?.into_inner();
            *self = Self::Open(Box::new(opened));
        }
        match self {
            Self::Open(outcomes) => outcomes.message().await,
            Self::Opening(_) => unreachable!("opened above"),
        }
    }
}

fn read_outcome(response: wire::PutResponse) -> Option<PutOutcome> {
    use wire::put_response::Outcome;
    Some(match response.outcome? {
        Outcome::Stored(stored) => PutOutcome::Stored { crc32: stored.crc32, durability: stored.durability() },
        Outcome::Duplicate(_) => PutOutcome::Duplicate,
        Outcome::PartAccepted(_) => PutOutcome::PartAccepted,
        Outcome::Declined(declined) => PutOutcome::Declined { reason: declined.reason(), detail: declined.detail },
        Outcome::Rejected(rejected) => {
            PutOutcome::Rejected { field: rejected.field, value: rejected.value, remedy: rejected.remedy }
        }
    })
}

impl std::fmt::Debug for PutStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PutStream")
            .field("in_flight", &self.in_flight.len())
            .field("bytes_in_flight", &self.bytes_in_flight)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
