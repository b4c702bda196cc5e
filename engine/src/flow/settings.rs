//! What the engine is built from: ports and bounds. Components come in here, never through a settings file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::{AdmissionKind, PolicyKind};
use crate::port::{Clock, Index, Journal, Memory, Random, Spawn, Tier};

/// Everything the engine needs from the world.
#[derive(Clone)]
pub struct Ports {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for lease ids.
    pub random: Arc<dyn Random>,
    /// Work that outlives its caller.
    pub spawn: Arc<dyn Spawn>,
    /// The host arenas.
    pub memory: Arc<dyn Memory>,
    /// The NVMe tier; none: everything is volatile.
    pub nvme: Option<Arc<dyn Tier>>,
    /// The event log.
    pub journal: Arc<dyn Journal>,
    /// The metadata index.
    pub index: Arc<dyn Index>,
}

/// Bounds and choices of the engine. Every field has a default that suits a node of any size.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Root of all tenant secrets; from the data directory's secret file.
    pub root_secret: [u8; 32],
    /// Tenants whose blocks have a host arena of their own: its number. All others share arena 0.
    pub host_domains: BTreeMap<String, u8>,
    /// Which block goes first.
    pub policy: PolicyKind,
    /// Which block is worth a write to NVMe.
    pub admission: AdmissionKind,
    /// Longest chain in one request, in keys.
    pub chain_keys_max: usize,
    /// Longest lease.
    pub lease_max: Duration,
    /// Most leases open at once.
    pub lease_count_max: u32,
    /// Longest pin.
    pub pin_ttl_max: Duration,
    /// Most named pins.
    pub pin_count_max: u32,
    /// Most payload bytes one space may pin.
    pub pin_quota_bytes: u64,
    /// When an incomplete block is given up.
    pub part_deadline: Duration,
    /// Most incomplete blocks.
    pub pending_count_max: u32,
    /// Entries of the history that explains misses.
    pub history_count_max: u32,
    /// Most blocks waiting to be written back.
    pub store_queue_count_max: usize,
    /// Most payload bytes in one write-back batch.
    pub store_batch_bytes_max: u64,
    /// Write-back batches in flight.
    pub store_flights_max: usize,
    /// How far a get reads ahead, in payload bytes.
    pub read_ahead_bytes: u64,
    /// How often the index is flushed.
    pub index_flush_interval: Duration,
    /// Scrub rate in idle time, in payload bytes per second; 0 = off.
    pub scrub_bytes_per_second: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            root_secret: [0; 32],
            host_domains: BTreeMap::new(),
            policy: PolicyKind::LeafLru,
            admission: AdmissionKind::All,
            chain_keys_max: 65_536,
            lease_max: Duration::from_secs(300),
            lease_count_max: 65_536,
            pin_ttl_max: Duration::from_secs(24 * 3600),
            pin_count_max: 16_384,
            pin_quota_bytes: u64::MAX,
            part_deadline: Duration::from_secs(30),
            pending_count_max: 16_384,
            history_count_max: 1 << 20,
            store_queue_count_max: 4096,
            store_batch_bytes_max: 16 << 20,
            store_flights_max: 4,
            read_ahead_bytes: 64 << 20,
            index_flush_interval: Duration::from_secs(10),
            scrub_bytes_per_second: 8 << 20,
        }
    }
}
