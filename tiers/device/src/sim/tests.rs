//! What the simulated machine promises beyond the ports' suites.

use std::collections::BTreeSet;

use super::*;
use crate::aligned::AlignedBuffer;
use crate::port::{Disk, DiskError, DiskOp, Folder, Priority};

const PAGE: u64 = 4096;

fn world(seed: u64, faults: Faults) -> (SimWorld, SimDisk) {
    let world = SimWorld::new(seed, faults);
    world.add_disk("disk", 64 * PAGE, 512);
    let disk = world.disk("disk");
    (world, disk)
}

fn write(disk: &SimDisk, page: u64, fill: u8) -> crate::port::BoxFuture<Vec<Result<(), DiskError>>> {
    let from = AlignedBuffer::holding(&[fill; PAGE as usize]).disk_buffer();
    disk.submit(vec![DiskOp::Write { offset: page * PAGE, from }], Priority::Store)
}

fn read(world: &SimWorld, disk: &SimDisk, page: u64) -> Result<Vec<u8>, DiskError> {
    let buffer = AlignedBuffer::zeroed(PAGE as usize);
    let op = DiskOp::Read { offset: page * PAGE, into: buffer.disk_buffer() };
    world.block_on(disk.submit(vec![op], Priority::Load)).remove(0)?;
    Ok(buffer.copy_out(0, PAGE as usize))
}

/// A busy program with faults: writes, reads, syncs, a log, dropped futures, a crash.
fn life(seed: u64, faults: &Faults) -> (Fingerprint, Vec<u8>) {
    let (world, disk) = world(seed, faults.clone());
    let folder = world.folder("log");
    let log = world.block_on(folder.create("a"));
    let mut calls = Vec::new();
    for round in 0..30_u8 {
        calls.push(write(&disk, u64::from(round) * 2, round));
        if round % 3 == 0 {
            drop(write(&disk, u64::from(round) * 2 + 1, round));
        }
        if round % 5 == 0 {
            let _result = world.block_on(disk.sync());
            let _page = read(&world, &disk, u64::from(round));
        }
        if let Ok(log) = &log {
            let _result = world.block_on(log.write_at(u64::from(round) * 100, vec![round; 100]));
        }
        world.step();
    }
    for call in calls {
        let _result = world.block_on(call);
    }
    let fingerprint = world.fingerprint();
    let after = world.crash(seed + 1);
    (fingerprint, after.peek("disk", 0, 64 * PAGE as usize))
}

#[test]
fn the_same_seed_has_the_same_history() {
    for seed in 0..50 {
        assert_eq!(life(seed, &Faults::hostile()), life(seed, &Faults::hostile()), "seed {seed}");
    }
}

#[test]
fn different_seeds_have_different_histories() {
    let hashes: BTreeSet<u64> = (0..50).map(|seed| life(seed, &Faults::ordinary()).0.hash).collect();
    assert_eq!(hashes.len(), 50);
}

#[test]
fn nothing_moves_until_the_world_steps() {
    let (world, disk) = world(1, Faults::default());
    let call = write(&disk, 3, 7);
    assert_eq!(world.peek("disk", 3 * PAGE, 1), [0]);
    assert_eq!((world.under_way_count(), disk.counters().queued_count), (1, 1));
    assert!(world.step());
    assert_eq!(world.peek("disk", 3 * PAGE, 1), [7]);
    assert!(!world.step());
    assert_eq!(world.block_on(call), [Ok(())]);
}

#[test]
fn a_dropped_future_still_has_its_step() {
    let (world, disk) = world(1, Faults::default());
    drop(write(&disk, 3, 7));
    while world.step() {}
    assert_eq!(world.peek("disk", 3 * PAGE, 1), [7]);
}

