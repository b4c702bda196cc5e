//! What a catalog is built from.

use crate::policy::{AdmissionKind, PolicyKind};
use crate::port::DeviceGeometry;

/// The most domains of the host tier.
pub const HOST_DOMAIN_COUNT_MAX: usize = 64;

/// Sizes, policies and bounds of a [`Catalog`](super::Catalog).
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// The host arenas, one per domain, in the order of `Slot::device`: 1 to [`HOST_DOMAIN_COUNT_MAX`].
    pub host: Vec<DeviceGeometry>,
    /// One geometry per NVMe device, in the order of `Slot::device`; empty: no NVMe tier.
    pub nvme: Vec<DeviceGeometry>,
    /// Eviction order of both tiers.
    pub policy: PolicyKind,
    /// What is written back without being asked for.
    pub admission: AdmissionKind,
    /// First generation of a store: `epoch << 40`, so that no generation ever repeats on a node.
    pub generation_first: u64,
    /// Removals and refusals remembered to explain misses (16 bytes each).
    pub history_count_max: u32,
    /// Open leases at a time.
    pub lease_count_max: u32,
    /// Incomplete puts at a time.
    pub pending_count_max: u32,
    /// Named pins at a time.
    pub pin_count_max: u32,
}
