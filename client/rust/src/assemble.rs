//! Puts the frames of a Get stream together, and lets no block through whose checksum disagrees (INV-1).
//!
//! ```text
//!              frame 0, whole block                      answer
//!   between ------------------------> verify ----------------------> between, next index
//!      |                                ^                  miss          ^
//!      | frame 0, part of the block     | last byte                      |
//!      +-----------> partial -----------+          between --------------+
//!                     |   ^
//!                     +---+ next frame at the next offset
//! ```
//!
//! Whatever does not fit this picture is [`ClientError::Protocol`]: an index out of order, a frame at another offset,
//! a length or checksum that changes inside a block, an empty frame, bytes past the end, a stream that ends early.
//! A block in one frame keeps the bytes as received; a block in several is copied once, into memory of its announced
//! length, which is bounded before it is allocated.

use bytes::{Bytes, BytesMut};
use kvtier_identity::space::BLOCK_BYTES_MAX;

use crate::get::{Block, GetAnswer, MissedBlock};
use crate::{ClientError, Tier, wire};

const CALL: &str = "get";

/// The state between two messages of one Get stream.
#[derive(Debug)]
pub(crate) struct Assembler {
    next: u32,
    end: u32,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    length: u32,
    crc32: u32,
    tier: Tier,
    bytes: BytesMut,
}

impl Assembler {
    /// Expects an answer for every index from `first` up to `end`, which is excluded.
    pub(crate) fn new(first: u32, end: u32) -> Self {
        Self { next: first, end, partial: None }
    }

    /// Takes one message; `None` when the block needs more frames. After `Corrupt` the next block may follow.
    pub(crate) fn accept(&mut self, response: wire::GetResponse) -> Result<Option<GetAnswer>, ClientError> {
        let index = response.index;
        if index != self.next || index >= self.end {
            let expected = if self.next < self.end { self.next.to_string() } else { "the end".into() };
            return Err(broken(format!("an answer for block {index} came where {expected} was due")));
        }
        match response.answer {
            Some(wire::get_response::Answer::Frame(frame)) => self.accept_frame(index, frame),
            Some(wire::get_response::Answer::Miss(miss)) if self.partial.is_none() => {
                self.next += 1;
                Ok(Some(GetAnswer::Miss(MissedBlock { index, miss })))
            }
            Some(wire::get_response::Answer::Miss(_)) => Err(broken(format!("block {index} missed after it began"))),
            None => Err(broken(format!("the answer for block {index} is empty"))),
        }
    }

    /// Checks that the stream ended where it should.
    pub(crate) fn finish(&self) -> Result<(), ClientError> {
        if let Some(partial) = &self.partial {
            let (have, length) = (partial.bytes.len(), partial.length);
            return Err(broken(format!("the stream ended inside block {}, at byte {have} of {length}", self.next)));
        }
        if self.next < self.end {
            return Err(broken(format!("the stream ended before block {} of {}", self.next, self.end)));
        }
        Ok(())
    }

    fn accept_frame(&mut self, index: u32, frame: wire::BlockFrame) -> Result<Option<GetAnswer>, ClientError> {
        check_frame(index, &frame)?;
        let tier = frame.tier();
        let (length, announced) = (frame.length, frame.crc32);
        let whole = match self.partial.take() {
            None if frame.offset == 0 && frame.data.len() == length as usize => frame.data,
            partial => {
                let mut partial = partial.unwrap_or_else(|| Partial {
                    length,
                    crc32: announced,
                    tier,
                    bytes: BytesMut::with_capacity(length as usize),
                });
                partial.extend(index, &frame)?;
                if partial.bytes.len() < length as usize {
                    self.partial = Some(partial);
                    return Ok(None);
                }
                partial.bytes.freeze()
            }
        };
        self.next += 1;
        verify(index, whole, announced, tier).map(Some)
    }
}

impl Partial {
    fn extend(&mut self, index: u32, frame: &wire::BlockFrame) -> Result<(), ClientError> {
        if (frame.length, frame.crc32, frame.tier()) != (self.length, self.crc32, self.tier) {
            return Err(broken(format!("length, checksum or tier of block {index} changed between its frames")));
        }
        if frame.offset as usize != self.bytes.len() {
            let (offset, have) = (frame.offset, self.bytes.len());
            return Err(broken(format!("a frame of block {index} is at byte {offset}, byte {have} was due")));
        }
        self.bytes.extend_from_slice(&frame.data);
        Ok(())
    }
}

fn check_frame(index: u32, frame: &wire::BlockFrame) -> Result<(), ClientError> {
    let bytes = frame.data.len() as u64;
    if frame.length == 0 || frame.length > BLOCK_BYTES_MAX {
        return Err(broken(format!("block {index} is announced with {} bytes", frame.length)));
    }
    if bytes == 0 {
        return Err(broken(format!("a frame of block {index} is empty")));
    }
    if u64::from(frame.offset) + bytes > u64::from(frame.length) {
        let (offset, length) = (frame.offset, frame.length);
        return Err(broken(format!("a frame of block {index} has bytes {offset}+{bytes} of {length}")));
    }
    Ok(())
}

fn verify(index: u32, bytes: Bytes, announced: u32, tier: Tier) -> Result<GetAnswer, ClientError> {
    let found = crc32fast::hash(&bytes);
    if found != announced {
        return Err(ClientError::Corrupt { index, announced, found });
    }
    Ok(GetAnswer::Block(Block { index, bytes, crc32: found, tier }))
}

fn broken(detail: String) -> ClientError {
    ClientError::protocol(CALL, detail)
}

#[cfg(test)]
mod tests;
