//! One tier as the catalog sees it: its slots, the eviction order of its copies, and its counts.

use super::plan::TierCount;
use super::slots::Slots;
use crate::policy::{Policy, PolicyKind, policy};
use crate::port::DeviceGeometry;

pub(super) struct Shelf {
    pub(super) slots: Slots,
    pub(super) policy: Box<dyn Policy>,
    pub(super) blocks: u64,
    pub(super) payload_bytes: u64,
    pub(super) evictions: u64,
    pub(super) corrupt: u64,
}

impl Shelf {
    pub(super) fn new(geometry: &[DeviceGeometry], kind: PolicyKind, ghost_count: u32) -> Self {
        Self {
            slots: Slots::new(geometry),
            policy: policy(kind, ghost_count),
            blocks: 0,
            payload_bytes: 0,
            evictions: 0,
            corrupt: 0,
        }
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

    pub(super) fn bytes(&self) -> u64 {
        self.slots.bytes() + self.policy.bytes()
    }
}
