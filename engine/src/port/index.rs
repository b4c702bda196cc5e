//! The metadata index: which persistent blocks there are, found by id after a restart before RAM knows them.
//!
//! The index has no log of its own. Each batch carries the journal position it covers; after a crash the index opens at
//! some covered position and the journal's tail is applied again.

use kvtier_identity::{BlockId, Key};
use serde::{Deserialize, Serialize};

use super::{BoxFuture, SpaceRecord};
use crate::place::Slot;

/// What the index keeps of one durable block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Number of its space.
    pub space: u32,
    /// The engine's key.
    pub key: Key,
    /// The block before it in its chain.
    pub parent: Option<BlockId>,
    /// Payload bytes.
    pub length: u32,
    /// CRC32 of the payload.
    pub crc: u32,
    /// Which store of the slot.
    pub generation: u64,
    /// Where the bytes are.
    pub slot: Slot,
}

/// One change of a batch, applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexChange {
    /// The block is durable at this place (replaces what was known).
    Put(BlockId, IndexEntry),
    /// The block is gone.
    Remove(BlockId),
    /// A space exists.
    PutSpace(Box<SpaceRecord>),
    /// A space does not exist any more. Its blocks are removed one by one.
    RemoveSpace(u32),
    /// A slot must not be used.
    Quarantine(Slot),
}

/// What the caller would do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The disk is full; the same call may succeed later.
    #[error("the index disk is full: {0}")]
    Full(String),
    /// The index cannot answer: "could not tell", never "not there".
    #[error("the index is unavailable: {0}")]
    Unavailable(String),
    /// The index is damaged; `kvtier fsck` explains.
    #[error("the index is corrupt: {0}")]
    Corrupt(String),
}

/// The index. Batches are atomic and become durable in order.
pub trait Index: Send + Sync + 'static {
    /// Applies a batch that brings the index to journal position `covers`.
    fn apply(&self, changes: Vec<IndexChange>, covers: u64) -> BoxFuture<Result<(), IndexError>>;
    /// Looks blocks up; answers are in the order of `blocks`.
    fn get_many(&self, blocks: Vec<BlockId>) -> BoxFuture<Result<Vec<Option<IndexEntry>>, IndexError>>;
    /// Up to `count_max` entries with ids above `after`, in id order: how RAM is filled.
    fn scan(
        &self,
        after: Option<BlockId>,
        count_max: usize,
    ) -> BoxFuture<Result<Vec<(BlockId, IndexEntry)>, IndexError>>;
    /// Every space.
    fn spaces(&self) -> BoxFuture<Result<Vec<SpaceRecord>, IndexError>>;
    /// Every quarantined slot.
    fn quarantined(&self) -> BoxFuture<Result<Vec<Slot>, IndexError>>;
    /// Makes every applied batch durable; returns the position now covered on stable storage.
    fn flush(&self) -> BoxFuture<Result<u64, IndexError>>;
    /// The position covered by what has been applied (0: empty).
    fn applied(&self) -> u64;
}
