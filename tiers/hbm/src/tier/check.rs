//! Whether bytes are the block that was asked for (INV-1).

use kvtier_engine::header::{HEADER_BYTES, SlotHeader};
use kvtier_engine::place::Slot;
use kvtier_engine::port::{Memory, tier::Expect};

/// Reasons of `LoadOutcome::Corrupt` and `StoreOutcome::Corrupt`, for metrics and logs.
pub mod reason {
    /// The slot was never written, or its header does not verify.
    pub const HEADER: &str = "slot header does not verify";
    /// Another block, store, length or checksum is there.
    pub const OTHER: &str = "slot holds something else";
    /// The payload's bytes are not what header and index state.
    pub const PAYLOAD: &str = "payload checksum disagrees";
    /// The slot names a GPU that the tier does not have.
    pub const NO_DEVICE: &str = "slot names no GPU";
    /// Host memory no longer holds what was committed.
    pub const HOST_PAYLOAD: &str = "host payload checksum disagrees";
}

/// Compares a header page's first bytes with what the index knows.
pub(super) fn check_header(page: &[u8], expect: &Expect) -> Result<(), &'static str> {
    let header = SlotHeader::decode(page, crc32fast::hash).map_err(|_| reason::HEADER)?;
    let found = Expect { block: header.block, length: header.length, crc: header.crc, generation: header.generation };
    if found == *expect { Ok(()) } else { Err(reason::OTHER) }
}

/// Compares a whole slot in host memory, header page and payload, with what the index knows.
pub(super) fn check_block(memory: &dyn Memory, slot: Slot, expect: &Expect) -> Result<(), &'static str> {
    let mut header = [0; HEADER_BYTES];
    memory.read_header(slot, &mut header);
    check_header(&header, expect)?;
    if memory.checksum(slot, 0, expect.length) == expect.crc { Ok(()) } else { Err(reason::PAYLOAD) }
}
