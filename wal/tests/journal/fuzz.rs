//! Arbitrary bytes, and sound segments with changed bytes: the decoders never panic, loop, or believe what is not so.

use futures::executor::block_on;
use kvtier_wal::codec::decode_payload;
use kvtier_wal::frame::FrameHeader;
use kvtier_wal::fsck;
use kvtier_wal::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, file_name};
use proptest::prelude::*;

use crate::world::{MemFolder, World, plain, samples, settings};

fn sound_log() -> (Vec<u8>, u32) {
    let mut world = World::new(settings());
    for group in 0..6 {
        world.store(group * 10..group * 10 + 10);
    }
    (world.close().bytes_of(&file_name(1)), 60)
}

/// Opens, reads and repairs whatever is in the folder; records must be a prefix of `expect`.
fn exercise(folder: &MemFolder, expect: &[(u64, kvtier_engine::port::Record)]) {
    let copy = folder.copy();
    if let Ok(mut world) = World::open(&copy, settings(), 0) {
        let records = plain(&world.read_all(0));
        assert_eq!(records, expect[..records.len()]);
        world.store(0..1);
    }
    let copy = folder.copy();
    let Ok(report) = block_on(fsck::inspect(&copy, 0)) else { return };
    assert!(report.damage.len() < 1000);
    if let Ok(repair) = block_on(fsck::repair(&copy, 0, 0)) {
        let mut world = World::open(&copy, settings(), 0).unwrap_or_else(|error| panic!("{error}: {repair:?}"));
        let records = plain(&world.read_all(0));
        assert_eq!(records, expect[..records.len()]);
    }
}

/// Puts right the checksums of header and frames, as far as they can be walked: the fields themselves are then believed.
fn reseal(bytes: &mut [u8]) {
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return;
    }
    let crc = crc32fast::hash(&bytes[..76]);
    bytes[76..80].copy_from_slice(&crc.to_le_bytes());
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(Ok(header)) = bytes.get(at..).map(FrameHeader::decode) {
        let Some(frame) = bytes.get_mut(at..at + header.frame_bytes()) else { return };
        let mut hasher = crc32fast::Hasher::new_with_initial(crc);
        hasher.update(&frame[0..4]);
        hasher.update(&frame[8..]);
        let frame_crc = hasher.finalize();
        frame[4..8].copy_from_slice(&frame_crc.to_le_bytes());
        at += header.frame_bytes();
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_or_decoded(bytes in prop::collection::vec(any::<u8>(), 0..400), count in 0..50_u32) {
        let _ = SegmentHeader::decode(&bytes);
        if let Ok(header) = FrameHeader::decode(&bytes) {
            let _ = header.verify(&bytes, 1);
        }
        let _ = decode_payload(&bytes, count);
        let versioned = [&[1][..], &bytes].concat();
        if let Ok(records) = decode_payload(&versioned, count) {
            assert_eq!(records.len(), count as usize);
        }
    }

    #[test]
    fn arbitrary_files_never_give_a_record(bytes in prop::collection::vec(any::<u8>(), 0..3000), seq in 1..50_u64) {
        let folder = MemFolder::default();
        folder.put(&file_name(seq), bytes);
        exercise(&folder, &[]);
    }

    #[test]
    fn a_changed_log_gives_a_prefix_or_an_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut bytes, count) = sound_log();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = MemFolder::default();
        folder.put(&file_name(1), bytes);
        exercise(&folder, &samples(2, 0..count));
    }

    #[test]
    fn forged_fields_with_good_checksums_never_panic(
        changes in prop::collection::vec((0..400_usize, any::<u8>()), 1..6),
        runs in prop::collection::vec((0..400_usize, any::<bool>()), 0..3),
    ) {
        let (mut bytes, _) = sound_log();
        for (at, value) in changes {
            bytes[at] = value;
        }
        for (at, ones) in runs {
            bytes[at..at + 8].fill(if ones { 0xff } else { 0 });
        }
        reseal(&mut bytes);
        let first = SegmentHeader::decode(&bytes).map_or(1, |header| header.first_seq);
        let folder = MemFolder::default();
        folder.put(&file_name(first), bytes);
        let copy = folder.copy();
        if let Ok(mut world) = World::open(&copy, settings(), 0) {
            let read = world.wal_read(0);
            let _ = world.pool.run_until(read);
            world.advance(10);
        }
        let _ = block_on(fsck::inspect(&folder, 0));
        let _ = block_on(fsck::repair(&folder, 0, 0));
    }
}
