//! What the engine counts. Plain atomics; the daemon turns a snapshot into metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::catalog::plan::{Decline, Miss, MissReason, Resident};
use crate::place::TierKind;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the latency buckets, in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 16] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// A histogram of durations over [`LATENCY_BOUNDS_US`].
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

/// A histogram as read: one count per bucket (not cumulative) and the sum of all durations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LatencyCount {
    /// One per bound of [`LATENCY_BOUNDS_US`], and one for everything above.
    pub buckets: Vec<u64>,
    /// Sum in microseconds.
    pub sum_us: u64,
}

impl Latency {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].add(1);
        self.sum_us.add(us);
    }

    /// The counts now.
    pub fn count(&self) -> LatencyCount {
        LatencyCount { buckets: self.buckets.iter().map(Counter::get).collect(), sum_us: self.sum_us.get() }
    }
}

/// Counters of one tier.
#[derive(Debug, Default)]
pub struct TierMeter {
    /// Blocks found here by lookups.
    pub lookup_hits: Counter,
    /// Blocks delivered from here.
    pub hits: Counter,
    /// Payload bytes delivered from here.
    pub hit_bytes: Counter,
    /// Blocks stored here.
    pub stores: Counter,
    /// Blocks brought up from here.
    pub loads: Counter,
    /// Blocks that did not verify.
    pub corrupt: Counter,
    /// Loads the device did not answer.
    pub load_failures: Counter,
    /// Syncs that failed.
    pub sync_failures: Counter,
}

/// Everything the engine counts.
#[derive(Debug, Default)]
pub struct Meter {
    /// Host tier.
    pub host: TierMeter,
    /// NVMe tier.
    pub nvme: TierMeter,
    /// Lookups.
    pub lookups: Counter,
    /// Keys asked for by lookups.
    pub lookup_blocks: Counter,
    /// Blocks asked for by gets.
    pub get_blocks: Counter,
    /// Blocks handed to readers that share the host memory, in place.
    pub acquired_blocks: Counter,
    /// Payload bytes of those.
    pub acquired_bytes: Counter,
    /// Payload bytes of gets that were given to a stream, which copies them once into what it sends.
    pub get_copied_bytes: Counter,
    /// Payload bytes of puts that were copied into host memory.
    pub put_copied_bytes: Counter,
    /// Payload bytes of puts that their writers had written in place.
    pub put_in_place_bytes: Counter,
    /// Puts of blocks that were there.
    pub duplicates: Counter,
    /// Blocks queued for NVMe by the admission policy.
    pub admitted: Counter,
    /// Blocks the admission policy kept off NVMe.
    pub not_admitted: Counter,
    /// Puts whose bytes did not sum to what the client said.
    pub client_crc_failures: Counter,
    /// Records that could not be journaled: a gap, followed by a Reset.
    pub unjournaled_records: Counter,
    /// Leases ended by their deadline.
    pub expired_leases: Counter,
    /// Incomplete puts ended by their deadline.
    pub expired_puts: Counter,
    /// Blocks scrubbed.
    pub scrubbed: Counter,
    /// Index entries that named an impossible place.
    pub index_conflicts: Counter,
    /// Lookup, start to answer.
    pub lookup_latency: Latency,
    /// One batch from NVMe to host.
    pub load_latency: Latency,
    /// One batch from host to NVMe, committed.
    pub store_latency: Latency,
    /// One sync of the devices a batch was written to.
    pub sync_latency: Latency,
    /// From a batch's commit records to their being durable.
    pub commit_latency: Latency,
    declines: Mutex<BTreeMap<&'static str, u64>>,
    misses: Mutex<BTreeMap<&'static str, u64>>,
}

impl Meter {
    /// Counters of a tier that has blocks.
    pub fn tier(&self, tier: TierKind) -> &TierMeter {
        match tier {
            TierKind::Nvme | TierKind::Archive | TierKind::Engine => &self.nvme,
            TierKind::Host | TierKind::Hbm => &self.host,
        }
    }

    pub(crate) fn got(&self, tier: TierKind, bytes: u64) {
        self.tier(tier).hits.add(1);
        self.tier(tier).hit_bytes.add(bytes);
    }

    /// Notes a lookup; how much of what was found is on NVMe only.
    pub(crate) fn looked_up(&self, resident: &[Resident], asked: usize, miss: Option<&Miss>) -> u32 {
        self.lookups.add(1);
        self.lookup_blocks.add(asked as u64);
        let nvme = resident.iter().filter(|block| block.tier == TierKind::Nvme).count();
        self.nvme.lookup_hits.add(nvme as u64);
        self.host.lookup_hits.add((resident.len() - nvme) as u64);
        if let Some(miss) = miss {
            self.missed(miss.reason);
        }
        nvme as u32
    }

    pub(crate) fn missed(&self, reason: MissReason) {
        let mut misses = self.misses.lock().expect("nobody panics while counting");
        *misses.entry(miss_name(reason)).or_default() += 1;
    }

    pub(crate) fn declined(&self, decline: Decline) {
        let mut declines = self.declines.lock().expect("nobody panics while counting");
        *declines.entry(decline.name()).or_default() += 1;
    }

    /// Refusals by reason.
    pub fn declines(&self) -> BTreeMap<&'static str, u64> {
        self.declines.lock().expect("nobody panics while counting").clone()
    }

    /// Misses by reason: the first missing block of each lookup, and every missing block of a get.
    pub fn misses(&self) -> BTreeMap<&'static str, u64> {
        self.misses.lock().expect("nobody panics while counting").clone()
    }
}

/// The name of a miss reason in metrics.
pub fn miss_name(reason: MissReason) -> &'static str {
    match reason {
        MissReason::NeverStored => "never_stored",
        MissReason::Removed(cause) => cause.name(),
        MissReason::Declined(_) => "declined",
        MissReason::TierDown => "tier_unavailable",
        MissReason::Throttled => "throttled",
        MissReason::Incomplete => "incomplete",
    }
}
