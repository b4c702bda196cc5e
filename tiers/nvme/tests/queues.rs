//! Order, bounds, sharing and the breaker.

mod rig;

use std::time::Duration;

use futures::FutureExt;
use kvtier_device::{Disk, DiskCounters, DiskError, DiskOp, Priority};
use kvtier_engine::port::{BoxFuture, Clock, DeviceState, Load, LoadOutcome, StoreOutcome, Tier, TierError, Verify};
use kvtier_nvme::NvmeSettings;
use kvtier_nvme::fake::Fault;
use rig::{MIB, Rig, expect, payload, settings};

const LENGTH: u32 = 4096;

#[test]
fn a_batch_is_submitted_at_once_in_the_order_of_the_device() {
    let rig = Rig::new();
    let slots = [9, 0, 5, 2, 1, 6];
    let stores: Vec<_> =
        slots.map(|at| rig.plan(at, 1, LENGTH, rig.host(at, LENGTH), rig.slot(at, LENGTH))).into_iter().collect();
    let expects: Vec<_> = stores.iter().map(|store| (store.from, store.to, expect(&store.header))).collect();
    assert_eq!(rig.run(rig.tier.store(stores)), vec![StoreOutcome::Written; 6]);
    let loads = expects.iter().map(|&(into, from, expect)| Load { from, into, expect }).collect();
    let writes = rig.disk().take_submitted();
    assert_eq!(rig.run(rig.tier.load(loads)), vec![LoadOutcome::Verified; 6]);
    let reads = rig.disk().take_submitted();
    for (transfers, priority) in [(writes, Priority::Store), (reads, Priority::Load)] {
        let offsets: Vec<_> = transfers.iter().map(|transfer| transfer.offset).collect();
        assert_eq!(offsets, [0, 1, 2, 5, 6, 9].map(|at| rig.slot(at, LENGTH).offset));
        for transfer in &transfers {
            assert_eq!((transfer.batch, transfer.priority), (transfers[0].batch, priority));
            assert_eq!(transfer.write, priority == Priority::Store);
            assert!(transfer.registered, "host slots are registered memory");
        }
    }
    let counters = rig.tier.counters()[0];
    assert_eq!((counters.stores_written, counters.loads_verified), (6, 6));
}

#[test]
fn only_the_bytes_of_a_block_are_moved_not_those_of_its_slot() {
    let rig = Rig::new();
    let slot = kvtier_engine::place::Slot { bytes: 65536, ..rig.slot(0, 4096) };
    let store = rig.plan(1, 1, 100, rig.host(0, 4096), slot);
    assert_eq!(rig.run(rig.tier.store(vec![store])), [StoreOutcome::Written]);
    assert_eq!(rig.disk().take_submitted()[0].bytes, 8192);
}

#[test]
fn scrubbing_is_idle_work_in_scratch_memory() {
    let rig = Rig::new();
    let (slot, expect) = rig.put(1, 1, 100_000);
    rig.disk().take_submitted();
    assert_eq!(rig.verify(slot, expect), LoadOutcome::Verified);
    let reads = rig.disk().take_submitted();
    assert!(reads.iter().all(|read| read.priority == Priority::Idle && !read.registered), "{reads:?}");
    assert_eq!(rig.tier.counters()[0].scrubs_verified, 1);
}

#[test]
fn a_block_larger_than_a_lane_is_verified_piece_by_piece() {
    let mib = MIB as u32;
    let settings = NvmeSettings { extent_bytes: 4 * MIB, ..settings(1, 8) };
    for length in [mib - 1, mib, mib + 1, 3 * mib + 17] {
        let rig = Rig::with(1, settings.clone());
        let (slot, expect) = rig.put(0, 1, length);
        rig.disk().take_submitted();
        assert_eq!(rig.verify(slot, expect), LoadOutcome::Verified, "{length}");
        let reads = rig.disk().take_submitted();
        assert_eq!(reads.len() as u32, length.div_ceil(mib), "{length}");
        for at in [0, length / 2, length - 1] {
            let place = slot.offset as usize + 4096 + at as usize;
            rig.disk().edit(|bytes| bytes[place] ^= 1);
            assert!(matches!(rig.verify(slot, expect), LoadOutcome::Corrupt(_)), "{length} at {at}");
            rig.disk().edit(|bytes| bytes[place] ^= 1);
        }
    }
}

