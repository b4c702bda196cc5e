//! Getting blocks: one verified block or one explained miss per key, in chain order.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tonic::Streaming;

use crate::assemble::Assembler;
use crate::call::Call;
use crate::lookup::check_chain;
use crate::{Client, ClientError, Lease, SpaceDigest, Tier, wire};

const GET: Call = Call::reading("get");

/// What became of one block that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum GetAnswer {
    /// It was there, and its bytes agree with their checksum.
    Block(Block),
    /// It was not there, and why.
    Miss(MissedBlock),
}

/// A verified block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Position in the lease or key list.
    pub index: u32,
    /// All parts, in the order of the space.
    pub bytes: Bytes,
    /// CRC-32 of `bytes`, already verified.
    pub crc32: u32,
    /// Where the daemon found it.
    pub tier: Tier,
}

/// A block that is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct MissedBlock {
    /// Position in the lease or key list.
    pub index: u32,
    /// Why, in the daemon's words.
    pub miss: wire::Miss,
}

/// The answers of one Get call. Dropping it cancels the call; the daemon stops sending.
#[derive(Debug)]
pub struct GetStream {
    client: Client,
    frames: Streaming<wire::GetResponse>,
    assembler: Assembler,
    stall_timeout: Duration,
    ended: bool,
}

impl Client {
    /// Gets the blocks of a chain. Every key is answered; a miss does not end the stream.
    pub async fn get_keys(&self, space: SpaceDigest, keys: &[Bytes]) -> Result<GetStream, ClientError> {
        check_chain(keys)?;
        let list = wire::KeyList { space: space.0.to_vec(), keys: keys.to_vec() };
        let request = wire::GetRequest { from: Some(wire::get_request::From::Keys(list)), first: 0, count: 0 };
        self.get(request, 0..length_u32(keys.len())).await
    }

    /// Gets the blocks a lease holds.
    pub async fn get_lease(&self, lease: &Lease) -> Result<GetStream, ClientError> {
        self.get_lease_range(lease, 0..lease.blocks).await
    }

    /// Gets some of the blocks a lease holds, by their positions in it; the answers carry the same positions.
    pub async fn get_lease_range(&self, lease: &Lease, range: Range<u32>) -> Result<GetStream, ClientError> {
        if range.is_empty() || range.end > lease.blocks {
            let remedy = format!("name a non-empty part of the lease's {} blocks", lease.blocks);
            return Err(ClientError::invalid("range", format!("{}..{}", range.start, range.end), remedy));
        }
        let from = Some(wire::get_request::From::Lease(lease.id.to_vec()));
        let request = wire::GetRequest { from, first: range.start, count: range.end - range.start };
        self.get(request, range).await
    }

    async fn get(&self, request: wire::GetRequest, expected: Range<u32>) -> Result<GetStream, ClientError> {
        let stall_timeout = self.options().stall_timeout;
        let mut wire = self.wire_for_gets();
        let frames = self.answer(GET, stall_timeout, wire.get(self.open_ended(request))).await?;
        let assembler = Assembler::new(expected.start, expected.end);
        Ok(GetStream { client: self.clone(), frames, assembler, stall_timeout, ended: false })
    }
}

impl GetStream {
    /// The next answer, or `None` after the last. After [`ClientError::Corrupt`] the stream goes on; after any other
    /// error it is over. Waits at most the stall timeout per message; a dropped wait loses nothing.
    pub async fn next(&mut self) -> Result<Option<GetAnswer>, ClientError> {
        while !self.ended {
            match self.accept_message().await {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => {
                    self.ended = !matches!(error, ClientError::Corrupt { .. });
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    async fn accept_message(&mut self) -> Result<Option<GetAnswer>, ClientError> {
        match tokio::time::timeout(self.stall_timeout, self.frames.message()).await {
            Ok(Ok(Some(message))) => self.assembler.accept(message),
            Ok(Ok(None)) => {
                self.ended = true;
                self.assembler.finish().map(|()| None)
            }
            Ok(Err(status)) => Err(self.client.explain(GET, self.stall_timeout, &status)),
            Err(_) => Err(GET.timed_out(self.stall_timeout)),
        }
    }

    /// The same answers as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<GetAnswer, ClientError>> + Send {
        futures::stream::unfold(self, |mut answers| async move {
            answers.next().await.transpose().map(|answer| (answer, answers))
        })
    }
}

fn length_u32(keys: usize) -> u32 {
    u32::try_from(keys).expect("check_chain bounds a chain at 65,536 keys")
}