#[test]
fn operations_complete_in_an_order_of_the_seeds_choice() {
    let last_of = |seed| {
        let (world, disk) = world(seed, Faults::default());
        // Overlapping writes: the last to complete wins.
        (1..=4).for_each(|fill| drop(write(&disk, 0, fill)));
        while world.step() {}
        world.peek("disk", 0, 1)[0]
    };
    assert_eq!((0..100).map(last_of).collect::<BTreeSet<u8>>(), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn memory_reused_before_the_step_is_what_gets_stored() {
    let (world, disk) = world(1, Faults::default());
    let buffer = AlignedBuffer::holding(&[1; PAGE as usize]);
    let call = disk.submit(vec![DiskOp::Write { offset: 0, from: buffer.disk_buffer() }], Priority::Store);
    buffer.copy_in(0, &[2; PAGE as usize]);
    assert_eq!(world.block_on(call), [Ok(())]);
    assert_eq!(world.peek("disk", 0, 1), [2], "a caller that breaks INV-8 is found out");
}

#[test]
fn a_stalled_operation_waits_and_then_completes() {
    let faults = Faults { stall_one_in: 1, stall_steps_max: 10, ..Faults::default() };
    let (world, disk) = world(1, faults);
    let call = write(&disk, 0, 1);
    let steps = (0..100).take_while(|_| world.step()).count();
    assert!((2..=12).contains(&steps), "{steps} steps");
    assert_eq!(world.block_on(call), [Ok(())]);
}

#[test]
fn synced_bytes_survive_every_crash_and_others_some() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let (world, disk) = world(seed, Faults::default());
        world.block_on(write(&disk, 0, 1));
        world.block_on(disk.sync()).expect("an honest disk");
        world.block_on(write(&disk, 1, 2));
        let under_way = write(&disk, 2, 3);
        let after = world.crash(seed);
        assert_eq!(world.block_on(under_way), [Err(DiskError::Closed)]);
        assert_eq!(after.peek("disk", 0, PAGE as usize), [1; PAGE as usize], "seed {seed}");
        let sectors = after.peek("disk", PAGE, 2 * PAGE as usize);
        seen.insert((sectors[0], sectors[512], sectors[PAGE as usize]));
    }
    let torn = seen.contains(&(2, 0, 0)) && seen.contains(&(0, 2, 0));
    let under_way = seen.iter().any(|(_, _, third)| *third == 3);
    assert!(torn && under_way && seen.contains(&(0, 0, 0)) && seen.contains(&(2, 2, 3)), "{seen:?}");
}

#[test]
fn a_write_completed_during_a_sync_is_not_covered_by_it() {
    let survived = |seed| {
        let (world, disk) = world(seed, Faults { tearing: Tearing::Whole, ..Faults::default() });
        let sync = disk.sync();
        let call = write(&disk, 0, 1);
        world.block_on(call);
        world.block_on(sync).expect("an honest disk");
        world.crash(seed).peek("disk", 0, 1)[0]
    };
    assert_eq!((0..100).map(survived).collect::<BTreeSet<u8>>(), BTreeSet::from([0, 1]));
}

#[test]
fn a_dead_machine_answers_closed() {
    let (world, disk) = world(1, Faults::default());
    let folder = world.folder("log");
    let file = world.block_on(folder.create("a")).expect("a new name");
    world.crash(2);
    assert_eq!(world.block_on(write(&disk, 0, 1)), [Err(DiskError::Closed)]);
    assert_eq!(world.block_on(disk.sync()), Err(DiskError::Closed));
    assert!(world.block_on(file.write_at(0, vec![1])).is_err());
    assert!(world.block_on(folder.list()).is_err());
}

#[test]
fn a_failed_sync_poisons_a_disk_until_the_machine_restarts() {
    let (world, disk) = world(1, Faults { sync_error_one_in: 1, ..Faults::default() });
    world.block_on(write(&disk, 0, 1));
    let waiting = write(&disk, 1, 2);
    let error = world.block_on(disk.sync()).expect_err("every sync fails");
    assert!(matches!(error, DiskError::Poisoned(_)));
    world.set_faults(Faults::default());
    assert_eq!(world.block_on(disk.sync()), Err(error.clone()), "nobody retries a sync");
    assert_eq!(world.block_on(write(&disk, 2, 3)), [Err(error.clone())]);
    // It came before the failure; whether it got through depends on the order.
    let _either = world.block_on(waiting);
    assert_eq!(read(&world, &disk, 0), Ok(vec![1; PAGE as usize]));
    assert_eq!(disk.poisoned().map(DiskError::Poisoned), Some(error));
    let after = world.crash(2);
    assert_eq!(after.disk("disk").poisoned(), None);
}

#[test]
fn each_fault_does_what_it_says() {
    let always = |faults: Faults| {
        let (world, disk) = world(5, Faults::default());
        (0..64).for_each(|page| drop(world.block_on(write(&disk, page, page as u8 + 1))));
        world.block_on(disk.sync()).expect("an honest disk");
        world.set_faults(faults);
        (world, disk)
    };
    let (world, disk) = always(Faults { read_error_one_in: 1, ..Faults::default() });
    assert!(matches!(read(&world, &disk, 0), Err(DiskError::Io(text)) if text.contains("EIO")));
    let (world, disk) = always(Faults { write_error_one_in: 1, ..Faults::default() });
    assert!(matches!(&world.block_on(write(&disk, 0, 0))[..], [Err(DiskError::Io(text))] if text.contains("EIO")));
    let (world, disk) = always(Faults { disk_full_one_in: 1, ..Faults::default() });
    assert!(matches!(&world.block_on(write(&disk, 0, 0))[..], [Err(DiskError::Io(text))] if text.contains("ENOSPC")));
    assert_eq!(world.peek("disk", 0, 1), [1]);
    let (world, disk) = always(Faults { misdirected_read_one_in: 1, ..Faults::default() });
    assert_ne!(read(&world, &disk, 0), Ok(vec![1; PAGE as usize]));
    let (world, disk) = always(Faults { misdirected_write_one_in: 1, ..Faults::default() });
    assert_eq!(world.block_on(write(&disk, 0, 200)), [Ok(())]);
    assert_eq!(world.peek("disk", 0, 1), [1], "the right place is stale");
    assert!((0..64).any(|page| world.peek("disk", page * PAGE, 1) == [200]), "the wrong place is hit");
    let (world, disk) = always(Faults { rot_one_in: 1, ..Faults::default() });
    let rotten = read(&world, &disk, 0).expect("a read");
    let flipped: u32 = rotten.iter().map(|byte| (byte ^ 1).count_ones()).sum();
    assert_eq!(flipped, 1);
    let (world, disk) = always(Faults { lost_sync_one_in: 1, tearing: Tearing::Whole, ..Faults::default() });
    world.block_on(write(&disk, 0, 200));
    assert_eq!(world.block_on(disk.sync()), Ok(()));
    let lost = (0..50).any(|seed| world.image().restart(seed).peek("disk", 0, 1) == [1]);
    assert!(lost, "the sync was a lie");
}