#[test]
fn scrubbing_keeps_its_rate() {
    let rig = Rig::with(1, NvmeSettings { scrub_bytes_per_second: 8192, ..settings(1, 8) });
    let (at, expect) = rig.put(1, 1, LENGTH);
    let begin = rig.clock.now();
    let verifies = vec![Verify { at, expect }; 11];
    assert_eq!(rig.run(rig.tier.verify(verifies)), vec![LoadOutcome::Verified; 11]);
    assert_eq!(rig.clock.now().since(begin), Duration::from_secs(10), "one block a second, the first at once");
}

#[test]
fn loads_are_at_the_device_before_the_call_returns() {
    let rig = Rig::new();
    let (from, expect) = rig.put(1, 1, LENGTH);
    rig.disk().take_submitted();
    let future = rig.tier.load(vec![Load { from, into: rig.host(1, LENGTH), expect }]);
    assert_eq!(rig.disk().take_submitted().len(), 1, "nobody has polled yet");
    drop(future);
}

#[test]
fn verifying_overlaps_reading_in_large_batches() {
    let rig = Rig::with(1, settings(1, 16));
    let length = 120 << 10;
    let slots: Vec<_> = (0..60).map(|seed| rig.slot(seed, length)).collect();
    let stores = slots.iter().zip(0..).map(|(&to, seed)| rig.plan(seed, 1, length, rig.host(seed, length), to));
    let stores: Vec<_> = stores.collect();
    let expects: Vec<_> = stores.iter().map(|store| expect(&store.header)).collect();
    assert_eq!(rig.run(rig.tier.store(stores)), vec![StoreOutcome::Written; 60]);
    let batches = |transfers: &[kvtier_nvme::fake::Submitted]| {
        let mut numbers: Vec<_> = transfers.iter().map(|transfer| transfer.batch).collect();
        numbers.dedup();
        numbers.len()
    };
    assert_eq!(batches(&rig.disk().take_submitted()), 2, "7.4 MiB in chunks of 4");
    let load =
        |seed: u64| Load { from: slots[seed as usize], into: rig.host(seed, length), expect: expects[seed as usize] };
    assert_eq!(rig.run(rig.tier.load((0..60).map(load).collect())), vec![LoadOutcome::Verified; 60]);
    assert_eq!(batches(&rig.disk().take_submitted()), 2);
}

#[test]
fn more_than_the_queue_holds_is_answered_busy_and_the_places_come_back() {
    let rig = Rig::with(1, NvmeSettings { queue_ops: 3, ..settings(1, 8) });
    let (from, expect) = rig.put(1, 1, LENGTH);
    let loads = |count: u64| (0..count).map(|at| Load { from, into: rig.host(at + 2, LENGTH), expect }).collect();
    rig.disk().hold();
    let first = rig.tier.load(loads(2));
    let second = rig.tier.load(loads(2));
    let third = rig.run(rig.tier.load(loads(1)));
    assert_eq!(third, [LoadOutcome::Failed(TierError::Busy)], "answered while the device is stuck");
    let store = rig.plan(1, 2, LENGTH, rig.host(0, LENGTH), rig.slot(5, LENGTH));
    let stored = rig.tier.store(vec![store]);
    rig.tasks.run_ready();
    assert_eq!(rig.tier.health()[0].queued_count, 4, "three loads and a store: each has its own bound");
    rig.disk().release();
    assert_eq!(rig.run(first), vec![LoadOutcome::Verified; 2]);
    assert_eq!(rig.run(second), [LoadOutcome::Verified, LoadOutcome::Failed(TierError::Busy)]);
    assert_eq!(rig.run(stored), [StoreOutcome::Written]);
    assert_eq!(rig.run(rig.tier.load(loads(3))), vec![LoadOutcome::Verified; 3]);
    assert_eq!(rig.tier.health()[0].queued_count, 0);
}

