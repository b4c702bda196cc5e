//! Disk full, log full, failed syncs: what is lost, who hears of it, and how it goes on.

use futures::future::FutureExt;
use kvtier_engine::port::{AppendRefused, Journal, JournalError, JournalState, Record};
use kvtier_wal::conformance::sample;
use kvtier_wal::segment::file_name;
use kvtier_wal::{Settings, fsck};

use crate::world::{World, plain, samples, settings};

fn suspended(world: &World) -> bool {
    matches!(world.wal.status().state, JournalState::Suspended(_))
}

/// A world with three durable samples and a disk that is full from here on.
fn full_disk() -> (World, u64) {
    let mut world = World::new(settings());
    let kept = world.store(0..3).seq;
    let used: usize = world.folder.names().iter().map(|name| world.folder.bytes_of(name).len()).sum();
    world.folder.faults().space_bytes.set(Some(used as u64 + 40));
    (world, kept)
}

#[test]
fn a_full_disk_suspends_and_a_new_epoch_begins_when_there_is_room() {
    let (mut world, kept) = full_disk();
    let lost = world.append(3..100);
    let waiting = world.wal.durable(lost.seq);
    let error = world.pool.run_until(waiting);
    assert!(matches!(error, Err(JournalError::Suspended(_))), "{error:?}");
    assert!(suspended(&world));
    assert!(matches!(world.wal.ready(), Err(AppendRefused::Suspended(_))));
    assert!(matches!(world.wal.append(vec![sample(1)]), Err(AppendRefused::Suspended(_))));
    assert_eq!(plain(&world.read_all(0)), samples(2, 0..3), "reads go on");

    let grown = world.wal.grown(kept);
    world.folder.faults().space_bytes.set(None);
    world.advance(100);
    assert_eq!(grown.now_or_never(), Some(()), "subscribers hear of the new epoch");
    assert_eq!(world.wal.status().state, JournalState::Open);
    assert_eq!(world.wal.status().epoch, 2);
    let after = world.read(kept).unwrap();
    assert!(matches!(&after[0].1, Record::Reset { epoch: 2, reason } if reason.contains("gap")), "{after:?}");
    assert_eq!(after[0].0.seq, lost.seq + 1, "lost numbers are not used again");
    assert!(matches!(world.wal.durable(lost.seq).now_or_never(), Some(Err(JournalError::Suspended(_)))));

    let next = world.store(100..103);
    assert_eq!(next.epoch, 2);
    let folder = world.kill();
    let mut again = World::open(&folder, settings(), next.seq).unwrap();
    let all = plain(&again.read_all(0));
    assert_eq!(all, [samples(2, 0..3), samples(next.seq - 2, 100..103)].concat());
    assert_eq!(again.recovered.epoch, 3);
}

#[test]
fn attempts_back_off_while_the_disk_stays_full() {
    let (mut world, _) = full_disk();
    world.append(3..100);
    world.advance(5);
    assert!(suspended(&world));
    let mut attempts = vec![];
    for second in 0..30 {
        let before = world.folder.write_count();
        for _ in 0..20 {
            world.advance(50);
        }
        attempts.push(world.folder.write_count() - before);
        assert!(suspended(&world), "second {second}");
    }
    assert!(attempts[0] >= 2 && attempts[0] <= 4, "{attempts:?}");
    assert!(attempts[20..].iter().sum::<u64>() <= 3, "{attempts:?}");
    assert_eq!(world.folder.names().len(), 1, "failed attempts leave no files");
    let used: usize = world.folder.names().iter().map(|name| world.folder.bytes_of(name).len()).sum();
    // Room for the new segment's header, not for its reset record.
    world.folder.faults().space_bytes.set(Some(used as u64 + 90));
    world.advance(20_000);
    assert!(suspended(&world));
    world.folder.faults().space_bytes.set(None);
    world.advance(5_000);
    assert_eq!(world.wal.status().state, JournalState::Open);
    world.store(0..1);
    let report = futures::executor::block_on(fsck::inspect(&world.folder, 0)).unwrap();
    assert_eq!(report.damage, vec![]);
}

#[test]
fn a_segment_that_cannot_be_created_suspends() {
    let settings = Settings { segment_bytes_max: 64 << 10, group_commit_bytes_max: 64 << 10, ..settings() };
    let mut world = World::new(settings.clone());
    world.store(0..1);
    world.folder.faults().failing_creates.set(2);
    let mut number = 1;
    while !suspended(&world) {
        world.append(number..number + 100);
        world.advance(5);
        number += 100;
    }
    world.advance(100);
    assert!(suspended(&world), "the second attempt failed too");
    world.advance(200);
    assert_eq!(world.wal.status().epoch, 2);
    let position = world.store(0..1);
    World::open(&world.kill(), settings, position.seq).unwrap();
}

#[test]
fn a_full_disk_does_not_keep_a_log_from_opening() {
    let (world, kept) = full_disk();
    let folder = world.folder.copy();
    let used: usize = folder.names().iter().map(|name| folder.bytes_of(name).len()).sum();
    folder.faults().space_bytes.set(Some(used as u64));
    let mut again = World::open(&folder, settings(), 0).unwrap();
    assert!(suspended(&again));
    assert!(again.wal.append(vec![sample(0)]).is_err(), "no number is given out before its segment is durable");
    assert_eq!(plain(&again.read_all(0)), samples(2, 0..3));
    folder.faults().space_bytes.set(None);
    again.advance(100);
    assert_eq!(again.wal.status().state, JournalState::Open);
    assert_eq!(again.wal.status().epoch, 2);
    assert_eq!(again.read(kept).unwrap()[0].0.epoch, 2);
}

