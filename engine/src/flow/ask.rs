//! What a client may ask of the engine, and what it answers. No wire types here.

use std::time::Duration;

use bytes::Bytes;
use kvtier_identity::{BlockId, Key, SpaceDescription, SpaceDigest};

use crate::catalog::plan::{Decline, LeaseId, Miss};
use crate::place::TierKind;
use crate::port::{BoxFuture, Position, RemovalCause};

/// When a put is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// When the block is visible in the host tier.
    Volatile,
    /// When bytes and journal are synced on NVMe.
    Durable,
}

/// One part of a block to put.
#[derive(Debug, Clone)]
pub struct PutPart {
    /// The space.
    pub space: SpaceDigest,
    /// The engine's key.
    pub key: Key,
    /// Key of the block before it in its chain.
    pub parent: Option<Key>,
    /// Which part.
    pub part: u32,
    /// Bytes of this part.
    pub length: u64,
    /// When to acknowledge.
    pub durability: Durability,
}

/// Answer to [`PutPart`].
#[derive(Debug)]
pub enum Reserved {
    /// Write the bytes, then finish.
    Write(super::put::PartWriter),
    /// The block is there already. For a durable put the future says when the existing copy is durable, too.
    Duplicate(Option<DurableWait>),
    /// Refused.
    Declined(Decline),
}

/// Resolves when a block is durable, or says why it will not be.
pub struct DurableWait(pub BoxFuture<Result<(), Decline>>);

impl std::fmt::Debug for DurableWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DurableWait(..)")
    }
}

/// What a finished part led to.
#[derive(Debug)]
pub enum Put {
    /// Other parts are still to come.
    PartAccepted,
    /// The block is visible.
    Stored {
        /// CRC32 of the whole block.
        crc: u32,
        /// For a durable put: resolves when it is durable.
        durable: Option<DurableWait>,
    },
    /// Refused after all: its deadline passed, or the journal's buffer is full.
    Declined(Decline),
}

/// One block of a found prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundBlock {
    /// The fastest tier that holds it.
    pub tier: TierKind,
    /// Payload bytes.
    pub length: u32,
}

/// Answer to a lookup.
#[derive(Debug, Clone)]
pub struct Found {
    /// One per block of the longest resident prefix.
    pub prefix: Vec<FoundBlock>,
    /// The lease, if one was asked for and something is resident.
    pub lease: Option<LeaseGrant>,
    /// Why the block after the prefix missed; none if the whole chain is resident.
    pub miss: Option<Miss>,
}

/// A lease as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Its name.
    pub id: LeaseId,
    /// Wall-clock deadline in milliseconds since 1970.
    pub deadline_unix_ms: u64,
}

/// One block of a get.
#[derive(Debug, Clone)]
pub enum Got {
    /// The bytes. The view pins the host slot until its last clone is dropped.
    Block {
        /// Payload.
        bytes: Bytes,
        /// CRC32 of the payload.
        crc: u32,
        /// Where it was found.
        tier: TierKind,
    },
    /// Not there, and why.
    Miss(Miss),
}

/// Answer to a prefetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefetched {
    /// Already in the host tier.
    pub resident: u32,
    /// Loads started or joined.
    pub started: u32,
    /// Refused: no room.
    pub refused: u32,
}

/// Answer to a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// Length of the pinned prefix.
    pub blocks: u32,
    /// Payload bytes pinned.
    pub bytes: u64,
    /// Wall-clock deadline in milliseconds since 1970.
    pub deadline_unix_ms: u64,
}

/// A space as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceSummary {
    /// Name for people.
    pub name: String,
    /// Digest.
    pub digest: SpaceDigest,
    /// What was declared.
    pub description: SpaceDescription,
    /// Resident blocks.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeFrom {
    /// After a position the subscriber has seen. In an older epoch: Reset, snapshot, tail.
    After(Position),
    /// Reset, what is resident now, then the tail.
    Snapshot,
    /// Only what happens from now on.
    Tail,
}

/// One event of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Forget everything; `Stored` for all that is resident follows until `SnapshotEnd`.
    Reset {
        /// Current epoch.
        epoch: u64,
        /// Why.
        reason: String,
    },
    /// The snapshot is complete.
    SnapshotEnd,
    /// A copy became visible.
    Stored {
        /// Space.
        space: SpaceDigest,
        /// Block.
        block: BlockId,
        /// The engine's key.
        key: Key,
        /// The block before it.
        parent: Option<BlockId>,
        /// Payload bytes.
        length: u32,
        /// Tier.
        tier: TierKind,
    },
    /// A copy went away.
    Removed {
        /// Space.
        space: SpaceDigest,
        /// Block.
        block: BlockId,
        /// Tier.
        tier: TierKind,
        /// Why.
        cause: RemovalCause,
    },
    /// An engine has a block in its own memory.
    EngineStored {
        /// The engine's name.
        engine: String,
        /// Space.
        space: SpaceDigest,
        /// Block.
        block: BlockId,
        /// The engine's key.
        key: Key,
        /// The block before it.
        parent: Option<BlockId>,
        /// [`TierKind::Hbm`] or [`TierKind::Engine`].
        tier: TierKind,
    },
    /// It has not any more.
    EngineRemoved {
        /// The engine's name.
        engine: String,
        /// Space.
        space: SpaceDigest,
        /// Block.
        block: BlockId,
        /// Which memory.
        tier: TierKind,
    },
    /// Forget everything an engine has.
    EngineReset {
        /// The engine's name.
        engine: String,
        /// Why.
        reason: String,
    },
    /// A space was opened.
    SpaceOpened {
        /// Space.
        space: SpaceDigest,
        /// Name.
        name: String,
    },
    /// A space was dropped.
    SpaceDropped {
        /// Space.
        space: SpaceDigest,
    },
}

/// Progress of a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubProgress {
    /// Blocks that verified.
    pub verified: u64,
    /// Blocks that did not: quarantined.
    pub corrupt: u64,
    /// Blocks whose device did not answer.
    pub failed: u64,
    /// Persistent blocks when asked.
    pub total: u64,
    /// Whether the walk is complete.
    pub done: bool,
}

/// What a drain did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Blocks written back meanwhile.
    pub written_back: u64,
    /// Blocks still unwritten when time was up.
    pub abandoned: u64,
}

/// How long a lease or pin may last and how much may be asked: see `EngineSettings`.
pub(crate) fn clamp(asked: Duration, max: Duration) -> Duration {
    asked.min(max)
}
