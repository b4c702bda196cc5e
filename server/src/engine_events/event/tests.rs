use std::collections::BTreeMap;

use rmp::encode::*;

use super::*;

const NUMBERS: &[u8] = include_bytes!("../../../../tests/fixtures/vllm/numbers.bin");
const BYTES: &[u8] = include_bytes!("../../../../tests/fixtures/vllm/bytes.bin");

/// The payloads of a recording.
fn payloads(recording: &'static [u8]) -> Vec<&'static [u8]> {
    let mut cursor = Cursor::new(recording);
    let count = cursor.array().expect("an array of messages");
    let payload = |_| {
        assert_eq!(cursor.array(), Ok(4));
        (0..3).for_each(|_| cursor.skip().expect("engine, topic, number"));
        let Ok(Value::Bytes(payload)) = cursor.value() else { panic!("a payload") };
        payload
    };
    (0..count).map(payload).collect()
}

/// How often what was told, by kind, tier and length of the key.
fn count(recording: &'static [u8]) -> BTreeMap<(&'static str, &'static str, usize), usize> {
    let mut counts = BTreeMap::new();
    for payload in payloads(recording) {
        for told in read_batch(payload).expect("what vLLM wrote is read") {
            let what = match told {
                Told::Cleared => ("cleared", "", 0),
                Told::Change(EngineChange::Stored { tier, key, .. }) => ("stored", tier.name(), key.as_bytes().len()),
                Told::Change(EngineChange::Removed { tier, key }) => ("removed", tier.name(), key.as_bytes().len()),
            };
            *counts.entry(what).or_default() += 1;
        }
    }
    counts
}

#[test]
fn what_vllm_published_is_read() {
    let expected = [(("cleared", "", 0), 1), (("removed", "hbm", 8), 202), (("stored", "hbm", 8), 430)];
    assert_eq!(count(NUMBERS), expected.into());
    let expected = [(("removed", "engine", 32), 29), (("stored", "engine", 32), 31), (("stored", "hbm", 32), 62)];
    assert_eq!(count(BYTES), expected.into(), "and what is in storage behind the engine is left out");
}

#[test]
fn blocks_of_one_event_follow_each_other() {
    let told = read_batch(payloads(NUMBERS)[0]).expect("sound");
    let mut before = None;
    for told in told {
        let Told::Change(EngineChange::Stored { key, parent, .. }) = told else { panic!("{told:?}") };
        assert_eq!(parent, before);
        before = Some(key);
    }
    assert!(before.is_some());
}

/// Writes one event.
type Write<'a> = &'a dyn Fn(&mut Vec<u8>);

/// A batch with these events, each written by itself.
fn batch(events: &[Write<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_array_len(&mut bytes, 3).expect("a vector grows");
    write_f64(&mut bytes, 1.5).expect("a vector grows");
    write_array_len(&mut bytes, events.len() as u32).expect("a vector grows");
    events.iter().for_each(|event| event(&mut bytes));
    write_uint(&mut bytes, 3).expect("a vector grows");
    bytes
}

fn hashes(bytes: &mut Vec<u8>, hashes: &[u64]) {
    write_array_len(bytes, hashes.len() as u32).expect("a vector grows");
    for hash in hashes {
        write_uint(bytes, *hash).expect("a vector grows");
    }
}

#[test]
fn events_of_older_releases_are_arrays() {
    let stored = |bytes: &mut Vec<u8>| {
        write_array_len(bytes, 7).expect("a vector grows");
        write_str(bytes, "BlockStored").expect("a vector grows");
        hashes(bytes, &[2, 3]);
        write_uint(bytes, 1).expect("a vector grows");
        hashes(bytes, &[11, 12]);
        write_uint(bytes, 16).expect("a vector grows");
        write_nil(bytes).expect("a vector grows");
        write_str(bytes, "CPU").expect("a vector grows");
    };
    let removed = |bytes: &mut Vec<u8>| {
        write_array_len(bytes, 2).expect("a vector grows");
        write_str(bytes, "BlockRemoved").expect("a vector grows");
        hashes(bytes, &[3]);
    };
    let cleared = |bytes: &mut Vec<u8>| {
        write_array_len(bytes, 1).expect("a vector grows");
        write_str(bytes, "AllBlocksCleared").expect("a vector grows");
    };
    let unknown = |bytes: &mut Vec<u8>| {
        write_array_len(bytes, 2).expect("a vector grows");
        write_str(bytes, "BlockPolished").expect("a vector grows");
        hashes(bytes, &[3]);
    };
    let key = |number: u64| Key::new(&number.to_be_bytes()).expect("8 bytes");
    let stored_at = |number, parent| {
        let (tier, parent) = (TierKind::Engine, Some(key(parent)));
        Told::Change(EngineChange::Stored { tier, key: key(number), parent })
    };
    let expected = [
        stored_at(2, 1),
        stored_at(3, 2),
        Told::Change(EngineChange::Removed { tier: TierKind::Hbm, key: key(3) }),
        Told::Cleared,
    ];
    assert_eq!(read_batch(&batch(&[&stored, &removed, &unknown, &cleared])).expect("sound"), expected);
}

#[test]
fn a_false_batch_is_refused_and_its_memory_stays_bounded() {
    let many = |bytes: &mut Vec<u8>| {
        write_array_len(bytes, 2).expect("a vector grows");
        write_str(bytes, "BlockRemoved").expect("a vector grows");
        hashes(bytes, &vec![1; CHANGES_MAX + 1]);
    };
    assert!(read_batch(&batch(&[&many])).is_err());
    let hashless = |bytes: &mut Vec<u8>| {
        write_map_len(bytes, 1).expect("a vector grows");
        write_str(bytes, "type").expect("a vector grows");
        write_str(bytes, "BlockStored").expect("a vector grows");
    };
    assert!(read_batch(&batch(&[&hashless])).is_err());
    assert!(read_batch(&[0x93, 0xc0, 0xdd, 0xff, 0xff, 0xff, 0xff]).is_err(), "4 G events in no bytes");
}

#[test]
fn every_cut_and_every_flipped_byte_of_a_real_batch_is_survived() {
    let payload = payloads(BYTES)[0];
    for end in 0..payload.len() {
        assert!(read_batch(&payload[..end]).is_err(), "cut at {end}");
    }
    let mut bytes = payload.to_vec();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] ^= flip;
            read_batch(&bytes).ok();
            bytes[at] ^= flip;
        }
    }
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(0_u8.., 0..500)) {
        read_batch(&bytes).ok();
    }
}
