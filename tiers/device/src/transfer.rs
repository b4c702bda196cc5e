//! What becomes of a batch: neighbours joined, giants cut, answers collected.
//!
//! ```text
//! submit(ops) ── plan ──> Transfer, Transfer, …  (each points to its Batch)
//!                              │ the device moves bytes; short moves are resumed (advance)
//!                              ▼
//!                finish ──> Batch: the last one drops the memory, then answers
//! ```
//!
//! A [`Batch`] owns its operations, and with them the memory, until its last transfer is finished (INV-8); every
//! transfer holds the batch. A transfer is either several whole operations, adjacent on disk *and* in memory, or one
//! piece of one operation. If a joined transfer fails it is scattered into its operations, so that one bad sector
//! fails one block and not its neighbours.
//!
//! A crash at any step loses only what was not synced: nothing here is persistent.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;

use crate::port::{DiskBuffer, DiskError, DiskOp, Priority};

/// Every offset, address and size is a multiple of this: what O_DIRECT asks for on all devices we know.
pub const ALIGNMENT_BYTES: u64 = 4096;

/// How often a transfer that makes no progress is offered to the device again.
const TRIES_MAX: u8 = 16;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The answers of a batch, in its order.
pub(crate) type Answers = Vec<Result<(), DiskError>>;

/// What a batch must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits<'a> {
    /// Size of the disk.
    pub(crate) disk_bytes: u64,
    /// Longest transfer.
    pub(crate) transfer_bytes_max: u32,
    /// Why writes are refused, if they are (INV-7).
    pub(crate) poisoned: Option<&'a str>,
}

/// A batch on its way: transfers to do, and where the answers come out.
pub(crate) struct Plan {
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) answers: oneshot::Receiver<Answers>,
}

/// One move of bytes between the disk and memory.
pub(crate) struct Transfer {
    pub(crate) direction: Direction,
    pub(crate) priority: Priority,
    /// Where on the disk.
    pub(crate) offset: u64,
    /// Where in memory.
    pub(crate) address: usize,
    /// How much in all.
    pub(crate) bytes: u32,
    /// How much has been moved.
    pub(crate) done: u32,
    tries: u8,
    /// Which entries of the batch's order it serves.
    members: Range<u32>,
    batch: Arc<Batch>,
}

/// What a device's answer means for a transfer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All bytes are moved.
    Whole,
    /// Go on behind `done`.
    Resume,
    /// It cannot be done.
    Failed(String),
}

struct Batch {
    state: Mutex<BatchState>,
}

struct BatchState {
    /// The operations: they own the memory.
    ops: Vec<DiskOp>,
    /// The valid operations' indices, by direction and place on the disk.
    order: Vec<u32>,
    results: Answers,
    /// Transfers not yet finished.
    unfinished_count: u32,
    answer: Option<oneshot::Sender<Answers>>,
}

/// Checks, joins and cuts a batch.
pub(crate) fn plan(ops: Vec<DiskOp>, priority: Priority, limits: Limits<'_>) -> Plan {
    let (answer, answers) = oneshot::channel();
    let results: Answers = ops.iter().map(|op| check(op, limits)).collect();
    let mut order: Vec<u32> = (0..ops.len() as u32).filter(|index| results[*index as usize].is_ok()).collect();
    order.sort_by_key(|index| place(&ops[*index as usize]));
    let pieces = cut(&ops, &order, limits.transfer_bytes_max);
    let unfinished_count = pieces.len() as u32;
    let state = BatchState { ops, order, results, unfinished_count, answer: Some(answer) };
    let batch = Arc::new(Batch { state: Mutex::new(state) });
    if pieces.is_empty() {
        batch.close();
    }
    let transfers = pieces
        .into_iter()
        .map(|piece| Transfer {
            direction: piece.direction,
            priority,
            offset: piece.offset,
            address: piece.address,
            bytes: piece.bytes,
            done: 0,
            tries: 0,
            members: piece.members,
            batch: Arc::clone(&batch),
        })
        .collect();
    Plan { transfers, answers }
}

struct Piece {
    direction: Direction,
    offset: u64,
    address: usize,
    bytes: u32,
    members: Range<u32>,
}

impl Piece {
    fn of(op: &DiskOp, position: u32) -> Self {
        let (direction, offset, buffer) = parts(op);
        Self { direction, offset, address: buffer.address, bytes: buffer.bytes, members: position..position + 1 }
    }

    /// Takes the next operation in if it goes on where this one ends, on the disk and in memory.
    fn join(&mut self, next: &Self, bytes_max: u32) -> bool {
        let neighbours = self.direction == next.direction
            && self.offset + u64::from(self.bytes) == next.offset
            && self.address + self.bytes as usize == next.address
            && u64::from(self.bytes) + u64::from(next.bytes) <= u64::from(bytes_max);
        if neighbours {
            self.bytes += next.bytes;
            self.members.end = next.members.end;
        }
        neighbours
    }
}

fn cut(ops: &[DiskOp], order: &[u32], bytes_max: u32) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(order.len());
    for (position, index) in order.iter().enumerate() {
        let mut piece = Piece::of(&ops[*index as usize], position as u32);
        if pieces.last_mut().is_some_and(|last| last.join(&piece, bytes_max)) {
            continue;
        }
        while piece.bytes > bytes_max {
            pieces.push(Piece { bytes: bytes_max, members: piece.members.clone(), ..piece });
            piece.offset += u64::from(bytes_max);
            piece.address += bytes_max as usize;
            piece.bytes -= bytes_max;
        }
        pieces.push(piece);
    }
    pieces
}

