//! The event log: at once the commit log of persistent blocks and the stream subscribers read.

use kvtier_identity::{BlockId, Key, SpaceDescription, SpaceDigest};
use serde::{Deserialize, Serialize};

use super::BoxFuture;
use crate::place::{Slot, TierKind};

/// A place in the event log. Within an epoch `seq` grows by one per record; a new epoch may begin further on, so that no
/// number is ever used twice, not even one whose record was lost. `epoch` is the incarnation that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Incarnation of the log.
    pub epoch: u64,
    /// Sequence number; the first record ever is 1.
    pub seq: u64,
}

/// A space as the log and the index keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceRecord {
    /// Small number used in index entries; never reused on a node.
    pub number: u32,
    /// Name for people.
    pub name: String,
    /// Digest of `description`.
    pub digest: SpaceDigest,
    /// What the client declared.
    pub description: SpaceDescription,
}

/// Why a copy of a block went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RemovalCause {
    /// Room was needed.
    Evicted,
    /// Its bytes did not verify.
    Corrupt,
    /// A client deleted it.
    Deleted,
    /// Its space was dropped.
    SpaceDropped,
    /// Its device went away.
    TierDown,
}

impl RemovalCause {
    /// The name used in metrics and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Corrupt => "corrupt",
            Self::Deleted => "deleted",
            Self::SpaceDropped => "space_dropped",
            Self::TierDown => "tier_down",
        }
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A new epoch began: volatile tiers are empty, and subscribers start over (INV-6).
    Reset {
        /// The new epoch.
        epoch: u64,
        /// Why, for people.
        reason: String,
    },
    /// A space was opened. Boxed: it is rare, and would make every record of a queue three times as large.
    SpaceOpened(Box<SpaceRecord>),
    /// A space and all its blocks were dropped.
    SpaceDropped {
        /// Its number.
        space: u32,
        /// Its digest.
        digest: SpaceDigest,
    },
    /// A block became visible in the host tier. Volatile.
    StoredHost {
        /// The block.
        block: BlockId,
        /// Its space's number.
        space: u32,
        /// The engine's key.
        key: Key,
        /// The block before it in its chain.
        parent: Option<BlockId>,
        /// Payload bytes.
        length: u32,
    },
    /// A block became durable on NVMe: the commit record.
    StoredNvme {
        /// The block.
        block: BlockId,
        /// Everything the index keeps.
        entry: super::IndexEntry,
    },
    /// A copy went away.
    Removed {
        /// The block.
        block: BlockId,
        /// Its space's number.
        space: u32,
        /// From which tier.
        tier: TierKind,
        /// Why.
        cause: RemovalCause,
    },
    /// A slot must not be used again until an operator acts: its device returned wrong bytes.
    Quarantined {
        /// The slot.
        slot: Slot,
    },
    /// An engine has told that a block is in its own memory. Volatile.
    EngineStored {
        /// The engine's name.
        engine: String,
        /// [`TierKind::Hbm`] or [`TierKind::Engine`].
        tier: TierKind,
        /// The block.
        block: BlockId,
        /// Its space's number.
        space: u32,
        /// The engine's key.
        key: Key,
        /// The block before it in its chain.
        parent: Option<BlockId>,
    },
    /// A block has left an engine's memory.
    EngineRemoved {
        /// The engine's name.
        engine: String,
        /// From which memory.
        tier: TierKind,
        /// The block.
        block: BlockId,
        /// Its space's number.
        space: u32,
    },
    /// Nothing is known any more of what an engine holds.
    EngineReset {
        /// The engine's name.
        engine: String,
        /// Why, for people.
        reason: String,
    },
}

/// Why the journal took nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// The buffer of records that wait for the disk is full; try again (INV-5).
    #[error("the journal's buffer is full")]
    Busy,
    /// The metadata disk is full. The journal resumes by itself with a new epoch.
    #[error("the journal is suspended: {0}")]
    Suspended(String),
    /// A sync failed; only a restart helps (INV-7).
    #[error("the journal is poisoned: {0}")]
    Poisoned(String),
}

/// Why a position did not become durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The record was not written: disk full.
    #[error("the journal is suspended: {0}")]
    Suspended(String),
    /// A write or sync failed; what is on disk is unknown.
    #[error("the journal is poisoned: {0}")]
    Poisoned(String),
}

/// Why a read was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefused {
    /// Retention has deleted records after this position.
    #[error("position {asked} is forgotten, the oldest readable is {oldest}")]
    Forgotten {
        /// What was asked for.
        asked: u64,
        /// The oldest `after` that can be read from.
        oldest: u64,
    },
    /// Nothing has been written there yet.
    #[error("position {asked} lies ahead, the newest is {newest}")]
    Future {
        /// What was asked for.
        asked: u64,
        /// The newest sequence number.
        newest: u64,
    },
    /// The log could not be read.
    #[error("the journal could not be read: {0}")]
    Unreadable(String),
}

/// Condition of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalState {
    /// Takes records.
    Open,
    /// Disk full; resumes by itself.
    Suspended(String),
    /// Failed for good.
    Poisoned(String),
}

/// What `status` and the metrics show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStatus {
    /// Current epoch.
    pub epoch: u64,
    /// Last number before the epoch's own: those of older epochs, and those that were skipped or lost between.
    pub epoch_base_seq: u64,
    /// Oldest readable sequence number.
    pub first_seq: u64,
    /// Last sequence number given out.
    pub appended_seq: u64,
    /// Last sequence number on stable storage.
    pub durable_seq: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Condition.
    pub state: JournalState,
}

impl JournalStatus {
    /// The newest durable position *of the current epoch*. Until its first record (the reset) is durable that is the place
    /// before it: a position never pairs an epoch with a number of another one.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.durable_seq.max(self.epoch_base_seq) }
    }
}

/// The log.
pub trait Journal: Send + Sync + 'static {
    /// Whether a decision may be taken whose records must be journaled: refuses when the queue has reached its soft bound
    /// (`Busy`), while suspended and when poisoned. The engine asks before it decides; what it decided after an `Ok` fits
    /// in the slack between the soft bound and the hard one of [`Journal::append`].
    fn ready(&self) -> Result<(), AppendRefused>;
    /// Gives the records consecutive sequence numbers and queues them: all or none, at once, without waiting. The
    /// engine calls it while it holds its core, so the order of the log is the order of decisions. Returns the
    /// position of the last record. Never answers `Busy`: past its hard bound the journal drops its queue, suspends
    /// itself and continues in a new epoch (INV-6), because a decision that was taken cannot be taken back.
    fn append(&self, records: Vec<Record>) -> Result<Position, AppendRefused>;
    /// Resolves when the record `seq` and all before it in its epoch are on stable storage (group commit).
    fn durable(&self, seq: u64) -> BoxFuture<Result<(), JournalError>>;
    /// Durable records after `after`, oldest first, at most `count_max`; empty when there are none yet.
    fn read(&self, after: u64, count_max: usize) -> BoxFuture<Result<Vec<(Position, Record)>, ReadRefused>>;
    /// Resolves when a record after `after` is durable.
    fn grown(&self, after: u64) -> BoxFuture<()>;
    /// The index holds everything up to `seq` on stable storage: older segments may go when retention says so.
    fn covered(&self, seq: u64);
    /// Condition and counters.
    fn status(&self) -> JournalStatus;
}
