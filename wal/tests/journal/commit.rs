//! When a group is written, and what is in it.

use futures::future::FutureExt;
use kvtier_engine::port::{AppendRefused, Journal, ReadRefused};
use kvtier_wal::Settings;
use kvtier_wal::conformance::sample;

use crate::world::{World, plain, samples, settings};

/// A world whose reset record is already durable, with the syncs counted from there.
fn settled(settings: Settings) -> (World, u64) {
    let mut world = World::new(settings);
    world.durable(1).unwrap();
    let syncs = world.folder.sync_count();
    (world, syncs)
}

#[test]
fn a_record_somebody_waits_for_is_written_at_once() {
    let (mut world, syncs) = settled(settings());
    let position = world.append(0..1);
    let waiting = world.wal.durable(position.seq);
    world.run();
    assert_eq!(waiting.now_or_never(), Some(Ok(())), "no time has passed");
    assert_eq!(world.folder.sync_count(), syncs + 1);
}

#[test]
fn a_record_nobody_waits_for_is_written_when_it_is_old_enough() {
    let (mut world, syncs) = settled(settings());
    let position = world.append(0..1);
    world.advance(4);
    assert_eq!(world.wal.status().durable_seq, position.seq - 1);
    world.append(1..3);
    world.advance(1);
    assert_eq!(world.wal.status().durable_seq, position.seq + 2, "the later ones come along");
    assert_eq!(world.folder.sync_count(), syncs + 1);
}

#[test]
fn a_group_that_is_large_enough_does_not_wait() {
    let (mut world, syncs) = settled(Settings { group_commit_bytes_max: 64 << 10, ..settings() });
    let position = world.append(0..1000);
    world.run();
    assert_eq!(world.wal.status().durable_seq, position.seq);
    assert_eq!(world.folder.sync_count(), syncs + 1);
}

#[test]
fn what_comes_while_a_sync_is_in_flight_is_one_group() {
    let (mut world, syncs) = settled(settings());
    world.folder.faults().hold_syncs.set(true);
    let first = world.append(0..1);
    let first_durable = world.wal.durable(first.seq);
    world.run();
    let waiting: Vec<_> = (1..=200).map(|number| world.wal.durable(world.append(number..number + 1).seq)).collect();
    world.run();
    assert_eq!(world.wal.status().durable_seq, first.seq - 1);
    world.folder.release_syncs();
    world.run();
    assert_eq!(first_durable.now_or_never(), Some(Ok(())));
    assert!(waiting.into_iter().all(|waiting| waiting.now_or_never() == Some(Ok(()))));
    assert_eq!(world.folder.sync_count(), syncs + 2, "200 waiters, one sync");
}

#[test]
fn what_piled_up_during_a_slow_sync_is_one_group() {
    let settings = Settings { group_commit_bytes_max: 64 << 10, ..settings() };
    let (mut world, syncs) = settled(settings);
    world.folder.faults().hold_syncs.set(true);
    for number in 0..300 {
        world.append(number * 10..number * 10 + 10);
        world.run();
    }
    world.folder.release_syncs();
    world.run();
    assert_eq!(
        world.folder.sync_count(),
        syncs + 2,
        "the first group was complete after 64 KiB, the second is the rest"
    );
    assert_eq!(world.wal.status().durable_seq, 3001);
}

/// Callers that were released together come back together: one group, not a group for the first and one for the rest.
#[test]
fn the_writer_lingers_for_callers_that_are_likely_to_come_back() {
    let (mut world, _) = settled(settings());
    let round = |world: &mut World| {
        let waiting: Vec<_> = (0..4).map(|number| world.wal.durable(world.append(number..number + 1).seq)).collect();
        world.folder.faults().hold_syncs.set(true);
        world.run();
        world.advance(80);
        world.folder.release_syncs();
        world.run();
        assert!(waiting.into_iter().all(|waiting| waiting.now_or_never() == Some(Ok(()))));
    };
    round(&mut world);
    let syncs = world.folder.sync_count();
    let mut waiting = vec![];
    for number in 0..4 {
        assert_eq!(world.folder.sync_count(), syncs, "{number} of 4 are back");
        waiting.push(world.wal.durable(world.append(number..number + 1).seq));
        world.run();
    }
    assert_eq!(world.folder.sync_count(), syncs + 1, "all are back");
    assert!(waiting.into_iter().all(|waiting| waiting.now_or_never() == Some(Ok(()))));

    round(&mut world);
    let syncs = world.folder.sync_count();
    let alone = world.wal.durable(world.append(0..1).seq);
    world.advance(4);
    assert_eq!(world.folder.sync_count(), syncs);
    world.advance(1);
    assert_eq!(world.folder.sync_count(), syncs + 1, "the others did not come back in time");
    assert_eq!(alone.now_or_never(), Some(Ok(())));
}

