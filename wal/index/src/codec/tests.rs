use kvtier_engine::place::Slot;
use kvtier_engine::port::{IndexEntry, SpaceRecord};
use kvtier_identity::{BlockId, Key, KeyRecipe, PartSpec, SpaceDescription, SpaceDigest};
use proptest::prelude::*;

use super::*;
use crate::columns;
use crate::conformance::{sample_entry, sample_space};

fn golden_entry() -> IndexEntry {
    IndexEntry {
        space: 3,
        key: Key::new(b"engine key 0123").unwrap(),
        parent: Some(BlockId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
        length: 1_048_576,
        crc: 0xdead_beef,
        generation: 300,
        slot: Slot { device: 1, offset: 0x0000_0123_4567_8000, bytes: 1_052_672 },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    let mut out = vec![1, 2, 3];
    encode(key, value, &mut out);
    out
}

const GOLDEN_KEY: [u8; 16] = [0xf0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

#[test]
fn an_entry_has_the_bytes_of_the_format_document() {
    let fields = concat!(
        "01", // version
        "03", // space
        "0f",
        "656e67696e65206b65792030313233", // key: length, bytes
        "01",
        "fe",
        "100f0e0d0c0b0a090807060504030201", // parent: present, 128-bit number
        "fc",
        "00001000", // length
        "fc",
        "efbeadde", // crc
        "fb",
        "2c01", // generation
        "01",   // device
        "fd",
        "0080674523010000", // offset
        "fc",
        "00101000", // slot bytes
    );
    let mut expected: Vec<u8> =
        (0..fields.len()).step_by(2).map(|at| u8::from_str_radix(&fields[at..at + 2], 16).unwrap()).collect();
    let mut summed = GOLDEN_KEY.to_vec();
    summed.extend(&expected);
    expected.extend(crc32fast::hash(&summed).to_le_bytes());
    let bytes = encoded(&GOLDEN_KEY, &golden_entry());
    assert_eq!(hex(&bytes), hex(&expected));
    assert_eq!(bytes.len(), 68);
    assert_eq!(decode(&GOLDEN_KEY, &bytes), Ok(golden_entry()));
}

#[test]
fn a_space_has_the_bytes_it_always_had() {
    let space = SpaceRecord {
        number: 7,
        name: "chat".into(),
        digest: SpaceDigest([0xab; 32]),
        description: SpaceDescription {
            lora: Some("l".into()),
            key_recipe: KeyRecipe { name: "r".into(), seed: "s".into() },
            parts: vec![PartSpec { bytes: 4096 }, PartSpec { bytes: 1 }],
            ..SpaceDescription::single_part("t", "m", 16, 1)
        },
    };
    let key = columns::space_key(7);
    let bytes = encoded(&key, &space);
    let fields = concat!(
        "01",
        "07",
        "0463686174",
        "abababababababababababababababababababababababababababababababab",
        "0174",
        "016d",
        "00",
        "00",
        "00",
        "00",
        "10",
        "01",
        "01",
        "01",
        "00",
        "00",
        "01016c",
        "00",
        "0172",
        "0173",
        "02",
        "fb0010",
        "01",
    );
    assert_eq!(hex(&bytes[..bytes.len() - CHECKSUM_BYTES]), fields);
    assert_eq!(decode(&key, &bytes), Ok(space));
}

#[test]
fn keys_sort_like_ids_and_slots() {
    assert!(columns::block_key(BlockId(255)) < columns::block_key(BlockId(256)));
    assert!(columns::block_key(BlockId(1)) < columns::block_key(BlockId(u128::MAX)));
    assert_eq!(columns::block_of(&columns::block_key(BlockId(77))), Some(BlockId(77)));
    assert_eq!(columns::block_of(b"short"), None);
    let slot = Slot { device: 2, offset: 1 << 40, bytes: 8192 };
    assert_eq!(columns::slot_of(&columns::slot_key(slot)), Some(slot));
    assert_eq!(columns::slot_of(&columns::slot_key(slot)[1..]), None);
    assert_eq!(hex(&columns::slot_key(slot)), "0002000001000000000000002000");
}

#[test]
fn a_value_under_another_key_does_not_decode() {
    let bytes = encoded(&GOLDEN_KEY, &golden_entry());
    let mut other = GOLDEN_KEY;
    other[15] ^= 1;
    assert_eq!(decode::<IndexEntry>(&other, &bytes), Err(CodecError::Checksum));
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut bytes = vec![VALUE_VERSION + 1, 1, 2, 3];
    seal(b"key", &mut bytes);
    assert_eq!(decode::<IndexEntry>(b"key", &bytes), Err(CodecError::Version(2)));
}

#[test]
fn bytes_after_the_fields_and_missing_fields_are_refused() {
    let whole = encoded(&GOLDEN_KEY, &golden_entry());
    let fields = &whole[..whole.len() - CHECKSUM_BYTES];
    for length in 0..fields.len() + 3 {
        let mut bytes: Vec<u8> = fields.iter().copied().chain([0; 3]).take(length).collect();
        seal(&GOLDEN_KEY, &mut bytes);
        let decoded = decode::<IndexEntry>(&GOLDEN_KEY, &bytes);
        assert_eq!(decoded.is_ok(), length == fields.len(), "{length} bytes");
    }
}

#[test]
fn a_length_that_lies_allocates_nothing_and_is_refused() {
    // The key claims 2^64 - 1 bytes.
    let mut bytes = vec![VALUE_VERSION, 0, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    seal(&GOLDEN_KEY, &mut bytes);
    assert_eq!(decode::<IndexEntry>(&GOLDEN_KEY, &bytes), Err(CodecError::Fields));
}

#[test]
fn every_single_flipped_bit_is_found() {
    let bytes = encoded(&GOLDEN_KEY, &golden_entry());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode::<IndexEntry>(&GOLDEN_KEY, &flipped), Err(CodecError::Checksum), "bit {bit}");
    }
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        at().prop_map(Mutation::Cut),
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        (at(), at()).prop_map(|(one, other)| Mutation::Swap(one, other)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match mutation {
        Mutation::Set(at, byte) => bytes[at.index(length)] = *byte,
        Mutation::Cut(at) => bytes.truncate(at.index(length)),
        Mutation::Insert(at, byte) => bytes.insert(at.index(length), *byte),
        Mutation::Swap(one, other) => bytes.swap(one.index(length), other.index(length)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_entry_comes_back(number: u128, key: [u8; 16]) {
        let entry = sample_entry(number);
        prop_assert_eq!(decode(&key, &encoded(&key, &entry)), Ok(entry));
    }

    #[test]
    fn every_space_comes_back(number: u32) {
        let key = columns::space_key(number);
        prop_assert_eq!(decode(&key, &encoded(&key, &sample_space(number))), Ok(sample_space(number)));
    }

    /// With the checksum in place, no change of the bytes decodes.
    #[test]
    fn a_mutated_value_never_decodes(number: u128, mutations in prop::collection::vec(mutation(), 1..6)) {
        let key = columns::block_key(BlockId(number));
        let original = encoded(&key, &sample_entry(number));
        let mut bytes = original.clone();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        prop_assume!(bytes != original);
        prop_assert!(decode::<IndexEntry>(&key, &bytes).is_err());
    }

    /// Behind a checksum made to fit, the fields decode to something or are refused; nothing panics or eats memory.
    #[test]
    fn mutated_fields_never_panic(number: u128, mutations in prop::collection::vec(mutation(), 1..6)) {
        let key = columns::block_key(BlockId(number));
        let mut bytes = encoded(&key, &sample_entry(number));
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        seal(&key, &mut bytes);
        let _ = decode::<IndexEntry>(&key, &bytes);
        let _ = decode::<SpaceRecord>(&key, &bytes);
        let _ = decode::<()>(&key, &bytes);
    }

    #[test]
    fn garbage_never_decodes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode::<IndexEntry>(b"key", &bytes).is_err());
    }
}