fn parts(op: &DiskOp) -> (Direction, u64, &DiskBuffer) {
    match op {
        DiskOp::Read { offset, into } => (Direction::Read, *offset, into),
        DiskOp::Write { offset, from } => (Direction::Write, *offset, from),
    }
}

fn place(op: &DiskOp) -> (Direction, u64) {
    let (direction, offset, _) = parts(op);
    (direction, offset)
}

/// Whether a disk may take `op` at all.
pub(crate) fn check(op: &DiskOp, limits: Limits<'_>) -> Result<(), DiskError> {
    let (direction, offset, buffer) = parts(op);
    let name = direction.name();
    let bytes = u64::from(buffer.bytes);
    let aligned = |value: u64| value.is_multiple_of(ALIGNMENT_BYTES);
    if !(aligned(offset) && aligned(bytes) && aligned(buffer.address as u64)) || bytes == 0 {
        return Err(DiskError::Io(format!(
            "a {name} of {bytes} bytes at offset {offset}, memory at 4096 * n + {}: all must be multiples of \
             {ALIGNMENT_BYTES}, and there must be some bytes",
            buffer.address as u64 % ALIGNMENT_BYTES
        )));
    }
    if offset.checked_add(bytes).is_none_or(|end| end > limits.disk_bytes) {
        let disk_bytes = limits.disk_bytes;
        return Err(DiskError::Io(format!(
            "a {name} of {bytes} bytes at offset {offset} reaches over the end of a disk of {disk_bytes} bytes"
        )));
    }
    match limits.poisoned {
        Some(reason) if direction == Direction::Write => Err(DiskError::Poisoned(reason.to_owned())),
        _ => Ok(()),
    }
}

impl Transfer {
    /// Takes the device's answer: bytes moved just now, or what went wrong.
    pub(crate) fn advance(&mut self, moved: io::Result<u32>) -> Progress {
        let moved = match moved {
            Ok(bytes) => bytes,
            Err(error) => return self.retry_or_fail(&error),
        };
        assert!(moved <= self.bytes - self.done, "the device moved more than it was asked to");
        if moved == self.bytes - self.done {
            self.done = self.bytes;
            return Progress::Whole;
        }
        let whole_blocks = moved - moved % ALIGNMENT_BYTES as u32;
        if self.direction == Direction::Read && whole_blocks == 0 {
            return Progress::Failed(format!("{self}: the file ends before offset {}", self.position() + 4096));
        }
        self.done += whole_blocks;
        if whole_blocks == 0 {
            self.tries += 1;
        }
        if self.tries >= TRIES_MAX {
            return Progress::Failed(format!("{self}: the device takes no bytes at offset {}", self.position()));
        }
        Progress::Resume
    }

    fn retry_or_fail(&mut self, error: &io::Error) -> Progress {
        self.tries += 1;
        let passing = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
        if passing && self.tries < TRIES_MAX {
            return Progress::Resume;
        }
        Progress::Failed(format!("{self} failed: {error}"))
    }

    /// Where on the disk the rest goes.
    pub(crate) fn position(&self) -> u64 {
        self.offset + u64::from(self.done)
    }

    /// Where in memory the rest is.
    pub(crate) fn rest_address(&self) -> usize {
        self.address + self.done as usize
    }

    /// How much is left.
    pub(crate) fn rest_bytes(&self) -> u32 {
        self.bytes - self.done
    }

    /// Whether it serves several operations.
    pub(crate) fn is_joined(&self) -> bool {
        self.members.len() > 1
    }

    /// The operations of a joined transfer one by one, from their beginning.
    pub(crate) fn scatter(self) -> Vec<Self> {
        assert!(self.is_joined(), "only a joined transfer can be scattered");
        let mut state = self.batch.state();
        state.unfinished_count += self.members.len() as u32 - 1;
        let pieces: Vec<Piece> = self
            .members
            .clone()
            .map(|position| Piece::of(&state.ops[state.order[position as usize] as usize], position))
            .collect();
        drop(state);
        let single = |piece: Piece| Self {
            direction: self.direction,
            priority: self.priority,
            offset: piece.offset,
            address: piece.address,
            bytes: piece.bytes,
            done: 0,
            tries: 0,
            members: piece.members,
            batch: Arc::clone(&self.batch),
        };
        pieces.into_iter().map(single).collect()
    }

    /// Ends it. The last transfer of a batch lets go of the memory and then answers.
    pub(crate) fn finish(self, result: Result<(), DiskError>) {
        let mut state = self.batch.state();
        if let Err(error) = result {
            for position in self.members {
                let index = state.order[position as usize] as usize;
                state.results[index] = Err(error.clone());
            }
        }
        state.unfinished_count -= 1;
        let last = state.unfinished_count == 0;
        drop(state);
        if last {
            self.batch.close();
        }
    }
}

impl std::fmt::Display for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a {} of {} bytes at offset {}", self.direction.name(), self.bytes, self.offset)
    }
}

impl Batch {
    fn state(&self) -> std::sync::MutexGuard<'_, BatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the operations' memory, then sends the answers: whoever awaited them owns the memory alone again.
    fn close(&self) {
        let mut state = self.state();
        let ops = std::mem::take(&mut state.ops);
        let results = std::mem::take(&mut state.results);
        let answer = state.answer.take();
        drop(state);
        drop(ops);
        if let Some(answer) = answer {
            // Nobody listens if the future was dropped; the bytes were moved all the same.
            let _unheard = answer.send(results);
        }
    }
}

#[cfg(test)]
mod tests;
