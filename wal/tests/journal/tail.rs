//! What a crash leaves at the end of the log, and what becomes of numbers and epochs.

use kvtier_engine::port::{Journal, Position, Record};
use kvtier_wal::segment::{SEGMENT_HEADER_BYTES, file_name};
use kvtier_wal::settings::EPOCH_SKIP;

use crate::world::{MemFolder, World, plain, samples, settings};

/// A log of three groups of three records in one segment, killed. Also the file's size after each group.
fn three_groups() -> (MemFolder, Vec<u64>) {
    let mut world = World::new(settings());
    let mut sizes = vec![];
    for group in 0..3 {
        world.store(group * 3..group * 3 + 3);
        sizes.push(world.folder.bytes_of(&file_name(1)).len() as u64);
    }
    (world.kill(), sizes)
}

#[test]
fn a_new_log_begins_with_the_reset_of_epoch_1() {
    let mut world = World::new(settings());
    world.run();
    assert_eq!((world.recovered.epoch, world.recovered.reset_seq, world.recovered.last_seq), (1, 1, 0));
    world.advance(5);
    let read = world.read(0).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].1, Record::Reset { epoch: 1, reason: "restart".into() });
}

#[test]
fn each_opening_is_an_epoch_of_its_own_and_skips_numbers_ahead() {
    let mut folder = MemFolder::default();
    let mut newest = 0;
    for epoch in 1..=5 {
        let mut world = World::open(&folder, settings(), 0).unwrap();
        assert_eq!(world.recovered.epoch, epoch);
        assert_eq!(world.recovered.last_seq, newest);
        newest = world.store(0..2).seq;
        let read = world.read_all(0);
        assert_eq!(read.len() as u64, epoch * 3, "all epochs are readable");
        let reset = &read[read.len() - 3];
        assert_eq!(reset.0.seq, world.recovered.reset_seq);
        assert_eq!(reset.1, Record::Reset { epoch, reason: "restart".into() });
        assert!(read.windows(2).all(|pair| pair[0].0 < pair[1].0), "positions grow");
        folder = world.kill();
    }
    assert!(newest > 4 * EPOCH_SKIP);
}

#[test]
fn a_position_belongs_to_its_epoch_even_before_the_reset_is_durable() {
    // Once `status` answered with the new epoch and the last number of the old one, within the first group commit.
    let mut world = World::new(settings());
    let old = world.store(0..2);
    let mut world = World::open(&world.kill(), settings(), 0).unwrap();
    let (status, reset_seq) = (world.wal.status(), world.recovered.reset_seq);
    assert_eq!(status.durable_seq, old.seq, "the reset is queued only");
    assert_eq!(status.position(), Position { epoch: 2, seq: reset_seq - 1 });
    world.durable(reset_seq).unwrap();
    assert_eq!(world.wal.status().position(), Position { epoch: 2, seq: reset_seq });
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_nothing_else_is_lost() {
    let (folder, sizes) = three_groups();
    let name = file_name(1);
    let whole = folder.bytes_of(&name);
    for length in SEGMENT_HEADER_BYTES..=whole.len() {
        let torn = folder.copy();
        torn.put(&name, whole[..length].to_vec());
        let mut world = World::open(&torn, settings(), 0).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        let groups = sizes.iter().filter(|size| **size <= length as u64).count() as u32;
        let records = plain(&world.read_all(0));
        assert_eq!(records, samples(2, 0..groups * 3), "{length} bytes");
        let sound = groups.checked_sub(1).map_or(0, |last| sizes[last as usize]);
        if groups > 0 {
            assert_eq!(world.recovered.torn_tail_bytes, length as u64 - sound, "{length} bytes");
        }
        assert!(world.recovered.reset_seq > 10 + EPOCH_SKIP / 2, "beyond the lost numbers");
        world.store(100..102);
        let again = World::open(&world.kill(), settings(), 0).unwrap();
        assert_eq!(again.recovered.torn_tail_bytes, 0, "the tail was cut for good");
    }
}

#[test]
fn a_segment_torn_in_its_header_never_was() {
    let (folder, _) = three_groups();
    let mut world = World::open(&folder, settings(), 0).unwrap();
    let second = world.recovered.reset_seq;
    world.store(0..1);
    let folder = world.kill();
    let header = folder.bytes_of(&file_name(second))[..SEGMENT_HEADER_BYTES].to_vec();
    for length in 0..=SEGMENT_HEADER_BYTES {
        let torn = folder.copy();
        torn.put(&file_name(second), header[..length].to_vec());
        let mut world = World::open(&torn, settings(), 0).unwrap();
        assert!(world.recovered.reset_seq > second, "its numbers may have been given out");
        assert_eq!(plain(&world.read_all(0)), samples(2, 0..9));
        world.store(0..1);
        world.advance(40_000);
        if length < SEGMENT_HEADER_BYTES {
            assert!(!world.folder.names().contains(&file_name(second)), "the stub is removed once it is not needed");
        }
        World::open(&world.kill(), settings(), 0).unwrap();
    }
}

/// A power cut after a group was written and before it was synced: the disk kept the group's last page and lost its
/// first. The frames that survived must not make the log look damaged, or a daemon would not start after a power cut.
#[test]
fn a_group_of_which_the_disk_kept_only_the_end_is_a_torn_tail() {
    let mut world = World::new(settings());
    world.store(0..3);
    let name = file_name(1);
    let before = world.folder.bytes_of(&name).len();
    world.store(100..5000);
    let folder = world.kill();
    let mut bytes = folder.bytes_of(&name);
    let lost = before..before + 4096;
    assert!(bytes.len() > lost.end + 40_000, "the group has several frames");
    bytes[lost].fill(0);
    folder.put(&name, bytes.clone());
    let mut world = World::open(&folder, settings(), 0).unwrap();
    assert_eq!(world.recovered.torn_tail_bytes as usize, bytes.len() - before);
    assert_eq!(plain(&world.read_all(0)), samples(2, 0..3));
}

/// The same hole, but the next group was written: then the first had been synced, and the hole is damage.
#[test]
fn a_hole_in_front_of_a_later_group_is_damage() {
    let mut world = World::new(settings());
    world.store(0..3);
    let name = file_name(1);
    let before = world.folder.bytes_of(&name).len();
    world.store(100..5000);
    world.store(5000..5001);
    let folder = world.kill();
    let mut bytes = folder.bytes_of(&name);
    bytes[before..before + 4096].fill(0);
    folder.put(&name, bytes);
    let error = World::open(&folder, settings(), 0).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&format!("{name} at byte {before}")), "{error}");
    assert!(error.contains("kvtier fsck"), "{error}");
}