#[test]
fn a_busy_disk_is_busy_and_no_reason_to_open_the_breaker() {
    let rig = Rig::with(1, NvmeSettings { breaker_errors: 1, ..settings(1, 8) });
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.disk().inject(Fault::Busy);
    assert_eq!(rig.load(slot, expect), LoadOutcome::Failed(TierError::Busy));
    assert_eq!(rig.tier.health()[0].state, DeviceState::Up);
}

#[test]
fn dropped_operations_finish_and_give_their_places_back() {
    for seed in 0..50 {
        let rig = Rig::with(seed, settings(1, 8));
        let (from, old) = rig.put(1, 1, LENGTH);
        rig.disk().hold();
        let store = rig.plan(2, 1, LENGTH, rig.host(0, LENGTH), rig.slot(2, LENGTH));
        let (to, new) = (store.to, expect(&store.header));
        drop(rig.tier.store(vec![store]));
        drop(rig.tier.load(vec![Load { from, into: rig.host(1, LENGTH), expect: old }]));
        drop(rig.tier.verify(vec![Verify { at: from, expect: old }]));
        drop(rig.tier.sync(vec![0]));
        rig.tasks.run_ready();
        assert!(rig.disk().held_count() >= 3, "all are at the device although nobody waits");
        rig.disk().release();
        rig.tasks.run_ready();
        assert_eq!(rig.tier.health()[0].queued_count, 0);
        assert_eq!(rig.load(to, new), LoadOutcome::Verified);
        let counters = rig.tier.counters()[0];
        assert_eq!((counters.stores_written, counters.scrubs_verified, counters.syncs), (2, 1, 1));
    }
}

#[test]
fn waiting_syncs_share_the_next_one_and_never_a_running_one() {
    let rig = Rig::new();
    rig.disk().hold();
    let first = rig.tier.sync(vec![0]);
    rig.tasks.run_ready();
    assert_eq!(rig.disk().held_count(), 1, "the first runs");
    let others: Vec<_> = (0..10).map(|_| rig.tier.sync(vec![0])).collect();
    rig.tasks.run_ready();
    assert_eq!(rig.disk().held_count(), 1, "the others wait for the next");
    rig.disk().release();
    assert_eq!(rig.run(first), Ok(()));
    for other in others {
        assert_eq!(rig.run(other), Ok(()));
    }
    assert_eq!(rig.tier.counters()[0].syncs, 2);
}

#[test]
fn a_failed_sync_poisons_the_device_for_stores_and_not_for_loads() {
    let rig = Rig::with(1, settings(2, 8));
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.disk().inject(Fault::SyncFails);
    let Err(TierError::Poisoned { device: 0, cause }) = rig.run(rig.tier.sync(vec![0, 1])) else { panic!("must fail") };
    assert!(cause.contains("fdatasync"), "{cause}");
    let syncs = rig.tier.counters()[0].syncs;
    assert!(matches!(rig.sync(), Err(TierError::Poisoned { .. })));
    assert_eq!(rig.tier.counters()[0].syncs, syncs, "INV-7: nobody tries again");
    let store = rig.plan(2, 1, LENGTH, rig.host(0, LENGTH), rig.slot(2, LENGTH));
    let other =
        kvtier_engine::port::Store { to: kvtier_engine::place::Slot { device: 1, ..store.to }, ..store.clone() };
    let outcomes = rig.run(rig.tier.store(vec![store, other]));
    assert!(matches!(outcomes[0], StoreOutcome::Failed(TierError::Poisoned { device: 0, .. })), "{outcomes:?}");
    assert_eq!(outcomes[1], StoreOutcome::Written, "the other device is well");
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified);
    let states: Vec<_> = rig.tier.health().into_iter().map(|health| health.state).collect();
    assert_eq!(states, [DeviceState::Poisoned, DeviceState::Up]);
    assert!(rig.tier.health()[0].detail.contains("restart the daemon"));
}

