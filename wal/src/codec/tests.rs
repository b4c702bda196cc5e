use kvtier_engine::place::{Slot, TierKind};
use kvtier_engine::port::{IndexEntry, RemovalCause, SpaceRecord};
use kvtier_identity::{BlockId, Key, KeyRecipe, PartSpec, RankGeometry, SpaceDescription, SpaceDigest};

use super::*;

fn block() -> BlockId {
    BlockId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100)
}

fn slot() -> Slot {
    Slot { device: 1, offset: 0x0001_0000_0000, bytes: 1_052_672 }
}

fn description() -> SpaceDescription {
    SpaceDescription {
        tenant: "acme".into(),
        model: "m".into(),
        weights: "w".into(),
        dtype: "bf16".into(),
        kv_quantisation: "q".into(),
        layout: "LBHNC".into(),
        tokens_per_block: 16,
        ranks: RankGeometry { tensor: 2, pipeline: 1, context: 1 },
        attention_backend: "fa".into(),
        packing: "p".into(),
        lora: Some("lo".into()),
        salt: None,
        key_recipe: KeyRecipe { name: "r".into(), seed: "0".into() },
        parts: vec![PartSpec { bytes: 4096 }, PartSpec { bytes: 250 }],
    }
}

/// Every variant with its bytes, spelt out. These bytes are on disks: a test that has to be changed here needs a new
/// payload version instead.
fn golden() -> Vec<(Record, String)> {
    let block_hex = "fe000102030405060708090a0b0c0d0e0f";
    let slot_hex = "01fd0000000001000000fc00101000";
    let digest_hex = "dd".repeat(32);
    let key = Key::new(b"key").expect("3 bytes");
    let reset = Record::Reset { epoch: 251, reason: "restart".into() };
    let description_hex = [
        "0461636d65",
        "016d",
        "0177",
        "0462663136",
        "0171",
        "054c42484e43",
        "10",
        "020101",
        "026661",
        "0170",
        "01026c6f",
        "00",
        "01720130",
        "02fb0010fa",
    ];
    vec![
        (reset, "00fbfb000772657374617274".into()),
        (
            Record::SpaceOpened(Box::new(SpaceRecord {
                number: 3,
                name: "n".into(),
                digest: SpaceDigest([0xdd; 32]),
                description: description(),
            })),
            format!("0103016e{digest_hex}{}", description_hex.concat()),
        ),
        (Record::SpaceDropped { space: 3, digest: SpaceDigest([0xdd; 32]) }, format!("0203{digest_hex}")),
        (
            Record::StoredHost { block: block(), space: 3, key: key.clone(), parent: None, length: 65_536 },
            format!("03{block_hex}03036b657900fc00000100"),
        ),
        (
            Record::StoredNvme {
                block: block(),
                entry: IndexEntry {
                    space: 300,
                    key,
                    parent: Some(BlockId(5)),
                    length: 250,
                    crc: 0xdead_beef,
                    generation: 7,
                    slot: slot(),
                },
            },
            format!("04{block_hex}fb2c01036b65790105fafcefbeadde07{slot_hex}"),
        ),
        (
            Record::Removed { block: block(), space: 3, tier: TierKind::Archive, cause: RemovalCause::TierDown },
            format!("05{block_hex}030304"),
        ),
        (Record::Quarantined { slot: slot() }, format!("06{slot_hex}")),
        (
            Record::EngineStored {
                engine: "a".into(),
                tier: TierKind::Hbm,
                block: block(),
                space: 3,
                key: Key::new(b"key").expect("short"),
                parent: Some(BlockId(5)),
            },
            format!("07016100{block_hex}03036b65790105"),
        ),
        (
            Record::EngineRemoved { engine: "a".into(), tier: TierKind::Engine, block: block(), space: 3 },
            format!("08016104{block_hex}03"),
        ),
        (Record::EngineReset { engine: "a".into(), reason: "gone".into() }, "09016104676f6e65".to_owned()),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_record_has_its_golden_bytes() {
    for (record, expect) in golden() {
        let mut out = vec![];
        encode_record(&record, &mut out).expect("small");
        assert_eq!(hex(&out), expect, "{record:?}");
        let payload = [&[PAYLOAD_VERSION], out.as_slice()].concat();
        assert_eq!(decode_payload(&payload, 1), Ok(vec![record]));
    }
}

#[test]
fn tiers_and_causes_keep_their_numbers() {
    let tiers = [TierKind::Hbm, TierKind::Host, TierKind::Nvme, TierKind::Archive, TierKind::Engine];
    let causes = [
        RemovalCause::Evicted,
        RemovalCause::Corrupt,
        RemovalCause::Deleted,
        RemovalCause::SpaceDropped,
        RemovalCause::TierDown,
    ];
    for (number, cause) in causes.into_iter().enumerate() {
        let tier = tiers[number];
        let mut out = vec![];
        encode_record(&Record::Removed { block: BlockId(0), space: 0, tier, cause }, &mut out).expect("small");
        assert_eq!(out, [5, 0, 0, number as u8, number as u8]);
    }
}

#[test]
fn a_record_takes_no_more_room_than_was_reckoned() {
    let mut records: Vec<_> = golden().into_iter().map(|(record, _)| record).collect();
    let text = "x".repeat(1024);
    let mut description = description();
    description.lora = Some(text.clone());
    description.layout = text.clone();
    description.parts = vec![PartSpec { bytes: u32::MAX }; 64];
    records.push(Record::SpaceOpened(Box::new(SpaceRecord {
        number: u32::MAX,
        name: text,
        digest: SpaceDigest([0; 32]),
        description,
    })));
    for record in records {
        let mut out = vec![];
        encode_record(&record, &mut out).expect("small");
        assert!(out.len() <= record_bytes_in_memory(&record), "{} bytes for {record:?}", out.len());
    }
}

#[test]
fn a_record_beyond_the_bound_is_refused_and_leaves_nothing() {
    let mut out = vec![1, 2];
    let record = Record::Reset { epoch: 1, reason: "x".repeat(RECORD_BYTES_MAX + 1) };
    assert!(matches!(encode_record(&record, &mut out), Err(CodecError::TooLarge(_))));
    assert_eq!(out, [1, 2]);
}

#[test]
fn payloads_that_are_not_what_they_say_are_refused() {
    assert_eq!(decode_payload(&[], 1), Err(CodecError::Version(0)));
    assert_eq!(decode_payload(&[9, 0], 1), Err(CodecError::Version(9)));
    assert_eq!(decode_payload(&[1, 6, 0, 0, 0, 77], 1), Err(CodecError::LeftOver(1)));
    assert!(matches!(decode_payload(&[1, 6, 0, 0, 0], 2), Err(CodecError::Record { index: 1, .. })));
    // An unknown variant, a key of no bytes, a string of 2^60 bytes.
    assert!(matches!(decode_payload(&[1, 7], 1), Err(CodecError::Record { index: 0, .. })));
    assert!(matches!(decode_payload(&[1, 3, 0, 0, 0, 0, 1], 1), Err(CodecError::Record { index: 0, .. })));
    let huge = [&[1, 0, 1, 253][..], &(1u64 << 60).to_le_bytes()].concat();
    assert!(matches!(decode_payload(&huge, 1), Err(CodecError::Record { index: 0, .. })));
}

#[test]
fn what_version_1_wrote_is_read() {
    let (record, bytes) = golden().swap_remove(5);
    let bytes: Vec<u8> =
        (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).expect("hex")).collect();
    assert_eq!(decode_payload(&[&[1], &bytes[..]].concat(), 1), Ok(vec![record]));
    assert_eq!(decode_payload(&[&[3], &bytes[..]].concat(), 1), Err(CodecError::Version(3)));
}