#[test]
fn a_failed_sync_poisons_for_good() {
    let mut world = World::new(settings());
    world.store(0..3);
    world.folder.faults().failing_syncs.set(1);
    let position = world.append(3..6);
    let others: Vec<_> = (0..5).map(|_| world.wal.durable(position.seq)).collect();
    world.run();
    for other in others {
        assert!(matches!(other.now_or_never(), Some(Err(JournalError::Poisoned(_)))));
    }
    let syncs = world.folder.sync_count();
    world.advance(60_000);
    assert!(matches!(world.wal.append(vec![sample(1)]), Err(AppendRefused::Poisoned(_))));
    assert!(matches!(world.wal.ready(), Err(AppendRefused::Poisoned(_))));
    assert!(matches!(world.wal.status().state, JournalState::Poisoned(_)));
    assert_eq!(world.folder.sync_count(), syncs, "nobody retries a sync (INV-7)");
    assert_eq!(plain(&world.read_all(0)), samples(2, 0..3), "what was durable stays readable");
    assert_eq!(world.durable(4), Ok(()), "and durable");
    let folder = world.kill();
    World::open(&folder, settings(), 4).unwrap();
}

#[test]
fn a_write_that_fails_for_an_unknown_reason_poisons() {
    let mut world = World::new(settings());
    world.store(0..3);
    world.folder.faults().failing_writes.set(1);
    let position = world.append(3..6);
    assert!(matches!(world.durable(position.seq), Err(JournalError::Poisoned(_))));
}

#[test]
fn a_queue_over_its_hard_bound_is_a_gap_and_a_new_epoch() {
    let settings = Settings { queue_bytes_max: 64 << 10, ..settings() };
    let mut world = World::new(settings);
    world.store(0..3);
    world.folder.faults().hold_syncs.set(true);
    let in_flight = world.append(3..4);
    world.advance(5);
    let (mut lost, mut number) = (0, 1000);
    let refused = loop {
        match world.wal.append((number..number + 50).map(sample).collect()) {
            Ok(position) => lost = position.seq,
            Err(refused) => break refused,
        }
        number += 50;
    };
    assert!(matches!(refused, AppendRefused::Suspended(_)), "never Busy: {refused}");
    let lost_durable = world.wal.durable(lost);
    world.folder.release_syncs();
    assert!(matches!(world.pool.run_until(lost_durable), Err(JournalError::Suspended(_))));
    world.run();
    assert_eq!(world.durable(in_flight.seq), Ok(()), "the group in flight was written");
    assert_eq!(world.wal.status().state, JournalState::Open, "there is nothing to wait for");
    let position = world.store(5..6);
    assert_eq!(position.epoch, 2);
    let all = plain(&world.read_all(0));
    assert_eq!(all, [samples(2, 0..4), samples(position.seq, 5..6)].concat());
}

#[test]
fn a_record_that_is_too_large_is_refused_and_disturbs_nobody() {
    let mut world = World::new(settings());
    let huge = Record::Reset { epoch: 9, reason: "x".repeat(2 << 20) };
    let refused = world.wal.append(vec![sample(0), huge]);
    assert!(matches!(&refused, Err(AppendRefused::Suspended(reason)) if reason.contains("exceeds")), "{refused:?}");
    assert_eq!(world.store(0..1).seq, 2);
    assert_eq!(world.wal.status().epoch, 1);
}

#[test]
fn a_log_at_its_cap_waits_for_the_index() {
    let settings = Settings {
        segment_bytes_max: 64 << 10,
        group_commit_bytes_max: 64 << 10,
        retain_bytes: 128 << 10,
        wal_bytes_max: 384 << 10,
        ..settings()
    };
    let mut world = World::new(settings.clone());
    let mut number = 0;
    while !suspended(&world) {
        world.append(number..number + 100);
        world.advance(5);
        number += 100;
        assert!(world.wal.status().bytes <= 384 << 10);
    }
    let status = world.wal.status();
    assert!(matches!(&status.state, JournalState::Suspended(reason) if reason.contains("wal_bytes_max")), "{status:?}");
    assert_eq!(status.first_seq, 1, "nothing the index lacks was deleted");
    world.advance(10_000);
    assert!(suspended(&world), "waiting does not help");
    world.wal.covered(status.durable_seq);
    world.advance(10_000);
    assert_eq!(world.wal.status().state, JournalState::Open, "covering does");
    assert!(world.wal.status().bytes <= (128 + 64) << 10);
    let position = world.store(0..10);
    World::open(&world.kill(), settings, position.seq).unwrap();
}

#[test]
fn a_reset_that_was_never_written_is_not_in_the_way_of_the_next() {
    let (mut world, _) = full_disk();
    world.append(3..100);
    world.advance(5);
    world.folder.faults().space_bytes.set(None);
    world.folder.faults().failing_syncs.set(1);
    world.advance(100);
    assert!(matches!(world.wal.status().state, JournalState::Poisoned(_)), "the sync of the cut failed");
    let folder = world.kill();
    let mut again = World::open(&folder, settings(), 0).unwrap();
    again.store(0..1);
    assert!(!folder.names().is_empty() && folder.names()[0] == file_name(1));
}