/// A disk that forgets that its sync failed, as a page cache does: the next sync of the same file "succeeds".
struct Forgetful(std::sync::Arc<kvtier_nvme::fake::HeapDisk>, std::sync::atomic::AtomicUsize);

impl Disk for Forgetful {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn submit(&self, batch: Vec<DiskOp>, priority: Priority) -> BoxFuture<Vec<Result<(), DiskError>>> {
        self.0.submit(batch, priority)
    }

    fn sync(&self) -> BoxFuture<Result<(), DiskError>> {
        // Formatting takes the first two.
        let failed = self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2;
        let result = if failed { Err(DiskError::Io("input/output error".into())) } else { Ok(()) };
        Box::pin(std::future::ready(result))
    }

    fn poisoned(&self) -> Option<String> {
        None
    }

    fn mode(&self) -> String {
        "forgetful".into()
    }

    fn counters(&self) -> DiskCounters {
        self.0.counters()
    }
}

#[test]
fn the_tier_remembers_a_failed_sync_even_if_the_disk_forgets_it() {
    let rig = Rig::new();
    let disk = Forgetful(std::sync::Arc::new(kvtier_nvme::fake::HeapDisk::of_bytes(8 * MIB)), 0.into());
    let ports = kvtier_nvme::Ports {
        memory: rig.memory.clone(),
        scratch: std::sync::Arc::new(kvtier_nvme::fake::HeapMemory::of_bytes(2 * MIB)),
        clock: std::sync::Arc::new(rig.clock.clone()),
        spawn: std::sync::Arc::new(rig.tasks.clone()),
    };
    let source = kvtier_nvme::DeviceSource {
        path: "nvme-0.blocks".into(),
        disk: std::sync::Arc::new(disk),
        presence: rig.presence.clone(),
    };
    let open = async move { kvtier_nvme::NvmeTier::open(&settings(1, 8), rig::NODE, vec![source], ports).await };
    let tier = rig.run(open).unwrap();
    for attempt in 0..3 {
        let synced = rig.run(tier.sync(vec![0]));
        assert!(matches!(synced, Err(TierError::Poisoned { .. })), "attempt {attempt}: {synced:?}");
    }
    assert_eq!(tier.counters()[0].syncs, 1, "INV-7: nobody tries again");
    let store = rig.plan(2, 1, LENGTH, rig.host(0, LENGTH), rig.slot(2, LENGTH));
    assert!(matches!(rig.run(tier.store(vec![store]))[0], StoreOutcome::Failed(TierError::Poisoned { .. })));
}

#[test]
fn nothing_is_durable_in_a_file_that_is_gone() {
    let rig = Rig::new();
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.presence.lose("nvme-0.blocks was deleted");
    let Err(TierError::Poisoned { cause, .. }) = rig.sync() else { panic!("a sync of a deleted file must fail") };
    assert_eq!(cause, "nvme-0.blocks was deleted");
    let store = rig.plan(2, 1, LENGTH, rig.host(0, LENGTH), rig.slot(2, LENGTH));
    let outcomes = rig.run(rig.tier.store(vec![store]));
    assert!(matches!(outcomes[0], StoreOutcome::Failed(TierError::Poisoned { .. })), "{outcomes:?}");
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified, "what verifies is still good");
}

#[test]
fn stores_ask_now_and_then_whether_the_file_is_there() {
    let rig = Rig::new();
    rig.put(1, 1, LENGTH);
    let asked = rig.presence.asked();
    rig.put(2, 1, LENGTH);
    assert_eq!(rig.presence.asked(), asked, "within a second the last answer is believed");
    rig.presence.lose("replaced");
    rig.clock.advance(Duration::from_secs(1));
    let store = rig.plan(3, 1, LENGTH, rig.host(0, LENGTH), rig.slot(3, LENGTH));
    let outcomes = rig.run(rig.tier.store(vec![store]));
    assert!(matches!(outcomes[0], StoreOutcome::Failed(TierError::Poisoned { .. })), "{outcomes:?}");
    assert_eq!(rig.tier.health()[0].state, DeviceState::Poisoned);
}

