//! What is deleted, when, and what readers hear.

use kvtier_engine::port::{Journal, JournalState, ReadRefused};
use kvtier_wal::Settings;

use crate::world::{MemFolder, World, settings};

fn small() -> Settings {
    Settings {
        segment_bytes_max: 64 << 10,
        group_commit_bytes_max: 64 << 10,
        retain_bytes: 128 << 10,
        wal_bytes_max: 1 << 20,
        recent_bytes_max: 0,
        ..settings()
    }
}

/// Stores until there are `count` files.
fn fill(world: &mut World, count: usize) -> u64 {
    let mut last = 0;
    while world.folder.names().len() < count {
        last = world.store(0..100).seq;
    }
    last
}

#[test]
fn covered_segments_go_when_the_log_holds_too_many_bytes() {
    let mut world = World::new(small());
    let last = fill(&mut world, 12);
    assert_eq!(world.wal.status().first_seq, 1, "nothing is covered yet");
    world.wal.covered(last);
    world.run();
    let status = world.wal.status();
    assert!(status.bytes <= 128 << 10, "{status:?}");
    assert!(status.first_seq > 1);
    let oldest = status.first_seq - 1;
    assert_eq!(world.read(0), Err(ReadRefused::Forgotten { asked: 0, oldest }));
    assert_eq!(world.read(oldest).unwrap()[0].0.seq, oldest + 1);
    let folder = world.kill();
    let mut again = World::open(&folder, small(), last).unwrap();
    assert_eq!(again.wal.status().first_seq, oldest + 1, "a restart remembers what was forgotten");
    assert_eq!(again.read(oldest - 1), Err(ReadRefused::Forgotten { asked: oldest - 1, oldest }));
}

#[test]
fn a_segment_the_index_lacks_stays() {
    let mut world = World::new(small());
    fill(&mut world, 3);
    let second: u64 = world.folder.names()[1][..20].parse().unwrap();
    fill(&mut world, 12);
    world.wal.covered(second - 2);
    world.run();
    assert_eq!(world.folder.names().len(), 12, "one record of the first segment is not covered");
    world.wal.covered(second);
    world.run();
    assert_eq!(world.folder.names().len(), 11);
    assert_eq!(world.wal.status().first_seq, second);
}

#[test]
fn old_segments_go_when_they_are_covered() {
    let settings = Settings { retain_bytes: 512 << 10, retain_ms: 3_600_000, ..small() };
    let mut world = World::new(settings);
    let last = fill(&mut world, 3);
    world.wal.covered(last);
    world.advance(3_599_000);
    assert_eq!(world.folder.names().len(), 3);
    world.advance(31_000);
    world.advance(31_000);
    assert_eq!(world.folder.names().len(), 1, "the one that is written stays");
    assert_eq!(world.wal.status().durable_seq, last);
}

#[test]
fn a_busy_log_is_trimmed_while_it_is_written() {
    let mut world = World::new(small());
    for round in 0..300 {
        let position = world.store(round..round + 100);
        world.wal.covered(position.seq - 50);
    }
    assert_eq!(world.wal.status().state, JournalState::Open);
    assert!(world.wal.status().bytes <= (128 + 64) << 10, "{:?}", world.wal.status());
}

#[test]
fn a_file_that_cannot_be_removed_is_tried_again_later() {
    let mut world = World::new(small());
    let last = fill(&mut world, 12);
    world.folder.faults().failing_removals.set(3);
    world.wal.covered(last);
    world.run();
    assert_eq!(world.folder.names().len(), 12);
    for _ in 0..5 {
        world.advance(30_000);
    }
    assert!(world.folder.names().len() <= 6, "{:?}", world.folder.names());
    World::open(&world.kill(), small(), last).unwrap();
}

/// Power cuts in the middle of deleting: never a hole, whichever removals the disk kept.
#[test]
fn a_crash_while_segments_are_deleted_leaves_a_sound_log() {
    let mut base = World::new(small());
    let last = fill(&mut base, 12);
    let base = base.kill();
    for fate in 0..64_u32 {
        let folder = base.copy();
        folder.faults().yields.set(true);
        let mut world = World::open(&folder, small(), last).unwrap();
        for _ in 0..fate {
            if !world.pool.try_run_one() {
                world.pool.run_until(std::future::ready(()));
            }
        }
        let mut state = fate;
        let cut = folder.crash(&mut |bound| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % bound
        });
        World::open(&cut, small(), last).unwrap_or_else(|error| panic!("fate {fate}: {error}"));
    }
}

#[test]
fn a_reader_at_the_end_of_a_forgotten_epoch_has_missed_nothing() {
    let mut first = World::new(small());
    let newest = first.store(0..10).seq;
    let folder: MemFolder = first.kill();
    let settings = Settings { retain_ms: 0, ..small() };
    let mut second = World::open(&folder, settings, newest).unwrap();
    second.store(0..1);
    second.advance(60_000);
    assert_eq!(second.wal.status().first_seq, second.recovered.reset_seq);
    assert_eq!(second.read(newest).unwrap().len(), 2, "from its position it goes on with the reset");
    let forgotten = ReadRefused::Forgotten { asked: newest - 1, oldest: newest };
    assert_eq!(second.read(newest - 1), Err(forgotten));
}
