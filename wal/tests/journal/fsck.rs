//! Explaining and repairing damaged logs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use futures::executor::block_on;
use kvtier_engine::port::{Journal, ReadRefused, Record};
use kvtier_wal::segment::file_name;
use kvtier_wal::{Settings, fsck};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::{MemFolder, World, plain, samples, settings};

fn small() -> Settings {
    Settings { segment_bytes_max: 64 << 10, group_commit_bytes_max: 64 << 10, ..settings() }
}

/// A log of two epochs and several segments. Returns its last position too.
fn log() -> (MemFolder, u64) {
    let mut world = World::new(small());
    for round in 0..80 {
        world.store(round * 100..round * 100 + 100);
    }
    let folder = world.kill();
    let mut world = World::open(&folder, small(), 0).unwrap();
    let last = world.store(8000..8100).seq;
    (world.kill(), last)
}

#[test]
fn a_sound_log_is_reported_and_left_alone() {
    let (folder, last) = log();
    let report = block_on(fsck::inspect(&folder, last)).unwrap();
    assert_eq!(report.damage, vec![]);
    assert_eq!((report.first_seq, report.last_seq), (1, last));
    assert_eq!(report.record_count, 8100 + 2);
    assert_eq!(report.segments.len(), folder.names().len());
    assert_eq!(report.segments.last().unwrap().epoch, 2);
    let before = folder.copy();
    let repair = block_on(fsck::repair(&folder, last, 0)).unwrap();
    assert_eq!((repair.kept_seq, repair.begun, repair.cut), (last, None, None));
    assert_eq!(folder.names(), before.names());
}

/// What a log at rest replays after a record.
fn replayed(folder: &MemFolder, after: u64) -> Vec<(u64, Record)> {
    let mut records = Vec::new();
    block_on(kvtier_wal::replay(folder, after, &mut |seq, record| records.push((seq, record)))).expect("a sound log");
    records
}

#[test]
fn a_log_at_rest_replays_what_an_open_one_reads_and_is_left_alone() {
    let (folder, last) = log();
    let before = folder.copy();
    for after in [0, 1, 777, 8000, last - 1, last] {
        let replayed = replayed(&folder, after);
        let read = World::open(&folder.copy(), small(), 0).unwrap().read_all(after);
        let read = read.into_iter().map(|(position, record)| (position.seq, record));
        // Opening it has begun an epoch behind it.
        let read: Vec<_> = read.filter(|(seq, _)| *seq <= last).collect();
        assert!(replayed == read, "after {after}: {} records, the open log has {}", replayed.len(), read.len());
    }
    assert_eq!(folder.names(), before.names());
    folder.names().iter().for_each(|name| assert_eq!(folder.bytes_of(name), before.bytes_of(name)));
}

#[test]
fn a_torn_tail_is_not_replayed_and_damage_is_an_error() {
    let (folder, last) = log();
    let names = folder.names();
    let mut bytes = folder.bytes_of(&names[names.len() - 1]);
    bytes.extend_from_slice(&[7; 33]);
    folder.put(&names[names.len() - 1], bytes);
    assert_eq!(replayed(&folder, 0).last().map(|(seq, _)| *seq), Some(last));
    let mut bytes = folder.bytes_of(&names[0]);
    bytes[1000] ^= 1;
    folder.put(&names[0], bytes);
    block_on(kvtier_wal::replay(&folder, 0, &mut |_, _| {})).expect_err("the first segment is damaged");
}

#[test]
fn a_torn_tail_is_reported_and_is_no_damage() {
    let (folder, _) = log();
    let name = folder.names().pop().unwrap();
    let mut bytes = folder.bytes_of(&name);
    bytes.extend_from_slice(&[7; 33]);
    folder.put(&name, bytes);
    let report = block_on(fsck::inspect(&folder, 0)).unwrap();
    assert_eq!((report.torn_tail_bytes, report.damage.len()), (33, 0));
}

