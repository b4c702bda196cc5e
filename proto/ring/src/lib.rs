//! Two rings of frames in memory that a worker and the daemon share, so that a short request and its answer need no
//! system call while both ends look.
//!
//! ```text
//!   page 0   request written │ request read │ request asleep │ answer written │ answer read │ answer asleep
//!            one u64 each, a cache line apart
//!   then     16 KiB of requests, 16 KiB of answers: entries of  u64 length │ bytes, filled up to 8 …
//! ```
//!
//! *Who writes what.* `written` counts the bytes the sender has put there ever, `read` those the receiver has taken; a
//! place is a count modulo the size. Both only grow. An entry is published whole, by one store to `written`.
//!
//! *Sleep.* A receiver that stops looking sets `asleep` and looks once more; a sender that has published takes `asleep` back
//! and, if it was set, rings a bell of its own (here: a frame on the socket). One of the two always sees the other.
//!
//! *Trust.* The other end can write every byte at any time. So entries are copied out before they are understood, counts
//! are checked against the size, nothing is indexed by what was read without a mask, and the file is sealed against
//! shrinking. What does not add up is [`Broken`], and the connection ends. Each end only believes its own copy of its own
//! count.
//!
//! *A crash* of the sender before it publishes leaves nothing; of the receiver, a ring that fills up and is given up with the
//! connection.

#![deny(unsafe_code)]

mod memory;
mod patience;
mod receiver;
mod sender;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use patience::Patience;
pub use receiver::Receiver;
pub use sender::{Sender, Sent};

use memory::Memory;

/// Longest entry. What is longer goes over the socket.
pub const ENTRY_BYTES_MAX: usize = 8 << 10;
/// Bytes of the file.
pub const FILE_BYTES: u64 = (CONTROL_BYTES + 2 * LANE_BYTES) as u64;

const CONTROL_BYTES: usize = 4096;
const LANE_BYTES: usize = 16 << 10;
const WORD: usize = 8;
/// Between two control words, so that the two ends do not pull one cache line back and forth (two, as they are fetched in
/// pairs).
const LINE_WORDS: usize = 16;

/// What the other end wrote makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// One direction: where its words are.
#[derive(Debug, Clone)]
struct Lane {
    memory: Arc<Memory>,
    /// The first control word's index.
    control: usize,
    /// The first data word's index.
    first: usize,
}

impl Lane {
    fn requests(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), control: 0, first: CONTROL_BYTES / WORD }
    }

    fn answers(memory: &Arc<Memory>) -> Self {
        let first = (CONTROL_BYTES + LANE_BYTES) / WORD;
        Self { memory: Arc::clone(memory), control: 3 * LINE_WORDS, first }
    }

    fn written(&self) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(self.control)
    }

    fn read(&self) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(self.control + LINE_WORDS)
    }

    fn asleep(&self) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(self.control + 2 * LINE_WORDS)
    }

    /// The data word at a count of bytes, which is a multiple of 8.
    fn data(&self, count: u64) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(self.first + (count as usize % LANE_BYTES) / WORD)
    }
}

/// Bytes an entry takes in a ring.
const fn entry_bytes(length: usize) -> usize {
    WORD + length.next_multiple_of(WORD)
}

/// The daemon's end: it sends answers and receives requests. The file is the worker's.
pub fn create() -> io::Result<((Sender, Receiver), OwnedFd)> {
    let file = memory::sealed_file(FILE_BYTES)?;
    let memory = Arc::new(Memory::of_file(&file)?);
    Ok(((Sender::new(Lane::answers(&memory)), Receiver::new(Lane::requests(&memory))), file))
}

/// The worker's end: it sends requests and receives answers.
pub fn open(file: &OwnedFd) -> io::Result<(Sender, Receiver)> {
    let memory = Arc::new(Memory::of_file(file)?);
    Ok((Sender::new(Lane::requests(&memory)), Receiver::new(Lane::answers(&memory))))
}

#[cfg(test)]
mod tests;
