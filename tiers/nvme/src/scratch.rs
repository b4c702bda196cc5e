//! The tier's own memory: one lane per device, for superblocks, probes and verification in place.
//!
//! A lane is a slot of a private arena. Its user holds the lane's lock until the device is done with it (INV-8), so
//! blocks larger than a lane pass through it piece by piece, one after the other.

use std::sync::Arc;

use bytes::Bytes;
use kvtier_device::DiskBuffer;
use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::Memory;

use crate::chunk::part;

/// Payload bytes of a lane: the most that is read at once.
pub(crate) const LANE_PAYLOAD_BYTES: u32 = 1 << 20;
const LANE_BYTES: u32 = LANE_PAYLOAD_BYTES + PAGE_BYTES as u32;

/// Bytes the scratch memory must have for this many devices.
pub fn scratch_bytes(device_count: usize) -> u64 {
    device_count as u64 * u64::from(LANE_BYTES)
}

/// One device's scratch slot.
pub(crate) struct Lane {
    memory: Arc<dyn Memory>,
    slot: Slot,
}

impl Lane {
    /// The lane of device number `device`. The memory has at least [`scratch_bytes`] of all devices.
    pub(crate) fn of_device(memory: &Arc<dyn Memory>, device: usize) -> Self {
        let offset = memory.geometry()[0].first_extent_offset + scratch_bytes(device);
        Self { memory: memory.clone(), slot: Slot { device: 0, offset, bytes: LANE_BYTES } }
    }

    /// Header page and the payload's beginning, for a device: `bytes` in all.
    pub(crate) fn head(&self, bytes: u32) -> DiskBuffer {
        self.part(0, bytes)
    }

    /// The payload's first `bytes` bytes, for a device.
    pub(crate) fn payload(&self, bytes: u32) -> DiskBuffer {
        self.part(PAGE_BYTES as u32, bytes)
    }

    /// Copies bytes to the payload's beginning.
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.memory.write(self.slot, 0, bytes);
    }

    /// The payload's first bytes.
    pub(crate) fn view(&self, bytes: u32) -> Bytes {
        self.memory.view(self.slot, 0, bytes, Box::new(()))
    }

    /// The header page's first bytes.
    pub(crate) fn read_header(&self, header: &mut [u8]) {
        self.memory.read_header(self.slot, header);
    }

    /// CRC32 of the payload's first bytes.
    pub(crate) fn checksum(&self, bytes: u32) -> u32 {
        self.memory.checksum(self.slot, 0, bytes)
    }

    /// CRC32 of two pieces joined.
    pub(crate) fn combine(&self, first: u32, second: u32, second_bytes: u32) -> u32 {
        self.memory.combine(first, second, u64::from(second_bytes))
    }

    /// Scratch memory is not registered with the device.
    fn part(&self, skip: u32, bytes: u32) -> DiskBuffer {
        DiskBuffer { arena_offset: None, ..part(&self.memory.region(self.slot), skip, bytes) }
    }
}
