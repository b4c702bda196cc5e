//! One tier as the catalog sees it: its slots, the eviction order of its copies, and its counts, domain by domain.
//!
//! ```text
//! host shelf   | domain 0: an arena, an order | domain 1: an arena, an order | ...      by the block's tenant
//! nvme shelf   | domain 0: every device, one order |                                    shared by all
//! ```
//!
//! Room in a domain is made by evicting copies of that domain, because slots and order of another are never looked at.

use super::entry::Level;
use super::plan::TierCount;
use super::slots::Slots;
use crate::policy::{Policy, PolicyKind, policy};
use crate::port::DeviceGeometry;

pub(super) struct Shelf {
    pub(super) domains: Vec<Domain>,
    /// One order per domain.
    pub(super) policy: Box<dyn Policy>,
    /// Copies in all domains.
    pub(super) blocks: u64,
}

/// The part of a tier in which some tenants' copies compete for room with each other, and with nobody else's.
pub(super) struct Domain {
    pub(super) slots: Slots,
    pub(super) blocks: u64,
    pub(super) payload_bytes: u64,
    pub(super) evictions: u64,
    pub(super) corrupt: u64,
    /// Slots of copies that are being written to NVMe, and cannot go before that is over. Host tier only.
    pub(super) storing_bytes: u64,
}

impl Shelf {
    /// The host tier: one domain per arena. The NVMe tier: one domain of all devices.
    pub(super) fn new(level: Level, geometry: &[DeviceGeometry], kind: PolicyKind, ghost_count: u32) -> Self {
        let domains: Vec<Domain> = match level {
            Level::Host => (0..).zip(geometry).map(|(device, arena)| Domain::new(device, &[*arena])).collect(),
            Level::Nvme => vec![Domain::new(0, geometry)],
        };
        Self { policy: policy(kind, domains.len(), ghost_count), domains, blocks: 0 }
    }

    pub(super) fn count(&self) -> TierCount {
        self.domains.iter().map(Domain::count).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.domains.iter().map(|domain| domain.slots.bytes()).sum::<u64>() + self.policy.bytes()
    }
}

impl Domain {
    fn new(device_first: u16, geometry: &[DeviceGeometry]) -> Self {
        let slots = Slots::new(device_first, geometry);
        Self { slots, blocks: 0, payload_bytes: 0, evictions: 0, corrupt: 0, storing_bytes: 0 }
    }

    /// Whether a new block may come although others are on their way to NVMe. They may have 7/8 of the room: what is
    /// loaded needs slots that are free or can be emptied at once, and must not wait for the device to take stores.
    pub(super) fn takes_puts(&self, slot_bytes: u64) -> bool {
        let most = self.slots.capacity_bytes() / 8 * 7;
        self.storing_bytes == 0 || self.storing_bytes + slot_bytes <= most
    }

    pub(super) fn count(&self) -> TierCount {
        TierCount {
            blocks: self.blocks,
            payload_bytes: self.payload_bytes,
            slot_bytes: self.slots.used_bytes(),
            quarantined_bytes: self.slots.quarantined_bytes(),
            capacity_bytes: self.slots.capacity_bytes(),
            evictions: self.evictions,
            corrupt: self.corrupt,
        }
    }
}
