//! Where a block's bytes are: tier, device and slot.

use serde::{Deserialize, Serialize};

/// Granularity of slots, offsets and device I/O in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// The tiers, fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TierKind {
    /// GPU memory.
    Hbm,
    /// Pinned host memory.
    Host,
    /// Local NVMe.
    Nvme,
    /// S3, Azure or a directory.
    Archive,
    /// An engine's own memory, other than HBM: nothing of ours, only told of.
    Engine,
}

impl TierKind {
    /// The name used in metrics, logs and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hbm => "hbm",
            Self::Host => "host",
            Self::Nvme => "nvme",
            Self::Archive => "archive",
            Self::Engine => "engine",
        }
    }
}

/// A run of pages on one device of one tier: header page, then payload. Offset and size are multiples of
/// [`PAGE_BYTES`]. The same shape on the host arena and on NVMe, so that one transfer moves header and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// Which device (or arena) of the tier.
    pub device: u16,
    /// First byte of the slot on the device.
    pub offset: u64,
    /// Size in bytes, header page included.
    pub bytes: u32,
}

impl Slot {
    /// Largest payload the slot can hold, in bytes.
    pub fn payload_bytes_max(self) -> u32 {
        self.bytes - PAGE_BYTES as u32
    }

    /// Bytes a transfer of a block of `length` bytes moves: header page and payload rounded up to pages.
    pub fn transfer_bytes(self, length: u32) -> u32 {
        let bytes = slot_bytes(length);
        assert!(bytes <= self.bytes, "a block of {length} bytes does not fit a slot of {} bytes", self.bytes);
        bytes
    }
}

/// Size of the smallest slot for a payload of `length` bytes: a header page and whole payload pages.
pub fn slot_bytes(length: u32) -> u32 {
    let page = PAGE_BYTES as u32;
    page + length.div_ceil(page) * page
}
