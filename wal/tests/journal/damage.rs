//! Damage before the tail: always noticed, never a wrong record.

use kvtier_engine::port::ReadRefused;
use kvtier_wal::segment::file_name;
use kvtier_wal::{Settings, WalError};

use crate::world::{MemFolder, World, plain, samples, settings};

/// Three segments of one epoch, the last ones numbered by their first records, closed cleanly.
fn three_segments() -> (MemFolder, Vec<String>) {
    let settings = Settings { segment_bytes_max: 64 << 10, group_commit_bytes_max: 64 << 10, ..settings() };
    let mut world = World::new(settings);
    let mut number = 0;
    while world.folder.names().len() < 3 {
        world.store(number..number + 100);
        number += 100;
    }
    let names = world.folder.names();
    (world.close(), names)
}

fn damage(folder: &MemFolder, covered_seq: u64) -> (String, u64, String) {
    match World::open(folder, settings(), covered_seq).map(|_| ()) {
        Err(WalError::Damaged { file, offset, explanation }) => (file, offset, explanation),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flipped_byte_of_a_small_log_is_noticed_or_only_shortens_it() {
    let mut world = World::new(settings());
    for group in 0..4 {
        world.store(group * 2..group * 2 + 2);
    }
    let folder = world.kill();
    let name = file_name(1);
    let whole = folder.bytes_of(&name);
    let expect = samples(2, 0..8);
    let mut refused = 0;
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let rotten = folder.copy();
            rotten.put(&name, bytes);
            match World::open(&rotten.copy(), settings(), 0) {
                Err(WalError::Damaged { file, .. }) => {
                    assert_eq!(file, name);
                    refused += 1;
                }
                Err(other) => panic!("byte {at}: {other}"),
                Ok(mut world) => {
                    let records = plain(&world.read_all(0));
                    assert_eq!(records, expect[..records.len()], "byte {at}: a wrong record");
                    assert_eq!(records.len(), 6, "byte {at}: only the last group may be taken for a torn tail");
                    let covered = World::open(&rotten, settings(), 9).map(|_| ());
                    assert!(covered.is_err(), "byte {at}: the index knows better");
                }
            }
        }
    }
    assert!(refused > whole.len() * 2, "{refused} of {}", whole.len() * 3);
}

#[test]
fn a_missing_segment_is_noticed() {
    let (folder, names) = three_segments();
    folder.delete(&names[1]);
    let (file, offset, explanation) = damage(&folder, 0);
    assert_eq!((&file, offset), (&names[2], 0));
    assert!(explanation.contains(&names[1]), "{explanation}");
}

#[test]
fn segments_missing_from_the_old_end_are_retention() {
    let (folder, names) = three_segments();
    folder.delete(&names[0]);
    let mut world = World::open(&folder, settings(), 0).unwrap();
    let second: u64 = names[1][..20].parse().unwrap();
    assert_eq!(world.read(0), Err(ReadRefused::Forgotten { asked: 0, oldest: second - 1 }));
    assert_eq!(world.read(second - 1).unwrap()[0].0.seq, second);
}

#[test]
fn a_segment_cut_at_a_frames_edge_is_noticed() {
    let (folder, names) = three_segments();
    let bytes = folder.bytes_of(&names[1]);
    let mut cut = kvtier_wal::segment::SEGMENT_HEADER_BYTES;
    let frame = kvtier_wal::frame::FrameHeader::decode(&bytes[cut..]).unwrap();
    cut += frame.frame_bytes();
    folder.put(&names[1], bytes[..cut].to_vec());
    let (file, offset, explanation) = damage(&folder, 0);
    assert_eq!((&file, offset), (&names[1], cut as u64));
    assert!(explanation.contains("the next segment says"), "{explanation}");
}

#[test]
fn a_segment_under_another_name_is_noticed() {
    let (folder, names) = three_segments();
    let bytes = folder.bytes_of(&names[2]);
    folder.put(&file_name(1 << 40), bytes);
    assert!(damage(&folder, 0).2.contains("begins with record"));
}

#[test]
fn a_segment_of_another_log_is_noticed() {
    let (folder, names) = three_segments();
    let mut other = World::new(Settings { log_id: 77, ..settings() });
    other.store(0..1);
    let foreign = other.kill();
    let mut header = kvtier_wal::segment::SegmentHeader::decode(&foreign.bytes_of(&file_name(1))).unwrap();
    let third: u64 = names[2][..20].parse().unwrap();
    header.first_seq = third;
    folder.put(&names[2], header.encode().to_vec());
    assert!(damage(&folder, 0).2.contains("it belongs to log"));
}

#[test]
fn a_frame_of_an_older_segment_in_the_place_of_another_is_noticed() {
    let (folder, names) = three_segments();
    let (first, mut second) = (folder.bytes_of(&names[0]), folder.bytes_of(&names[1]));
    second[80..4096].copy_from_slice(&first[80..4096]);
    folder.put(&names[1], second);
    assert_eq!(damage(&folder, 0).0, names[1]);
}

#[test]
fn a_log_that_ends_before_what_the_index_covers_has_lost_records() {
    let (folder, names) = three_segments();
    let last = World::open(&folder.copy(), settings(), 0).unwrap().recovered.last_seq;
    World::open(&folder.copy(), settings(), last).unwrap();
    let (file, _, explanation) = damage(&folder, last + 1);
    assert_eq!(file, names[2]);
    assert!(explanation.contains(&format!("the index covers record {}", last + 1)), "{explanation}");
    assert!(damage(&MemFolder::default(), 5).2.contains("the log ends at 0"), "a log that is gone");
}

#[test]
fn a_newer_version_is_not_called_damage() {
    let (folder, names) = three_segments();
    let mut bytes = folder.bytes_of(&names[2]);
    bytes[4] = 2;
    let crc = crc32fast::hash(&bytes[..76]);
    bytes[76..80].copy_from_slice(&crc.to_le_bytes());
    folder.put(&names[2], bytes);
    let error = World::open(&folder, settings(), 0).map(|_| ()).unwrap_err();
    assert!(matches!(error, WalError::Unsupported { .. }), "{error}");
}

#[test]
fn rot_under_a_running_journal_is_refused_to_the_reader_only() {
    let settings = Settings { recent_bytes_max: 0, ..settings() };
    let mut world = World::new(settings);
    world.store(0..10);
    world.store(10..20);
    let name = file_name(1);
    let mut bytes = world.folder.bytes_of(&name);
    let middle = bytes.len() - 10;
    bytes[middle] ^= 4;
    world.folder.rot(&name, bytes);
    let first = world.read(0).unwrap();
    assert_eq!(plain(&first), samples(2, 0..10), "what is sound is given");
    let error = world.read(11).unwrap_err();
    assert!(matches!(&error, ReadRefused::Unreadable(reason) if reason.contains(&name)), "{error}");
    world.store(20..21);
}

#[test]
fn strangers_in_the_folder_are_left_alone() {
    let (folder, _) = three_segments();
    folder.put("LOCK", vec![]);
    folder.put("notes.wal", b"hello".to_vec());
    folder.put("00000000000000000000.wal", b"hello".to_vec());
    let mut world = World::open(&folder, settings(), 0).unwrap();
    world.store(0..1);
    assert!(world.folder.names().contains(&"notes.wal".to_owned()));
}
