//! The names and keys of the column families. Drawn in `docs/FORMAT-index.md`.

use kvtier_engine::place::Slot;
use kvtier_identity::BlockId;

/// Block id, big endian (16 bytes) → entry.
pub const BLOCKS: &str = "blocks";
/// Space number, big endian (4 bytes) → space record.
pub const SPACES: &str = "spaces";
/// Device, offset and size of a slot, big endian (14 bytes) → version byte.
pub const QUARANTINE: &str = "quarantine";
/// Names in ASCII → the index's own facts.
pub const META: &str = "meta";
/// RocksDB insists on this one; it stays empty.
pub const DEFAULT: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;
/// Every column family.
pub const ALL: [&str; 5] = [DEFAULT, BLOCKS, SPACES, QUARANTINE, META];

/// `meta`: version of the format, `u32`, little endian.
pub const FORMAT: &[u8] = b"format";
/// `meta`: journal position the index covers, `u64`, little endian.
pub const COVERED: &[u8] = b"covered";
/// `meta`: identity of the data directory, 16 bytes.
pub const NODE: &[u8] = b"node";

/// The format this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// Key of a block. Big endian, so that the order of keys is the order of ids.
pub fn block_key(block: BlockId) -> [u8; 16] {
    block.0.to_be_bytes()
}

/// The block of a key, if it is one.
pub fn block_of(key: &[u8]) -> Option<BlockId> {
    Some(BlockId(u128::from_be_bytes(key.try_into().ok()?)))
}

/// Key of a space.
pub fn space_key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Key of a quarantined slot.
pub fn slot_key(slot: Slot) -> [u8; 14] {
    let mut key = [0; 14];
    key[0..2].copy_from_slice(&slot.device.to_be_bytes());
    key[2..10].copy_from_slice(&slot.offset.to_be_bytes());
    key[10..14].copy_from_slice(&slot.bytes.to_be_bytes());
    key
}

/// The slot of a key, if it is one.
pub fn slot_of(key: &[u8]) -> Option<Slot> {
    let (device, rest) = key.split_first_chunk::<2>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let bytes: [u8; 4] = rest.try_into().ok()?;
    Some(Slot {
        device: u16::from_be_bytes(*device),
        offset: u64::from_be_bytes(*offset),
        bytes: u32::from_be_bytes(bytes),
    })
}