#[test]
fn every_damaged_place_is_listed() {
    let (folder, _) = log();
    let names = folder.names();
    for name in &names[..2] {
        let mut bytes = folder.bytes_of(name);
        for at in [1000, 20_000] {
            bytes[at] ^= 1;
        }
        folder.put(name, bytes);
    }
    let report = block_on(fsck::inspect(&folder, 0)).unwrap();
    let places: Vec<_> = report.damage.iter().map(|damage| damage.file.clone()).collect();
    assert_eq!(places, [&names[0], &names[0], &names[1], &names[1]].map(Clone::clone));
    assert!(report.damage.iter().all(|damage| damage.reason.contains("checksum")), "{:?}", report.damage);
    assert!(report.record_count > 7000, "the sound records around are counted: {}", report.record_count);
}

/// Damages the log with `damage`, repairs it, and checks what is kept.
fn repaired(damage: impl Fn(&MemFolder, &[String])) {
    let (folder, last) = log();
    let names = folder.names();
    damage(&folder, &names);
    assert!(World::open(&folder, small(), 0).is_err(), "it does not open before");
    let repair = block_on(fsck::repair(&folder, last, 5)).unwrap();
    assert!(!repair.found.damage.is_empty());
    let report = block_on(fsck::inspect(&folder, last)).unwrap();
    assert_eq!(report.damage, vec![], "sound after the repair");
    let mut world = World::open(&folder, small(), last).unwrap();
    assert_eq!(world.recovered.last_seq, repair.kept_seq);
    assert!(world.recovered.reset_seq > last, "beyond everything seen and covered");
    assert!(world.recovered.epoch > 2);
    let kept = u32::try_from(repair.kept_seq.saturating_sub(1)).unwrap();
    assert_eq!(plain(&world.read_all(0)), samples(2, 0..kept), "everything before the damage");
    let position = world.store(0..1);
    let again = World::open(&world.kill(), small(), position.seq).unwrap();
    assert!(again.wal.status().epoch > world_epoch(&repair));
}

fn world_epoch(repair: &fsck::Repair) -> u64 {
    repair.found.segments.iter().map(|segment| segment.epoch).max().unwrap_or(0)
}

#[test]
fn a_bad_frame_is_cut_out_with_all_that_follows() {
    for at in [81, 100, 5000, 20_000] {
        repaired(|folder, names| {
            let mut bytes = folder.bytes_of(&names[1]);
            bytes[at] ^= 0x10;
            folder.put(&names[1], bytes);
        });
    }
}

#[test]
fn a_bad_header_loses_its_segment_and_what_follows() {
    for index in [0, 1] {
        repaired(|folder, names| {
            let mut bytes = folder.bytes_of(&names[index]);
            bytes[9] ^= 0x10;
            folder.put(&names[index], bytes);
        });
    }
}

#[test]
fn a_missing_segment_loses_what_follows() {
    repaired(|folder, names| folder.delete(&names[1]));
}

#[test]
fn a_repair_that_was_interrupted_is_repeated() {
    let (folder, last) = log();
    let name = folder.names()[1].clone();
    let mut bytes = folder.bytes_of(&name);
    bytes[5000] ^= 1;
    folder.put(&name, bytes);
    // Stopped after the new segment was begun: nothing has been deleted.
    let begun = {
        let copy = folder.copy();
        let repair = block_on(fsck::repair(&copy, last, 5)).unwrap();
        let begun = repair.begun.unwrap();
        folder.put(&begun, copy.bytes_of(&begun));
        begun
    };
    assert!(World::open(&folder, small(), last).is_err(), "still damaged");
    let repair = block_on(fsck::repair(&folder, last, 6)).unwrap();
    assert!(repair.begun.unwrap() > begun);
    assert!(repair.deleted.contains(&begun));
    World::open(&folder, small(), last).unwrap();
}

#[test]
fn a_lost_log_is_begun_again_beyond_what_the_index_covers() {
    let folder = MemFolder::default();
    assert!(World::open(&folder, small(), 500).is_err());
    let repair = block_on(fsck::repair(&folder, 500, 1)).unwrap();
    assert_eq!(repair.kept_seq, 0);
    let mut world = World::open(&folder, small(), 500).unwrap();
    assert!(world.recovered.reset_seq > 500);
    world.store(0..1);
    assert_ne!(folder.names()[0], file_name(1));
}

