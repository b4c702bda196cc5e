//! Where things are in a data file. Drawn in `docs/FORMAT-nvme.md`.
//!
//! ```text
//! 0         4 KiB            512 KiB     516 KiB        1 MiB
//! | superblock | zero ...... | its copy | zero ........ | extent 0 | extent 1 | ... | unused tail < one extent |
//! ```

use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_engine::port::DeviceGeometry;

/// Device offset of the first extent. What lies before holds the superblock twice and zeroes.
pub const FIRST_EXTENT_OFFSET: u64 = 1 << 20;
/// Device offsets of the superblock's two copies, the authoritative first.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 512 << 10];

/// How a data file of `bytes` bytes is cut into extents.
pub fn geometry(bytes: u64, extent_bytes: u64) -> DeviceGeometry {
    let room = bytes.saturating_sub(FIRST_EXTENT_OFFSET);
    DeviceGeometry { bytes: room / extent_bytes * extent_bytes, extent_bytes, first_extent_offset: FIRST_EXTENT_OFFSET }
}

/// Whether a block of `length` bytes can be in `slot` of a device; says why not. The index may be damaged or of
/// another time: nothing it says is trusted.
pub(crate) fn check_slot(geometry: &DeviceGeometry, slot: Slot, length: u32) -> Result<(), &'static str> {
    let first = geometry.first_extent_offset;
    let end = slot.offset.checked_add(u64::from(slot.bytes)).ok_or("slot lies outside the device")?;
    if slot.offset < first || end > first + geometry.bytes {
        return Err("slot lies outside the device");
    }
    if !slot.offset.is_multiple_of(PAGE_BYTES) || !u64::from(slot.bytes).is_multiple_of(PAGE_BYTES) {
        return Err("slot is not aligned to pages");
    }
    let extent_of = |at: u64| (at - first) / geometry.extent_bytes;
    if slot.bytes == 0 || extent_of(slot.offset) != extent_of(end - 1) {
        return Err("slot does not lie in one extent");
    }
    if length == 0 || u64::from(length) > u64::from(slot.bytes).saturating_sub(PAGE_BYTES) {
        return Err("block does not fit the slot");
    }
    debug_assert!(slot_bytes(length) <= slot.bytes, "rounding to pages keeps within a slot of pages");
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXTENT: u64 = 64 << 10;

    #[test]
    fn extents_begin_after_the_first_mib_and_a_tail_is_left_over() {
        let geometry = geometry(FIRST_EXTENT_OFFSET + 3 * EXTENT + 4096, EXTENT);
        assert_eq!((geometry.bytes, geometry.first_extent_offset), (3 * EXTENT, FIRST_EXTENT_OFFSET));
    }

    #[test]
    fn slots_outside_across_or_askew_are_refused() {
        let geometry = geometry(FIRST_EXTENT_OFFSET + 2 * EXTENT, EXTENT);
        let check = |offset, bytes, length| check_slot(&geometry, Slot { device: 0, offset, bytes }, length);
        let first = FIRST_EXTENT_OFFSET;
        assert_eq!(check(first, 8192, 4096), Ok(()));
        assert_eq!(check(first + EXTENT, EXTENT as u32, EXTENT as u32 - 4096), Ok(()));
        let outside = Err("slot lies outside the device");
        assert_eq!(check(first - 4096, 8192, 1), outside);
        assert_eq!(check(first + 2 * EXTENT - 4096, 8192, 1), outside);
        assert_eq!(check(u64::MAX - 4095, 8192, 1), outside);
        assert_eq!(check(first + 512, 8192, 1), Err("slot is not aligned to pages"));
        assert_eq!(check(first, 8193, 1), Err("slot is not aligned to pages"));
        assert_eq!(check(first + EXTENT - 4096, 8192, 1), Err("slot does not lie in one extent"));
        assert_eq!(check(first, 0, 1), Err("slot does not lie in one extent"));
        for (bytes, length) in [(8192, 4097), (8192, 0), (4096, 1), (8192, u32::MAX)] {
            assert_eq!(check(first, bytes, length), Err("block does not fit the slot"), "{bytes} {length}");
        }
    }

    proptest! {
        #[test]
        fn no_slot_makes_the_check_panic(offset: u64, bytes: u32, length: u32, size: u64) {
            let geometry = geometry(size >> 8, EXTENT);
            let _ = check_slot(&geometry, Slot { device: 0, offset, bytes }, length);
        }
    }
}
