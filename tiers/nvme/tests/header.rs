//! The slot header: golden bytes, and nothing that is thrown at its decoder comes back as another block.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use kvtier_engine::header::{HEADER_BYTES, HeaderError, SlotHeader};
use kvtier_identity::{BlockId, Key, SpaceDigest};
use proptest::prelude::*;

fn sample() -> SlotHeader {
    SlotHeader {
        block: BlockId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        space: SpaceDigest([0x5a; 32]),
        key: Key::new(b"block-hash").unwrap(),
        parent: Some(BlockId(0xffee_ddcc_bbaa_9988_7766_5544_3322_1100)),
        length: 0x0010_0000,
        crc: 0xdead_beef,
        generation: 0x0102_0304_0506_0708,
    }
}

fn resealed(mut page: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    let crc = crc32fast::hash(&page[..HEADER_BYTES - 4]);
    page[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    page
}

#[test]
fn the_bytes_on_disk_do_not_change_unnoticed() {
    let mut golden = [0; HEADER_BYTES];
    golden[..8].copy_from_slice(b"KVSL\x01\x00\x01\x00");
    golden[8..24].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    golden[24..32].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
    golden[32..36].copy_from_slice(&[0, 0, 0x10, 0]);
    golden[36..40].copy_from_slice(&[0xef, 0xbe, 0xad, 0xde]);
    golden[40..72].fill(0x5a);
    let parent = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    golden[72..88].copy_from_slice(&parent);
    golden[88] = 10;
    golden[96..106].copy_from_slice(b"block-hash");
    golden[252..].copy_from_slice(&[0xf4, 0x1f, 0x31, 0x93]);
    assert_eq!(sample().encode(crc32fast::hash), golden);
}

#[test]
fn every_single_flipped_bit_is_noticed() {
    let page = sample().encode(crc32fast::hash);
    for bit in 0..HEADER_BYTES * 8 {
        let mut damaged = page;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(SlotHeader::decode(&damaged, crc32fast::hash).is_err(), "bit {bit}");
    }
}

#[test]
fn other_versions_and_senseless_fields_are_refused_although_the_checksum_agrees() {
    let change = |at: usize, byte: u8| {
        let mut page = sample().encode(crc32fast::hash);
        page[at] = byte;
        SlotHeader::decode(&resealed(page), crc32fast::hash).unwrap_err()
    };
    assert_eq!(change(4, 2), HeaderError::Version(2));
    assert_eq!(change(88, 0), HeaderError::Field("key"));
    assert_eq!(change(88, 65), HeaderError::Field("key"));
    assert_eq!(change(88, 255), HeaderError::Field("key"));
    assert_eq!(change(34, 0), HeaderError::Field("length"));
    assert_eq!(change(0, b'k'), HeaderError::NotAHeader);
}

fn any_header() -> impl Strategy<Value = SlotHeader> {
    let key = proptest::collection::vec(any::<u8>(), 1..=64);
    (any::<u128>(), any::<[u8; 32]>(), key, any::<Option<u128>>(), 1u32.., any::<u32>(), any::<u64>()).prop_map(
        |(block, space, key, parent, length, crc, generation)| SlotHeader {
            block: BlockId(block),
            space: SpaceDigest(space),
            key: Key::new(&key).unwrap(),
            parent: parent.map(BlockId),
            length,
            crc,
            generation,
        },
    )
}

proptest! {
    #[test]
    fn any_header_survives_the_round_trip(header in any_header()) {
        prop_assert_eq!(SlotHeader::decode(&header.encode(crc32fast::hash), crc32fast::hash), Ok(header));
    }

    #[test]
    fn no_page_makes_decoding_panic(page in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(SlotHeader::decode(&page, crc32fast::hash).is_err());
    }

    #[test]
    fn mutations_without_a_right_checksum_never_decode(
        header in any_header(),
        edits in proptest::collection::vec((0usize..HEADER_BYTES, 1u8..), 1..4),
    ) {
        let mut page = header.encode(crc32fast::hash);
        edits.iter().for_each(|&(at, flip)| page[at] ^= flip);
        prop_assume!(page != header.encode(crc32fast::hash));
        prop_assert!(SlotHeader::decode(&page, crc32fast::hash).is_err());
    }

    #[test]
    fn mutations_with_a_right_checksum_decode_within_bounds_or_not_at_all(
        header in any_header(),
        edits in proptest::collection::vec((0usize..252, any::<u8>()), 1..30),
    ) {
        let mut page = header.encode(crc32fast::hash);
        edits.iter().for_each(|&(at, byte)| page[at] = byte);
        if let Ok(decoded) = SlotHeader::decode(&resealed(page), crc32fast::hash) {
            prop_assert!(decoded.length > 0);
            prop_assert!((1..=64).contains(&decoded.key.as_bytes().len()));
        }
    }
}
