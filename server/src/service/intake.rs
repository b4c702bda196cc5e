//! One put stream's open block: a state machine over the client's messages.
//!
//! ```text
//!             begin, slot reserved                  last byte
//!   Idle ───────────────────────────► Filling ───────────────────► Idle       STORED, PART_ACCEPTED, DECLINED
//!     ▲ │                               │ too many bytes, bad checksum,
//!     │ │ begin refused: DECLINED,      │ deadline, next begin: REJECTED
//!     │ ▼ DUPLICATE, REJECTED           ▼
//!     └─── next begin ◄───────────── Skipping    (the rest of the block's bytes is read and dropped)
//! ```
//!
//! Data in `Idle` belongs to no block: the client has lost count, and the stream fails. Everything else is answered
//! under the block's tag, and the stream goes on. A frame is copied once, from the HTTP/2 buffer to the host slot.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kvtier_engine::catalog::plan::Decline;
use kvtier_engine::flow::EngineError;
use kvtier_engine::flow::ask::{DurableWait, Put, PutPart, Reserved};
use kvtier_engine::flow::put::PartWriter;
use kvtier_engine::port::Moment;
use kvtier_proto::{tuning, v1};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tonic::Status;
use v1::put_response::Outcome;

use super::answer::{self, BadField};
use super::{Node, ask};

