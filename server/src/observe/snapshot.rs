//! The figures of a node at one moment, as plain numbers.
//!
//! Whoever assembles the engine implements [`SnapshotSource`]; the only engine type here is a histogram. Counters count from
//! the start of the process and never fall. Labels come from small fixed sets: a label made of a key, a space or an
//! address would make the number of series unbounded.

use kvtier_engine::flow::meter::LatencyCount;

/// Answers with the figures of now. Called at each scrape, from a thread that may wait for a lock, never for a disk.
pub trait SnapshotSource: Send + Sync + 'static {
    /// The figures.
    fn snapshot(&self) -> NodeSnapshot;
}

/// A count per reason; the reasons are fixed words such as `evicted`.
pub type ByReason = Vec<(&'static str, u64)>;

/// Everything metrics show of the node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeSnapshot {
    /// One entry per tier that is set up.
    pub tiers: Vec<TierSnapshot>,
    /// One entry per domain of the host tier.
    pub domains: Vec<DomainSnapshot>,
    /// Blocks that were asked for and not found.
    pub misses: ByReason,
    /// The event log.
    pub journal: JournalSnapshot,
    /// The index.
    pub index: IndexSnapshot,
    /// Leases that are held.
    pub leases: u64,
    /// Blocks under at least one lease or pin.
    pub leased_blocks: u64,
    /// Pins that are held.
    pub pins: u64,
    /// Bytes under pins.
    pub pinned_bytes: u64,
    /// Blocks that have begun to arrive and are not complete.
    pub pending_puts: u64,
    /// Bytes of the host arena they hold.
    pub put_in_flight_bytes: u64,
    /// Open spaces.
    pub spaces: u64,
    /// Subscribers to the event log.
    pub subscribers: u64,
    /// Leases ended by their deadline.
    pub expired_leases: u64,
    /// Incomplete puts given up at their deadline.
    pub expired_puts: u64,
    /// Blocks verified by the scrubber.
    pub scrubbed_blocks: u64,
    /// Alarms by name, and whether they are raised.
    pub alarms: Vec<(&'static str, bool)>,
    /// Seconds the RAM index took to fill after the start; nothing while it fills.
    pub recovery_seconds: Option<f64>,
    /// Engines whose events are followed.
    pub followed: Vec<FollowedSnapshot>,
    /// The publisher of events in vLLM's format, if there is one.
    pub published: Option<PublishedSnapshot>,
}

/// One domain of the host tier.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DomainSnapshot {
    /// `node`, or the name of its section in the settings.
    pub name: String,
    /// Bytes of its arena.
    pub capacity_bytes: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Blocks it holds.
    pub blocks: u64,
    /// Blocks that had to leave for others of the domain.
    pub evictions: u64,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TierSnapshot {
    /// `hbm`, `host`, `nvme` or `archive`.
    pub tier: &'static str,
    /// Whether it takes loads and stores: not poisoned, breaker closed.
    pub up: bool,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Blocks it holds.
    pub blocks: u64,
    /// Blocks found here when they were asked for.
    pub hits: u64,
    /// Blocks that had to leave for others.
    pub evictions: u64,
    /// Blocks taken in.
    pub admitted: u64,
    /// Blocks not taken in.
    pub declined: ByReason,
    /// Operations waiting for its devices.
    pub queued: u64,
    /// Operations at its devices.
    pub in_flight: u64,
    /// Bytes read from its devices.
    pub read_bytes: u64,
    /// Bytes written to its devices.
    pub written_bytes: u64,
    /// Reads whose bytes did not verify.
    pub crc_failures: u64,
    /// Bytes of slots taken out of use because of that.
    pub quarantined_bytes: u64,
    /// How long its operations took, by kind: `load`, `store`, `sync`, `commit`.
    pub latencies: Vec<(&'static str, LatencyCount)>,
}

/// The event log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JournalSnapshot {
    /// Whether it takes records: neither suspended nor poisoned.
    pub up: bool,
    /// Incarnation.
    pub epoch: u64,
    /// Last sequence number given out.
    pub appended_seq: u64,
    /// Last sequence number on stable storage.
    pub durable_seq: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records it could not take.
    pub refused_records: u64,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IndexSnapshot {
    /// Event-log position it has applied.
    pub applied_seq: u64,
    /// Event-log position it holds on stable storage.
    pub covered_seq: u64,
    /// Whether the RAM index is still filling after a start.
    pub filling: bool,
    /// Blocks the RAM index has taken over since the start.
    pub filled_blocks: u64,
}

/// An engine whose events are followed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FollowedSnapshot {
    /// Its name; ranks apart.
    pub engine: String,
    /// 1 while it is connected.
    pub connected: u64,
    /// Blocks it is known to hold.
    pub blocks: u64,
    /// Batches taken in.
    pub batches: u64,
    /// Times an event was missing.
    pub gaps: u64,
    /// Batches that came by replay.
    pub replayed: u64,
    /// Times all of it had to be forgotten.
    pub resets: u64,
    /// Batches that could not be read.
    pub malformed: u64,
}

/// The publisher of events in vLLM's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishedSnapshot {
    /// Batches published.
    pub batches: u64,
    /// Batches that slow subscribers missed.
    pub missed: u64,
    /// Subscribers now.
    pub subscribers: u64,
}