/// One kind of damage somewhere in a log of several segments and epochs.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, Index),
    Zero(Index, Index, usize),
    Cut(Index, Index),
    Delete(Index),
    /// One segment's bytes under another's name.
    Swap(Index, Index),
    Stub(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    prop_oneof![
        (index(), index()).prop_map(|(file, at)| Damage::Flip(file, at)),
        (index(), index(), 1..5000_usize).prop_map(|(file, at, count)| Damage::Zero(file, at, count)),
        (index(), index()).prop_map(|(file, at)| Damage::Cut(file, at)),
        index().prop_map(Damage::Delete),
        (index(), index()).prop_map(|(from, to)| Damage::Swap(from, to)),
        index().prop_map(Damage::Stub),
    ]
}

fn inflict(folder: &MemFolder, damage: &Damage) {
    let names = folder.names();
    if names.is_empty() {
        return;
    }
    let pick = |file: &Index| names[file.index(names.len())].as_str();
    let change = |file: &Index, change: &dyn Fn(&mut Vec<u8>)| {
        let name = pick(file);
        let mut bytes = folder.bytes_of(name);
        if !bytes.is_empty() {
            change(&mut bytes);
        }
        folder.put(name, bytes);
    };
    match damage {
        Damage::Flip(file, at) => change(file, &|bytes| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
        }),
        Damage::Zero(file, at, count) => change(file, &|bytes| {
            let (at, end) = (at.index(bytes.len()), bytes.len());
            bytes[at..(at + count).min(end)].fill(0);
        }),
        Damage::Cut(file, at) => change(file, &|bytes| bytes.truncate(at.index(bytes.len()))),
        Damage::Delete(file) => folder.delete(pick(file)),
        Damage::Swap(from, to) => folder.put(pick(to), folder.bytes_of(pick(from))),
        Damage::Stub(at) => folder.put(&file_name(1 + at.index(10_000_000) as u64), vec![0; at.index(80)]),
    }
}

proptest! {
    /// Whatever is done to the files: no opening shows a wrong record or a hole within an epoch, and every repair ends
    /// with a log that opens, takes records, and uses no number twice.
    #[test]
    fn any_damage_is_refused_or_harmless_and_can_be_repaired(damages in prop::collection::vec(damage(), 1..4)) {
        let (folder, last) = log();
        let truth = truth();
        damages.iter().for_each(|damage| inflict(&folder, damage));
        let opened = folder.copy();
        if let Ok(mut world) = World::open(&opened, small(), 0) {
            check(&mut world, truth);
        }
        let repair = block_on(fsck::repair(&folder, last, 5)).unwrap();
        let mut world = World::open(&folder, small(), last).unwrap_or_else(|error| panic!("{error}\n{repair:?}"));
        prop_assert!(world.recovered.reset_seq > last);
        check(&mut world, truth);
        world.store(0..10);
        let again = block_on(fsck::inspect(&folder, last)).unwrap();
        prop_assert_eq!(again.damage, vec![]);
    }
}

/// What the undamaged log holds.
fn truth() -> &'static BTreeMap<u64, Record> {
    static TRUTH: OnceLock<BTreeMap<u64, Record>> = OnceLock::new();
    TRUTH.get_or_init(|| {
        let mut world = World::open(&log().0, small(), 0).unwrap();
        world.read_all(0).into_iter().map(|(position, record)| (position.seq, record)).collect()
    })
}

/// Every record read is the right one, and positions grow by one within an epoch.
fn check(world: &mut World, truth: &BTreeMap<u64, Record>) {
    let oldest = match world.read(0) {
        Err(ReadRefused::Forgotten { oldest, .. }) => oldest,
        _ => 0,
    };
    let recovered = world.recovered.last_seq;
    let all = world.read_all(oldest);
    for (position, record) in all.iter().filter(|(position, _)| position.seq <= recovered) {
        assert_eq!(truth.get(&position.seq), Some(record), "{position:?}");
    }
    for pair in all.windows(2) {
        let (before, after) = (pair[0].0, pair[1].0);
        assert!(after.seq == before.seq + 1 || after.epoch > before.epoch && after.seq > before.seq);
    }
}