#[test]
fn a_full_folder_takes_what_fits_and_says_so() {
    let world = SimWorld::new(1, Faults { folder_bytes_max: Some(1000), ..Faults::default() });
    let folder = world.folder("log");
    let file = world.block_on(folder.create("a")).expect("a new name");
    world.block_on(file.write_at(0, vec![1; 600])).expect("it fits");
    let error = world.block_on(file.write_at(600, vec![2; 600])).expect_err("it does not fit");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(world.peek_file("log", "a").map(|content| content.len()), Some(1000));
    world.block_on(file.write_at(0, vec![3; 1000])).expect("overwriting needs no room");
    world.block_on(file.truncate(10)).expect("a cut");
    world.block_on(file.write_at(10, vec![4; 900])).expect("there is room again");
}

#[test]
fn images_are_kept_before_and_after_every_sync() {
    let (world, disk) = world(1, Faults { tearing: Tearing::Whole, ..Faults::default() });
    let folder = world.folder("log");
    world.record_images(100);
    world.block_on(write(&disk, 0, 1));
    world.block_on(disk.sync()).expect("an honest disk");
    let file = world.block_on(folder.create("a")).expect("a new name");
    world.block_on(file.write_at(0, b"x".to_vec())).expect("a write");
    world.block_on(file.sync()).expect("an honest disk");
    world.block_on(folder.sync()).expect("an honest disk");
    let images = world.take_images();
    let counts: Vec<u64> = images.iter().map(SimImage::sync_count).collect();
    assert_eq!((counts, world.sync_count()), (vec![1, 1, 2, 2, 3, 3], 3));
    let pages =
        |image: &SimImage| -> BTreeSet<u8> { (0..50).map(|seed| image.restart(seed).peek("disk", 0, 1)[0]).collect() };
    assert_eq!(pages(&images[0]), BTreeSet::from([0, 1]), "before the first sync it may be lost");
    assert_eq!(pages(&images[1]), BTreeSet::from([1]), "after it, not");
    let names: BTreeSet<_> = (0..50).map(|seed| images[4].restart(seed).peek_file("log", "a")).collect();
    assert_eq!(names, BTreeSet::from([None, Some(b"x".to_vec())]), "the name is not durable yet");
    assert_eq!(images[5].restart(1).peek_file("log", "a"), Some(b"x".to_vec()));
    assert!(world.take_images().is_empty());
}

#[test]
fn tampering_is_durable_and_silent() {
    let (world, disk) = world(1, Faults::default());
    world.poke("disk", 100, b"tampered");
    assert_eq!(read(&world, &disk, 0).expect("a read")[100..108], *b"tampered");
    assert_eq!(world.crash(2).peek("disk", 100, 8), b"tampered");
    let world = SimWorld::new(1, Faults::default());
    let folder = world.folder("log");
    let file = world.block_on(folder.create("a")).expect("a new name");
    world.block_on(file.write_at(0, b"honest".to_vec())).expect("a write");
    world.poke_file("log", "a", 1, b"0");
    assert_eq!(world.peek_file("log", "a"), Some(b"h0nest".to_vec()));
    assert_eq!(world.peek_file("log", "b"), None);
}

#[test]
fn too_many_operations_are_busy() {
    let (world, disk) = world(1, Faults::default());
    let calls: Vec<_> = (0..5000).map(|_| write(&disk, 0, 1)).collect();
    let answers: Vec<_> = calls.into_iter().map(|call| world.block_on(call)).collect();
    let busy = answers.iter().filter(|answers| **answers == [Err(DiskError::Busy)]).count();
    assert_eq!(busy, 5000 - 4096);
}

#[test]
#[should_panic(expected = "nothing is under way")]
fn a_future_that_can_never_be_ready_is_told() {
    SimWorld::new(1, Faults::default()).block_on(std::future::pending::<()>());
}
