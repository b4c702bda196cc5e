//! What the catalog answers: plans say what will happen, outcomes what did. Refusal is a value.

use std::iter::Sum;
use std::time::Duration;

use kvtier_identity::{BlockId, Key};

use crate::place::{Slot, TierKind};
use crate::port::tier::Expect;
use crate::port::{Moment, Record, RemovalCause};

/// Where a block's entry is in the catalog's slab. Only valid while the block is held, leased or in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u32);

/// Who holds a lease: one client of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(pub u128);

/// Names a lease; random, so that it cannot be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u128);

/// A block somebody wants to put, or one part of it.
#[derive(Debug, Clone)]
pub struct PutPlan {
    /// The block.
    pub block: BlockId,
    /// Its space's number.
    pub space: u32,
    /// The domain of its space: which host arena it goes to. The same for all blocks of a chain.
    pub domain: u8,
    /// The engine's key.
    pub key: Key,
    /// The block before it in its chain.
    pub parent: Option<BlockId>,
    /// Bytes of each part, in the order of the slot.
    pub part_bytes: Vec<u32>,
    /// Which part this writer brings.
    pub part: u16,
    /// When an incomplete block is given up.
    pub deadline: Moment,
}

/// Answer to a reservation.
#[derive(Debug)]
pub enum Reserve {
    /// Write the part here, then call `finish_part`.
    Write(PartClaim),
    /// The block is already visible.
    Duplicate,
    /// This part is already committed.
    PartTaken,
    /// Another put of this block declared other part sizes or another parent.
    Disagrees(&'static str),
    /// Refused.
    Declined(Decline),
}

/// A writer's right to fill one part of a slot. Must be given back with `finish_part`.
#[derive(Debug)]
pub struct PartClaim {
    /// The pending block.
    pub block: BlockId,
    /// Tells this pending put from a later one of the same block.
    pub pending: u64,
    /// Which part.
    pub part: u16,
    /// The block's host slot.
    pub slot: Slot,
    /// Payload offset of the part.
    pub offset: u32,
    /// Bytes of the part.
    pub length: u32,
    /// Copies that were evicted to make room, to be journaled in this order.
    pub records: Vec<Record>,
}

/// Answer to `finish_part`.
#[derive(Debug)]
pub enum PartOutcome {
    /// Other parts are still to come.
    Incomplete,
    /// The block is visible in the host tier; journal this.
    Visible {
        /// The block.
        index: BlockIndex,
        /// `StoredHost`.
        record: Record,
        /// CRC32 of the whole block.
        crc: u32,
        /// Whether the admission policy wants it on NVMe.
        admit: bool,
    },
    /// The pending put was given up meanwhile (deadline, deleted space): nothing is visible.
    GivenUp,
}

/// Why a put, a write-back or a pin was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decline {
    /// Every block of the host tier, or of the tenant's domain of it, is leased, pinned or in flight; or blocks on their
    /// way to NVMe have 7/8 of it, and the rest is kept for loads.
    HostFull,
    /// The same on NVMe.
    NvmeFull,
    /// The admission policy said no.
    NotAdmitted,
    /// The parent is not resident.
    ParentUnknown,
    /// No NVMe tier, poisoned, or its breaker is open.
    NvmeUnavailable,
    /// Metadata disk full or failed.
    JournalUnavailable,
    /// The daemon is draining.
    Draining,
    /// No extent can hold a slot of this size.
    TooLarge,
    /// A queue is full.
    Busy,
    /// The index is still filling after a restart.
    Recovering,
    /// Another put is writing this part right now.
    UnderWay,
}

impl Decline {
    /// The name used in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostFull => "host_full",
            Self::NvmeFull => "nvme_full",
            Self::NotAdmitted => "not_admitted",
            Self::ParentUnknown => "parent_unknown",
            Self::NvmeUnavailable => "nvme_unavailable",
            Self::JournalUnavailable => "journal_unavailable",
            Self::Draining => "draining",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Recovering => "recovering",
            Self::UnderWay => "under_way",
        }
    }
}

/// One block of a resident prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Its entry.
    pub index: BlockIndex,
    /// The fastest tier that holds it.
    pub tier: TierKind,
    /// Payload bytes.
    pub length: u32,
}

/// Why a block is not resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Miss {
    /// The reason.
    pub reason: MissReason,
    /// How long ago it went away, if the history remembers.
    pub age: Option<Duration>,
    /// From which tier.
    pub tier: Option<TierKind>,
}

/// Kinds of misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissReason {
    /// Not stored, as far as the bounded history remembers.
    NeverStored,
    /// Went away.
    Removed(RemovalCause),
    /// A put of it was refused.
    Declined(Decline),
    /// Resident, but its tier does not answer.
    TierDown,
    /// Resident, but no host slot could be had to bring it up.
    Throttled,
    /// Some parts have not been committed.
    Incomplete,
}

/// What must happen for a block to be readable in host memory.
#[derive(Debug)]
pub enum LoadPlan {
    /// It is; the entry is now held: give it back with `unhold`.
    Resident(HostCopy),
    /// Another flight is bringing it up: wait for it, then ask again.
    InFlight,
    /// Load it, then call `finish_load`.
    Load {
        /// The entry, held by the flight.
        index: BlockIndex,
        /// NVMe slot.
        from: Slot,
        /// Host slot, owned by the flight.
        into: Slot,
        /// What must be there.
        expect: Expect,
        /// Copies that were evicted to make room.
        records: Vec<Record>,
    },
    /// Not now, or not here.
    Miss(Miss),
}