#[test]
fn the_breaker_opens_answers_at_once_and_closes_when_a_probe_succeeds() {
    let rig = Rig::with(1, NvmeSettings { breaker_errors: 3, ..settings(1, 8) });
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.disk().inject(Fault::ReadFails(0..8 * MIB));
    for _ in 0..3 {
        assert!(matches!(rig.load(slot, expect), LoadOutcome::Failed(TierError::Io(_))));
    }
    rig.disk().take_submitted();
    let LoadOutcome::Failed(TierError::Io(cause)) = rig.load(slot, expect) else { panic!("must fail") };
    assert!(cause.contains("breaker is open: 3 reads failed"), "{cause}");
    assert!(matches!(rig.verify(slot, expect), LoadOutcome::Failed(_)));
    let store = rig.plan(2, 1, LENGTH, rig.host(0, LENGTH), rig.slot(2, LENGTH));
    assert!(matches!(rig.run(rig.tier.store(vec![store]))[0], StoreOutcome::Failed(TierError::Io(_))));
    assert_eq!(rig.disk().take_submitted(), [], "the device was left in peace");
    assert_eq!(rig.tier.health()[0].state, DeviceState::Tripped);
    // Two probes fail, at 1 and 3 s; the third, at 7 s, finds the device well.
    rig.clock.advance(Duration::from_secs(1));
    rig.tasks.run_ready();
    rig.clock.advance(Duration::from_secs(2));
    rig.tasks.run_ready();
    assert_eq!(rig.disk().take_submitted().len(), 2);
    rig.disk().heal();
    assert_eq!(rig.tier.health()[0].state, DeviceState::Tripped);
    rig.clock.advance(Duration::from_millis(3999));
    rig.tasks.run_ready();
    assert_eq!(rig.tier.health()[0].state, DeviceState::Tripped, "not before its time");
    rig.clock.advance(Duration::from_millis(1));
    rig.tasks.run_ready();
    assert_eq!(rig.tier.health()[0].state, DeviceState::Up);
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified);
    assert_eq!(rig.tier.counters()[0].breaker_opened, 1);
}

#[test]
fn corrupt_blocks_open_the_breaker_too_and_scattered_ones_do_not() {
    let rig = Rig::with(1, NvmeSettings { breaker_errors: 3, ..settings(1, 8) });
    let (slot, mut wrong) = rig.put(1, 1, LENGTH);
    wrong.generation = 9;
    for _ in 0..10 {
        assert!(matches!(rig.load(slot, wrong), LoadOutcome::Corrupt(_)));
        rig.clock.advance(Duration::from_secs(6));
    }
    assert_eq!(rig.tier.health()[0].state, DeviceState::Up);
    rig.clock.advance(Duration::from_secs(6));
    for _ in 0..3 {
        assert!(matches!(rig.load(slot, wrong), LoadOutcome::Corrupt(_)));
    }
    assert_eq!(rig.tier.health()[0].state, DeviceState::Tripped);
}

#[test]
fn a_tier_that_is_dropped_while_its_breaker_is_open_is_gone() {
    let Rig { tasks, clock, tier, memory, disks, .. } = {
        let rig = Rig::with(1, NvmeSettings { breaker_errors: 1, ..settings(1, 8) });
        let (slot, mut wrong) = rig.put(1, 1, LENGTH);
        wrong.crc ^= 1;
        rig.load(slot, wrong);
        rig
    };
    let disk = disks[0].clone();
    drop((tier, memory, disks));
    assert_eq!(std::sync::Arc::strong_count(&disk), 1, "the waiting probe holds no device");
    clock.advance(Duration::from_secs(1));
    tasks.run_ready();
    disk.take_submitted();
}