/// How long a block may wait for room among the incomplete blocks of the node.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// What a message led to.
pub(crate) enum Step {
    /// Answer now.
    Answer(v1::PutResponse),
    /// Answer when this resolves.
    Wait(BoxFuture<'static, v1::PutResponse>),
    /// The stream cannot go on.
    Fail(Status),
}

/// Reads one client's blocks.
pub(crate) struct Intake {
    node: Arc<Node>,
    state: State,
}

enum State {
    Idle,
    Filling(Box<Filling>),
    Skipping,
}

/// A block whose bytes are coming.
struct Filling {
    tag: u64,
    announced: u64,
    crc: Option<u32>,
    writer: PartWriter,
    begun: Moment,
    deadline: Instant,
    /// Its share of the node's bound on incomplete bytes.
    _room: OwnedSemaphorePermit,
}

impl Filling {
    fn incomplete(&self, remedy: String) -> Step {
        let sent = self.announced - u64::from(self.writer.missing_bytes());
        let value = format!("{} announced, {sent} sent", self.announced);
        Step::Answer(answer::rejected(self.tag, BadField::new("length", value, remedy)))
    }
}

impl Intake {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, state: State::Idle }
    }

    /// Until when the open block must be complete.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Filling(filling) => Some(filling.deadline),
            State::Idle | State::Skipping => None,
        }
    }

    /// Takes the client's next message.
    pub(crate) async fn take(&mut self, message: v1::PutRequest) -> Vec<Step> {
        let mut steps = Vec::new();
        let begins = message.begin.is_some();
        if let Some(begin) = message.begin {
            steps.extend(self.leave("send every byte that was announced before the next begin"));
            steps.extend(self.begin(begin).await);
        }
        if !message.data.is_empty() {
            steps.extend(self.fill(&message.data));
        } else if !begins && matches!(self.state, State::Idle) {
            let bad = BadField::new("begin", "absent", "a message holds begin, data, or both");
            steps.push(Step::Fail(bad.into()));
        }
        steps
    }

    /// The open block's time is up.
    pub(crate) fn expire(&mut self) -> Step {
        let deadline = self.node.limits.part_deadline;
        let step = self.leave(&format!("the block was not complete after {} ms: send it again", deadline.as_millis()));
        step.expect("only an open block has a deadline")
    }

    /// The client sends no more.
    pub(crate) fn end(&mut self) -> Option<Step> {
        self.leave("the stream ended inside the block: send every byte that was announced")
    }

    /// Gives up the open block, if there is one.
    fn leave(&mut self, remedy: &str) -> Option<Step> {
        match std::mem::replace(&mut self.state, State::Skipping) {
            State::Filling(filling) => Some(filling.incomplete(remedy.to_owned())),
            State::Idle | State::Skipping => None,
        }
    }

    async fn begin(&mut self, begin: v1::PutBegin) -> Option<Step> {
        // Whatever happens below, until a slot is reserved the block's bytes are not wanted.
        self.state = State::Skipping;
        let begun = self.node.clock.now();
        let tag = begin.tag;
        let (announced, crc) = (begin.length, begin.crc32);
        let put = match part_of(begin) {
            Ok(put) => put,
            Err(bad) => return Some(Step::Answer(answer::rejected(tag, bad))),
        };
        let room = self.node.put_room.clone();
        let pages = self.node.room_pages(announced);
        let Ok(Ok(room)) = timeout(ROOM_WAIT, room.acquire_many_owned(pages)).await else {
            return Some(Step::Answer(answer::declined(tag, Decline::Busy)));
        };
        match self.node.engine.reserve(&put).await {
            Ok(Reserved::Write(writer)) => {
                let deadline = Instant::now() + self.node.limits.part_deadline;
                self.state =
                    State::Filling(Box::new(Filling { tag, announced, crc, writer, begun, deadline, _room: room }));
                None
            }
            Ok(Reserved::Duplicate(None)) => {
                Some(Step::Answer(answer::outcome(tag, Outcome::Duplicate(v1::Duplicate {}))))
            }
            Ok(Reserved::Duplicate(Some(wait))) => {
                Some(self.when_durable(tag, begun, wait, Outcome::Duplicate(v1::Duplicate {})))
            }
            Ok(Reserved::Declined(decline)) => Some(Step::Answer(answer::declined(tag, decline))),
            Err(error) => Some(Step::Answer(answer::stopped(tag, error))),
        }
    }

    fn fill(&mut self, data: &[u8]) -> Option<Step> {
        let mut filling = match std::mem::replace(&mut self.state, State::Skipping) {
            State::Skipping => return None,
            State::Idle => {
                let value = format!("{} bytes outside a block", data.len());
                let remedy = "announce each block with begin, and send no more bytes than announced";
                return Some(Step::Fail(BadField::new("data", value, remedy).into()));
            }
            State::Filling(filling) => filling,
        };
        if data.len() > tuning::DATA_BYTES_MAX {
            let remedy = format!("send at most {} bytes of data in one message", tuning::DATA_BYTES_MAX);
            let bad = BadField::new("data", format!("{} bytes long", data.len()), remedy);
            return Some(Step::Answer(answer::rejected(filling.tag, bad)));
        }
        if let Err(error) = filling.writer.write(data) {
            return Some(Step::Answer(answer::stopped(filling.tag, error)));
        }
        if filling.writer.missing_bytes() > 0 {
            self.state = State::Filling(filling);
            return None;
        }
        self.state = State::Idle;
        let Filling { tag, crc, writer, begun, .. } = *filling;
        Some(self.finished(tag, begun, writer.finish(crc)))
    }

    fn finished(&self, tag: u64, begun: Moment, put: Result<Put, EngineError>) -> Step {
        let stored =
            |crc32, durability: v1::Durability| Outcome::Stored(v1::Stored { crc32, durability: durability.into() });
        match put {
            Ok(Put::PartAccepted) => Step::Answer(answer::outcome(tag, Outcome::PartAccepted(v1::PartAccepted {}))),
            Ok(Put::Stored { crc, durable: None }) => {
                self.node.time_put(begun);
                Step::Answer(answer::outcome(tag, stored(crc, v1::Durability::Volatile)))
            }
            Ok(Put::Stored { crc, durable: Some(wait) }) => {
                self.when_durable(tag, begun, wait, stored(crc, v1::Durability::Durable))
            }
            Ok(Put::Declined(decline)) => Step::Answer(answer::declined(tag, decline)),
            Err(error) => Step::Answer(answer::stopped(tag, error)),
        }
    }

    fn when_durable(&self, tag: u64, begun: Moment, wait: DurableWait, then: Outcome) -> Step {
        let node = Arc::clone(&self.node);
        Step::Wait(Box::pin(async move {
            match wait.0.await {
                Ok(()) => {
                    node.time_put(begun);
                    answer::outcome(tag, then)
                }
                Err(decline) => answer::declined(tag, decline),
            }
        }))
    }
}

fn part_of(begin: v1::PutBegin) -> Result<PutPart, BadField> {
    Ok(PutPart {
        space: ask::space("space", &begin.space)?,
        key: ask::key("key", &begin.key)?,
        parent: begin.parent.map(|parent| ask::key("parent", &parent)).transpose()?,
        part: begin.part,
        length: begin.length,
        durability: ask::durability(begin.durability)?,
    })
}