/// A readable copy in host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCopy {
    /// The entry.
    pub index: BlockIndex,
    /// Where.
    pub slot: Slot,
    /// Payload bytes.
    pub length: u32,
    /// CRC32 of the payload.
    pub crc: u32,
}

/// What must happen for a block to be durable.
#[derive(Debug)]
pub enum StorePlan {
    /// It is.
    Durable,
    /// Another flight is storing it: wait for it, then ask again.
    InFlight,
    /// Store and sync it, journal `StoredNvme`, then call `finish_store`. The entry is held by the flight.
    Store {
        /// The entry.
        index: BlockIndex,
        /// Host slot.
        from: Slot,
        /// NVMe slot, owned by the flight.
        to: Slot,
        /// The block's name and shape for header and index.
        block: BlockId,
        /// What the index will say.
        entry: crate::port::IndexEntry,
        /// Copies that were evicted to make room.
        records: Vec<Record>,
    },
    /// Refused.
    Declined(Decline),
    /// The block is gone.
    Gone,
}

/// Why a lease could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No such lease, as far as is remembered.
    #[error("lease is unknown")]
    Unknown,
    /// Its deadline has passed or it was released.
    #[error("lease has ended")]
    Ended,
    /// It belongs to another client.
    #[error("lease belongs to another client")]
    Foreign,
    /// Too many leases are open.
    #[error("too many leases are open")]
    TooMany,
}

/// Counts of a tier, or of one domain of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierCount {
    /// Blocks with a copy in the tier.
    pub blocks: u64,
    /// Payload bytes of those copies.
    pub payload_bytes: u64,
    /// Bytes of the slots in use, quarantined ones included.
    pub slot_bytes: u64,
    /// Bytes of slots that are never used again, because their bytes did not verify.
    pub quarantined_bytes: u64,
    /// Bytes of all extents.
    pub capacity_bytes: u64,
    /// Copies evicted since start.
    pub evictions: u64,
    /// Copies removed because their bytes did not verify.
    pub corrupt: u64,
}

impl Sum for TierCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            blocks: sum.blocks + count.blocks,
            payload_bytes: sum.payload_bytes + count.payload_bytes,
            slot_bytes: sum.slot_bytes + count.slot_bytes,
            quarantined_bytes: sum.quarantined_bytes + count.quarantined_bytes,
            capacity_bytes: sum.capacity_bytes + count.capacity_bytes,
            evictions: sum.evictions + count.evictions,
            corrupt: sum.corrupt + count.corrupt,
        })
    }
}

/// What the catalog holds, for `status` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CatalogCount {
    /// Blocks in any tier.
    pub blocks: u64,
    /// Host tier.
    pub host: TierCount,
    /// NVMe tier.
    pub nvme: TierCount,
    /// Open leases.
    pub leases: u64,
    /// Blocks held by leases, pins, readers or flights.
    pub held_blocks: u64,
    /// Named pins.
    pub pins: u64,
    /// Payload bytes under pins; a block under two pins counts twice.
    pub pinned_bytes: u64,
    /// Puts that wait for parts.
    pub pending: u64,
    /// Bytes of RAM the metadata takes.
    pub metadata_bytes: u64,
}

/// Why blocks could not be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The space's pins would exceed their bound.
    #[error("a pin of {asked} bytes exceeds the quota: {used} of {max} bytes are pinned; unpin something or pin less")]
    Quota {
        /// Payload bytes of the blocks to be pinned.
        asked: u64,
        /// Payload bytes the space's other pins hold.
        used: u64,
        /// The bound.
        max: u64,
    },
    /// Too many pins are open.
    #[error("too many pins are open")]
    TooMany,
}

/// What `expire` ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expired {
    /// Leases past their deadline.
    pub leases: u32,
    /// Pins past their deadline.
    pub pins: u32,
    /// Puts that waited for parts too long.
    pub pending: u32,
    /// To be journaled in this order.
    pub records: Vec<Record>,
}

/// Answer to `finish_load`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadDone {
    /// The copy, held for the caller: give it back with `unhold`. `None`: the load failed, or the block was removed
    /// meanwhile; nothing is held.
    pub copy: Option<HostCopy>,
    /// To be journaled in this order.
    pub records: Vec<Record>,
}

/// What became of an index entry during recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The block is resident on NVMe now.
    Added(BlockIndex),
    /// Its NVMe copy is known already: nothing changed.
    Known,
    /// The entry does not hold, and this says why: its slot overlaps another's or a quarantined one, lies outside the
    /// device, or is too small; the host has other bytes under the key; the block would be its own ancestor; it was
    /// removed since recovery began. The NVMe copy is a miss, and nobody owns its slot: journal its removal.
    Conflict(&'static str),
}

/// One block as a snapshot for subscribers shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotBlock {
    /// The block.
    pub block: BlockId,
    /// Its space's number.
    pub space: u32,
    /// The block before it in its chain.
    pub parent: Option<BlockId>,
    /// Payload bytes.
    pub length: u32,
    /// Readable in host memory.
    pub host: bool,
    /// Durable on NVMe.
    pub nvme: bool,
    /// The engine's key: known for blocks with a host copy, otherwise the index has it.
    pub key: Option<Key>,
}