#[test]
fn an_executor_that_throws_tasks_away_makes_operations_end_as_closed() {
    struct Nowhere;
    impl kvtier_engine::port::Spawn for Nowhere {
        fn spawn(&self, _name: &'static str, task: kvtier_engine::port::BoxFuture<()>) {
            drop(task);
        }
    }
    let rig = Rig::new();
    let (from, expect) = rig.put(1, 1, LENGTH);
    let ports = kvtier_nvme::Ports {
        memory: rig.memory.clone(),
        scratch: std::sync::Arc::new(kvtier_nvme::fake::HeapMemory::of_bytes(2 * MIB)),
        clock: std::sync::Arc::new(rig.clock.clone()),
        spawn: std::sync::Arc::new(Nowhere),
    };
    let source = kvtier_nvme::DeviceSource {
        path: "nvme-0.blocks".into(),
        disk: rig.disks[0].clone(),
        presence: rig.presence.clone(),
    };
    let tier =
        rig.run(
            async move { kvtier_nvme::NvmeTier::open(&settings(1, 8), rig::NODE, vec![source], ports).await.unwrap() },
        );
    let load = Load { from, into: rig.host(1, LENGTH), expect };
    assert_eq!(tier.load(vec![load]).now_or_never(), Some(vec![LoadOutcome::Failed(TierError::Closed)]));
    assert_eq!(tier.sync(vec![0]).now_or_never(), Some(Err(TierError::Closed)));
    assert_eq!(tier.sync(vec![0]).now_or_never(), Some(Err(TierError::Closed)), "and again");
    let store = rig.plan(2, 1, LENGTH, rig.host(0, LENGTH), rig.slot(2, LENGTH));
    assert_eq!(tier.store(vec![store]).now_or_never(), Some(vec![StoreOutcome::Failed(TierError::Closed)]));
    assert_eq!(tier.health()[0].queued_count, 0, "places come back");
}

#[test]
fn the_same_seed_makes_the_same_history() {
    let history = |seed| {
        let rig = Rig::with(seed, settings(2, 8));
        for device in [0, 1] {
            for seed in 0..6 {
                let mut store = rig.plan(seed, 1, LENGTH, rig.host(seed, LENGTH), rig.slot(seed * 3, LENGTH));
                store.to.device = device;
                drop(rig.tier.store(vec![store]));
            }
        }
        rig.tasks.run_ready();
        rig.disk().take_submitted().iter().map(|write| write.offset).collect::<Vec<_>>()
    };
    assert_eq!(history(5), history(5));
    assert!((0..20).any(|seed| history(seed) != history(5)), "another seed, another order");
}

#[test]
fn bytes_are_the_blocks_own_after_a_crowd_of_mixed_operations() {
    for seed in 0..30 {
        let rig = Rig::with(seed, settings(1, 8));
        let stores: Vec<_> = (0..40)
            .map(|at| rig.plan(at, 1, LENGTH, rig.host(at, LENGTH), rig.slot((at * 7 + seed) % 40, LENGTH)))
            .collect();
        let places: Vec<_> = stores.iter().map(|store| (store.to, expect(&store.header))).collect();
        let batches: Vec<_> = stores.chunks(7).map(|batch| rig.tier.store(batch.to_vec())).collect();
        for batch in batches {
            assert!(rig.run(batch).iter().all(|outcome| *outcome == StoreOutcome::Written));
        }
        let load = |(at, &(from, expect)): (u64, &_)| Load { from, into: rig.host(at + 50, LENGTH), expect };
        let loads: Vec<_> = (0..).zip(&places).map(load).collect();
        let batches: Vec<_> = loads.chunks(9).map(|batch| rig.tier.load(batch.to_vec())).collect();
        for batch in batches {
            assert!(rig.run(batch).iter().all(|outcome| *outcome == LoadOutcome::Verified));
        }
        for at in 0..40 {
            use kvtier_engine::port::Memory;
            let seen = rig.memory.view(rig.host(at + 50, LENGTH), 0, LENGTH, Box::new(()));
            assert_eq!(seen, payload(at, LENGTH), "seed {seed}, block {at}");
        }
    }
}