/// After a clean close even the last group is known to have been synced.
#[test]
fn rot_in_the_last_group_of_a_closed_log_is_damage() {
    let mut world = World::new(settings());
    world.store(0..3);
    let name = file_name(1);
    let before = world.folder.bytes_of(&name).len();
    world.store(3..6);
    let folder = world.close();
    let mut bytes = folder.bytes_of(&name);
    bytes[before + 40] ^= 1;
    folder.put(&name, bytes);
    let error = World::open(&folder, settings(), 0).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

/// A process that dies keeps its unsynced pages in memory; a reader of the next process is told they are durable.
#[test]
fn what_an_opening_kept_survives_a_power_cut_right_after() {
    let mut world = World::new(settings());
    world.store(0..3);
    world.folder.faults().hold_syncs.set(true);
    world.append(3..6);
    world.advance(5);
    // The process dies and the machine goes on: the same disk, with its unsynced pages.
    let folder = world.folder.clone();
    drop(world);
    folder.release_syncs();
    let again = World::open(&folder, settings(), 0).unwrap();
    assert_eq!(again.recovered.last_seq, 7);
    for fate in 0..4 {
        let cut = folder.crash(&mut |bound| fate % bound);
        let last_seq = World::open(&cut, settings(), 7).unwrap().recovered.last_seq;
        assert_eq!(last_seq, 7, "fate {fate}");
    }
}

#[test]
fn the_tail_after_the_covered_position_is_counted_and_readable() {
    let (folder, _) = three_groups();
    for covered_seq in 0..=10 {
        let mut world = World::open(&folder.copy(), settings(), covered_seq).unwrap();
        assert_eq!(world.recovered.tail_record_count, 10 - covered_seq);
        let tail = world.read(covered_seq).unwrap();
        assert_eq!(tail.len() as u64, 10 - covered_seq);
    }
}

#[test]
fn the_log_keeps_its_name() {
    let (folder, _) = three_groups();
    let other = kvtier_wal::Settings { log_id: 1, ..settings() };
    let mut world = World::open(&folder, other, 0).unwrap();
    world.store(0..1);
    let bytes = world.folder.bytes_of(&file_name(world.recovered.reset_seq));
    let header = kvtier_wal::segment::SegmentHeader::decode(&bytes).unwrap();
    assert_eq!(header.log_id, settings().log_id);
    assert_eq!(world.wal.status().epoch, 2);
}

/// An opening found a stub, began its own segment, and crashed before it removed the stub: the next one found an
/// unsound header in front of a sound segment and called it damage.
#[test]
fn a_stub_in_front_of_a_sound_segment_is_still_a_stub() {
    let (folder, _) = three_groups();
    folder.put(&file_name(1000), vec![0; 17]);
    let world = World::open(&folder, settings(), 0).unwrap();
    assert!(world.recovered.reset_seq > 1000);
    let mut again = World::open(&world.kill(), settings(), 0).unwrap();
    assert_eq!(plain(&again.read_all(0)), samples(2, 0..9));
}
