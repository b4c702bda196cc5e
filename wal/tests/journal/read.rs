//! Reading: from memory, from segments, across epochs, many at once, and while segments go away.

use futures::future::FutureExt;
use kvtier_engine::port::{Journal, ReadRefused, Record};
use kvtier_wal::conformance::sample;
use kvtier_wal::{Settings, WalError};

use crate::world::{MemFolder, World, plain, samples, settings};

/// Nothing is kept in memory: every read goes to the segments.
fn from_disk() -> Settings {
    Settings {
        recent_bytes_max: 0,
        segment_bytes_max: 64 << 10,
        group_commit_bytes_max: 64 << 10,
        retain_bytes: 128 << 10,
        wal_bytes_max: 1 << 20,
        ..settings()
    }
}

/// A log of four epochs, and what is in it.
fn epochs() -> (MemFolder, Vec<(u64, Record)>) {
    let mut folder = MemFolder::default();
    let mut expect = vec![];
    for epoch in 0..4_u32 {
        let mut world = World::open(&folder, from_disk(), 0).unwrap();
        let last = world.store(epoch * 1000..epoch * 1000 + 700).seq;
        expect.extend(samples(last - 699, epoch * 1000..epoch * 1000 + 700));
        folder = world.kill();
    }
    (folder, expect)
}

