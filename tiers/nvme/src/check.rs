//! Whether bytes are the block that was asked for (INV-1). Every read passes through here.

use kvtier_engine::header::{HEADER_BYTES, HeaderError, SlotHeader};
use kvtier_engine::place::Slot;
use kvtier_engine::port::{Memory, tier::Expect};

/// Reasons of `LoadOutcome::Corrupt` and `StoreOutcome::Corrupt`, for metrics and logs.
pub mod reason {
    /// The slot was never written, was zeroed, or holds something else.
    pub const NO_HEADER: &str = "no slot header";
    /// A bit of the header flipped, or it is torn.
    pub const HEADER_CHECKSUM: &str = "slot header checksum disagrees";
    /// The header is of a version this build does not read.
    pub const HEADER_VERSION: &str = "slot header is of another version";
    /// The header's checksum agrees but its content makes no sense.
    pub const HEADER_FIELD: &str = "slot header field is out of bounds";
    /// Another block is there: misdirected, swapped or overwritten.
    pub const OTHER_BLOCK: &str = "slot holds another block";
    /// The same block from another store of the slot: a lost or late write.
    pub const OTHER_GENERATION: &str = "slot holds another generation";
    /// The header states another length.
    pub const OTHER_LENGTH: &str = "slot holds another length";
    /// The header states another payload checksum.
    pub const OTHER_CHECKSUM: &str = "slot states another payload checksum";
    /// The payload's bytes are not what header and index state.
    pub const PAYLOAD: &str = "payload checksum disagrees";
    /// The slot names a device that the tier does not have.
    pub const NO_DEVICE: &str = "slot names no device";
    /// Host memory no longer holds what was committed.
    pub const HOST_PAYLOAD: &str = "host payload checksum disagrees";
}

/// Compares a header page's first bytes with what the index knows.
pub(crate) fn check_header(page: &[u8], expect: &Expect) -> Result<(), &'static str> {
    let header = SlotHeader::decode(page, crc32fast::hash).map_err(|error| match error {
        HeaderError::NotAHeader => reason::NO_HEADER,
        HeaderError::Checksum => reason::HEADER_CHECKSUM,
        HeaderError::Version(_) => reason::HEADER_VERSION,
        HeaderError::Field(_) => reason::HEADER_FIELD,
    })?;
    if header.block != expect.block {
        Err(reason::OTHER_BLOCK)
    } else if header.generation != expect.generation {
        Err(reason::OTHER_GENERATION)
    } else if header.length != expect.length {
        Err(reason::OTHER_LENGTH)
    } else if header.crc != expect.crc {
        Err(reason::OTHER_CHECKSUM)
    } else {
        Ok(())
    }
}

/// Compares a whole slot in host memory, header page and payload, with what the index knows.
pub(crate) fn check_block(memory: &dyn Memory, slot: Slot, expect: &Expect) -> Result<(), &'static str> {
    let mut header = [0; HEADER_BYTES];
    memory.read_header(slot, &mut header);
    check_header(&header, expect)?;
    if memory.checksum(slot, 0, expect.length) == expect.crc { Ok(()) } else { Err(reason::PAYLOAD) }
}
