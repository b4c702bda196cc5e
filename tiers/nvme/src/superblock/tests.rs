use proptest::prelude::*;

use super::*;

fn sample() -> Superblock {
    Superblock {
        node: NodeId(*b"0123456789abcdef"),
        device: 1,
        device_count: 2,
        bytes: 0x1_0000_0000,
        extent_bytes: 0x400_0000,
        first_extent_offset: 0x10_0000,
    }
}

fn resealed(mut page: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&page[..CRC_AT]);
    page[CRC_AT..SUPERBLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
    page
}

#[test]
fn the_bytes_on_disk_do_not_change_unnoticed() {
    let mut golden = vec![0; 4096];
    golden[..8].copy_from_slice(b"KVTIERNV");
    golden[8] = 1;
    golden[16..32].copy_from_slice(b"0123456789abcdef");
    golden[32] = 1;
    golden[34] = 2;
    golden[44] = 1;
    golden[51] = 4;
    golden[58] = 0x10;
    golden[508..512].copy_from_slice(&[0xe5, 0xb7, 0x23, 0x68]);
    assert_eq!(sample().encode(), golden);
}

#[test]
fn a_superblock_reads_as_it_was_written() {
    assert_eq!(Superblock::decode(&sample().encode()), Ok(sample()));
}

#[test]
fn every_single_flipped_bit_is_noticed() {
    let page = sample().encode();
    for bit in 0..SUPERBLOCK_BYTES * 8 {
        let mut damaged = page.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Superblock::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn blank_foreign_newer_and_senseless_pages_are_told_apart() {
    assert_eq!(Superblock::decode(&[0; 4096]), Err(SuperblockError::Blank));
    assert_eq!(Superblock::decode(&[7; 4096]), Err(SuperblockError::Foreign));
    assert_eq!(Superblock::decode(&[0; 511]), Err(SuperblockError::Field("page length")));
    let mut newer = sample().encode();
    newer[8] = 2;
    assert_eq!(Superblock::decode(&newer), Err(SuperblockError::Checksum));
    assert_eq!(Superblock::decode(&resealed(newer)), Err(SuperblockError::Version(2)));
    let senseless = [
        ("device", Superblock { device: 2, ..sample() }),
        ("extent_bytes", Superblock { extent_bytes: 0, ..sample() }),
        ("extent_bytes", Superblock { extent_bytes: 5000, ..sample() }),
        ("first_extent_offset", Superblock { first_extent_offset: 0, ..sample() }),
        ("bytes", Superblock { bytes: 0x10_0000, ..sample() }),
        ("bytes", Superblock { bytes: 0, ..sample() }),
    ];
    for (name, superblock) in senseless {
        assert_eq!(Superblock::decode(&superblock.encode()), Err(SuperblockError::Field(name)));
    }
}

proptest! {
    #[test]
    fn any_sensible_superblock_survives_the_round_trip(
        node: [u8; 16],
        device in 0u16..64,
        more in 1u16..64,
        extents in 1u64..1000,
        extent_pages in 1u64..10_000,
        tail in 0u64..4096,
    ) {
        let extent_bytes = extent_pages * 4096;
        let superblock = Superblock {
            node: NodeId(node),
            device,
            device_count: device + more,
            bytes: (1 << 20) + extents * extent_bytes + tail,
            extent_bytes,
            first_extent_offset: 1 << 20,
        };
        prop_assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
    }

    #[test]
    fn no_page_makes_decoding_panic(page in proptest::collection::vec(any::<u8>(), 0..1024)) {
        prop_assert!(Superblock::decode(&page).is_err());
    }

    #[test]
    fn mutations_with_a_right_checksum_decode_within_bounds_or_not_at_all(
        edits in proptest::collection::vec((8usize..508, any::<u8>()), 1..20),
    ) {
        let mut page = sample().encode();
        edits.iter().for_each(|&(at, byte)| page[at] = byte);
        if let Ok(superblock) = Superblock::decode(&resealed(page)) {
            prop_assert!(superblock.device < superblock.device_count);
            prop_assert!(superblock.bytes - superblock.first_extent_offset >= superblock.extent_bytes);
        }
    }

    #[test]
    fn mutations_without_a_right_checksum_never_decode(
        edits in proptest::collection::vec((0usize..512, 1u8..), 1..4),
    ) {
        let mut page = sample().encode();
        edits.iter().for_each(|&(at, flip)| page[at] ^= flip);
        prop_assume!(page != sample().encode());
        prop_assert!(Superblock::decode(&page).is_err());
    }
}