#[test]
fn a_read_goes_on_through_epochs_and_gaps() {
    let (folder, expect) = epochs();
    for recent_bytes_max in [0, 100_000, 16 << 20] {
        let mut world = World::open(&folder.copy(), Settings { recent_bytes_max, ..from_disk() }, 0).unwrap();
        let all = world.read_all(0);
        assert_eq!(plain(&all), expect);
        let epochs: Vec<_> = all.iter().map(|(position, _)| position.epoch).collect();
        assert!(epochs.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(epochs.iter().filter(|epoch| **epoch == 3).count(), 701);
    }
}

#[test]
fn every_position_leads_to_the_record_behind_it() {
    let (folder, expect) = epochs();
    let mut world = World::open(&folder, from_disk(), 0).unwrap();
    let all: Vec<_> = world.read_all(0).into_iter().map(|(position, _)| position.seq).collect();
    for (index, seq) in all.iter().enumerate().step_by(37) {
        // In front of it, anywhere in a gap in front of it, and in pages of one and of three.
        let before = index.checked_sub(1).map_or(0, |before| all[before]);
        for after in [seq - 1, before, before + (seq - 1 - before) / 2] {
            for count_max in [1, 3] {
                let read = world.wal.read(after, count_max);
                let read: Vec<_> =
                    world.pool.run_until(read).unwrap().iter().map(|(position, _)| position.seq).collect();
                let page = &all[index..(index + count_max).min(all.len())];
                assert_eq!(read, page[..read.len()], "after {after}");
                assert!(!read.is_empty());
            }
        }
    }
    assert_eq!(expect.len(), 2800);
}

#[test]
fn a_read_of_no_records_is_empty() {
    let mut world = World::new(from_disk());
    world.store(0..10);
    let read = world.wal.read(0, 0);
    assert_eq!(world.pool.run_until(read), Ok(vec![]));
}

#[test]
fn many_readers_are_served_and_too_many_are_refused() {
    let mut world = World::new(from_disk());
    world.store(0..10);
    let mut reads: Vec<_> = (0..1024).map(|_| world.wal.read(0, 100)).collect();
    let refused = world.wal.read(0, 100).now_or_never();
    assert!(matches!(refused, Some(Err(ReadRefused::Unreadable(_)))), "{refused:?}");
    // Those who leave give up their turn.
    reads.truncate(100);
    world.run();
    for read in reads {
        assert_eq!(plain(&read.now_or_never().unwrap().unwrap()), samples(2, 0..10));
    }
    assert_eq!(world.read(0).unwrap().len(), 11);
}

#[test]
fn a_reader_is_told_when_retention_was_faster() {
    let mut world = World::new(from_disk());
    let mut number = 0;
    while world.folder.names().len() < 8 {
        world.store(number..number + 100);
        number += 100;
    }
    let last = world.wal.status().durable_seq;
    let slow = world.wal.read(0, 10);
    world.wal.covered(last);
    world.run();
    let oldest = world.wal.status().first_seq - 1;
    assert!(oldest > 0);
    // Either it was read before the segment went, or it is told what is left. Never a hole.
    match slow.now_or_never().unwrap() {
        Ok(read) => assert_eq!(read[0].0.seq, 1),
        Err(refused) => assert_eq!(refused, ReadRefused::Forgotten { asked: 0, oldest }),
    }
    assert_eq!(world.read(0), Err(ReadRefused::Forgotten { asked: 0, oldest }));
}

/// An operator deletes a file under the running daemon.
#[test]
fn a_segment_that_vanished_is_an_error_not_a_hole() {
    let mut world = World::new(from_disk());
    let mut number = 0;
    while world.folder.names().len() < 3 {
        world.store(number..number + 100);
        number += 100;
    }
    world.folder.delete(&world.folder.names()[1].clone());
    let first = world.read(0).unwrap();
    let read: Vec<_> = first.iter().map(|(position, _)| position.seq).collect();
    assert_eq!(read, (1..=read.len() as u64).collect::<Vec<_>>());
    let refused = world.read(*read.last().unwrap());
    assert!(matches!(refused, Err(ReadRefused::Unreadable(_))), "{refused:?}");
}

#[test]
fn a_position_that_was_skipped_is_neither_forgotten_nor_ahead() {
    let (folder, expect) = epochs();
    let mut world = World::open(&folder, from_disk(), 0).unwrap();
    let last = expect.last().unwrap().0;
    let reset = world.recovered.reset_seq;
    world.store(0..1);
    for after in [last, last + 1, reset - 1] {
        let read = world.read(after).unwrap();
        assert_eq!(read[0].0.seq, reset, "after {after}");
    }
}

#[test]
fn growth_is_told_to_everybody_who_waits() {
    let mut world = World::new(from_disk());
    let newest = world.store(0..1).seq;
    let waiting: Vec<_> = (0..50).map(|_| world.wal.grown(newest)).collect();
    let far = world.wal.grown(newest + 2);
    world.store(1..2);
    assert!(waiting.into_iter().all(|grown| grown.now_or_never() == Some(())));
    world.store(2..3);
    world.run();
    let mut far = far;
    assert_eq!((&mut far).now_or_never(), None);
    world.store(3..4);
    assert_eq!(far.now_or_never(), Some(()));
}

/// The future of the writer is dropped after every possible number of polls: nobody is left waiting, nothing panics, and
/// the log opens again with everything that was promised.
#[test]
fn a_writer_dropped_at_any_await_leaves_nobody_waiting() {
    for polls in 0..80 {
        let folder = MemFolder::default();
        folder.faults().yields.set(true);
        let mut world = World::open(&folder, from_disk(), 0).unwrap();
        world.append(0..1500);
        let durable = world.wal.durable(900);
        let read = world.wal.read(0, 10);
        for _ in 0..polls {
            world.pool.try_run_one();
        }
        world.append(1500..1600);
        let late = world.wal.durable(1601);
        drop(world.pool);
        let promised = durable.now_or_never().expect("it is told").is_ok();
        assert!(late.now_or_never().expect("it is told").is_err() || promised);
        assert!(read.now_or_never().is_some());
        let again = World::open(&folder.kill(), from_disk(), 0).unwrap();
        assert!(!promised || again.recovered.last_seq >= 900, "after {polls} polls");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_all_reasons() {
    let wrong = Settings { segment_bytes_max: 1, retry_ms_min: 0, ..settings() };
    let error = World::open(&MemFolder::default(), wrong, 0).map(|_| ()).unwrap_err();
    let WalError::Settings(problems) = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 3, "{error}");
    assert!(error.to_string().contains("segment_bytes_max is 1: it must lie between 65536 and 1073741824"), "{error}");
    assert!(World::new(settings()).wal.append(vec![sample(0)]).is_ok());
}