#[test]
fn only_durable_records_are_readable() {
    let (mut world, _) = settled(settings());
    world.folder.faults().hold_syncs.set(true);
    let position = world.append(0..3);
    let grown = world.wal.grown(1);
    world.advance(10);
    assert_eq!(world.read(1), Ok(vec![]), "written, not synced");
    assert_eq!(world.read(position.seq), Ok(vec![]), "a position that is on its way is not ahead");
    let ahead = ReadRefused::Future { asked: position.seq + 1, newest: position.seq };
    assert_eq!(world.read(position.seq + 1), Err(ahead));
    world.folder.release_syncs();
    world.pool.run_until(grown);
    assert_eq!(plain(&world.read(1).unwrap()), samples(2, 0..3));
}

#[test]
fn a_full_queue_says_busy_and_recovers() {
    let settings = Settings { queue_bytes_max: 64 << 10, ..settings() };
    let (mut world, _) = settled(settings);
    world.folder.faults().hold_syncs.set(true);
    while world.wal.ready().is_ok() {
        world.append(0..10);
    }
    assert_eq!(world.wal.ready(), Err(AppendRefused::Busy));
    assert!(world.wal.append(vec![sample(1)]).is_ok(), "what was decided before still fits");
    world.folder.release_syncs();
    world.advance(5);
    assert_eq!(world.wal.ready(), Ok(()));
}

#[test]
fn old_records_are_read_from_the_segments() {
    let settings =
        Settings { recent_bytes_max: 0, segment_bytes_max: 64 << 10, group_commit_bytes_max: 64 << 10, ..settings() };
    let (mut world, _) = settled(settings);
    for round in 0..100 {
        world.store(round * 100..round * 100 + 100);
    }
    assert!(world.folder.names().len() > 2, "{:?}", world.folder.names());
    assert_eq!(plain(&world.read_all(0)), samples(2, 0..10_000));
    for after in [1, 77, 4999, 9_999, 10_000] {
        let read = world.wal.read(after, 3);
        let read = world.pool.run_until(read).unwrap();
        let expect = samples(after + 1, after as u32 - 1..(after as u32 + 2).min(10_000));
        assert_eq!(plain(&read), expect, "after {after}");
    }
}

#[test]
fn reads_go_on_while_a_sync_is_in_flight() {
    let settings = Settings { recent_bytes_max: 0, ..settings() };
    let (mut world, _) = settled(settings);
    world.store(0..10);
    world.folder.faults().hold_syncs.set(true);
    world.append(10..20);
    world.advance(5);
    assert_eq!(plain(&world.read(1).unwrap()), samples(2, 0..10));
}

#[test]
fn a_crowd_of_dropped_futures_leaves_nothing_behind() {
    let (mut world, _) = settled(settings());
    world.folder.faults().hold_syncs.set(true);
    let position = world.append(0..1);
    for _ in 0..1000 {
        drop(world.wal.durable(position.seq));
        drop(world.wal.grown(position.seq));
    }
    let kept = world.wal.durable(position.seq);
    world.folder.release_syncs();
    assert_eq!(world.pool.run_until(kept), Ok(()));
    world.store(1..2);
}

#[test]
fn a_writer_that_is_dropped_leaves_nobody_waiting() {
    let (world, _) = settled(settings());
    world.folder.faults().hold_syncs.set(true);
    let position = world.append(0..1);
    let durable = world.wal.durable(position.seq);
    drop(world.pool);
    assert!(durable.now_or_never().unwrap().is_err());
    assert!(matches!(world.wal.append(vec![sample(1)]), Err(AppendRefused::Poisoned(_))));
    assert!(matches!(world.wal.read(0, 1).now_or_never(), Some(Ok(_))), "the recent records are still there");
}

#[test]
fn a_closed_journal_has_written_everything() {
    let (mut world, _) = settled(settings());
    let position = world.append(0..3);
    let durable = world.wal.durable(position.seq);
    world.wal.close();
    assert!(matches!(world.wal.append(vec![sample(9)]), Err(AppendRefused::Suspended(_))));
    assert_eq!(world.pool.run_until(durable), Ok(()));
    let folder = world.close();
    let mut again = World::open(&folder, settings(), 0).unwrap();
    assert_eq!(again.recovered.last_seq, position.seq);
    assert_eq!(plain(&again.read_all(0)), samples(2, 0..3));
}

#[test]
fn growth_is_told_when_something_lies_behind_the_position_not_when_it_is_reached() {
    let (mut world, _) = settled(settings());
    world.folder.faults().hold_syncs.set(true);
    let position = world.append(0..1);
    let mut grown = world.wal.grown(position.seq);
    world.folder.release_syncs();
    world.durable(position.seq).unwrap();
    assert_eq!((&mut grown).now_or_never(), None, "the position itself is durable, nothing after it");
    world.store(1..2);
    assert_eq!(grown.now_or_never(), Some(()));
}
