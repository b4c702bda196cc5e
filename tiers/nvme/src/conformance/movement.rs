//! Blocks get where they should, and nothing else is touched.

use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::{Load, LoadOutcome, StoreOutcome, TierError, Verify};

use super::world::{World, expect, payload};

const LENGTHS: [u32; 7] = [1, 100, 4095, 4096, 4097, 40_000, 200_000];
/// How often a check asks for something that another operation has still to finish.
const PATIENCE: usize = 100_000;

pub(super) async fn a_stored_block_is_loaded_as_it_was(world: World) {
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        let to = world.device_slot(0, 0, 0, length);
        let header = world.put(seed as u64, length, to).await;
        let into = world.host_slot(1, length);
        world.soil(into);
        assert_eq!(world.load(to, into, expect(&header)).await, LoadOutcome::Verified, "{length} bytes");
        assert_eq!(world.seen(into, length), payload(seed as u64, length), "{length} bytes");
        assert_eq!(world.verify(to, expect(&header)).await, LoadOutcome::Verified, "{length} bytes in place");
    }
}

pub(super) async fn a_batch_is_answered_in_its_order(world: World) {
    let length = 5000;
    let slot = |number| world.device_slot(0, number % 3, number / 3, length);
    // Host slots are used backwards, so that order in memory, on the device and in the batch all differ.
    let host = |number| world.host_slot(23 - number, length);
    let stores: Vec<_> = (0..12).map(|seed| world.plan(seed, 1, length, host(seed), slot(seed))).collect();
    let expects: Vec<_> = stores.iter().map(|store| expect(&store.header)).collect();
    assert_eq!(world.tier.store(stores).await, vec![StoreOutcome::Written; 12]);
    let mut loads = Vec::new();
    for (seed, mut expect) in (0..12).zip(expects.clone()) {
        if seed % 4 == 1 {
            expect.generation += 1;
        }
        loads.push(Load { from: slot(seed), into: host(seed + 12), expect });
    }
    let verifies = loads.iter().map(|load| Verify { at: load.from, expect: load.expect }).collect();
    let loaded = world.tier.load(loads).await;
    let verified = world.tier.verify(verifies).await;
    for seed in 0..12u64 {
        for outcome in [&loaded[seed as usize], &verified[seed as usize]] {
            let corrupt = matches!(outcome, LoadOutcome::Corrupt(_));
            assert_eq!(corrupt, seed % 4 == 1, "block {seed}: {outcome:?}");
        }
        if seed % 4 != 1 {
            assert_eq!(world.seen(host(seed + 12), length), payload(seed, length), "block {seed}");
        }
    }
}

pub(super) async fn an_empty_batch_is_answered(world: World) {
    assert_eq!(world.tier.store(vec![]).await, vec![]);
    assert_eq!(world.tier.load(vec![]).await, vec![]);
    assert_eq!(world.tier.verify(vec![]).await, vec![]);
    assert_eq!(world.tier.sync(vec![]).await, Ok(()));
}

pub(super) async fn a_store_leaves_its_neighbours_alone(world: World) {
    for length in [1, 4096, 10_000] {
        let slots: Vec<_> = (0..3).map(|number| world.device_slot(0, 1, number, length)).collect();
        let before = world.put(1, length, slots[0]).await;
        let after = world.put(3, length, slots[2]).await;
        for generation in 1..4 {
            let store = world.plan(20 + generation, generation, length, world.host_slot(0, length), slots[1]);
            assert_eq!(world.store(store).await, StoreOutcome::Written);
        }
        for (slot, header, seed) in [(slots[0], before, 1), (slots[2], after, 3)] {
            let into = world.host_slot(1, length);
            assert_eq!(world.load(slot, into, expect(&header)).await, LoadOutcome::Verified, "{length} bytes");
            assert_eq!(world.seen(into, length), payload(seed, length), "{length} bytes");
        }
    }
}

pub(super) async fn a_load_leaves_its_neighbours_in_memory_alone(world: World) {
    let length = 6000;
    let slot = world.device_slot(0, 0, 0, length);
    let header = world.put(1, length, slot).await;
    let hosts: Vec<_> = (0..3).map(|number| world.host_slot(number, length)).collect();
    hosts.iter().for_each(|&host| world.soil(host));
    assert_eq!(world.load(slot, hosts[1], expect(&header)).await, LoadOutcome::Verified);
    for host in [hosts[0], hosts[2]] {
        let mut page = [0; PAGE_BYTES as usize];
        world.memory.read_header(host, &mut page);
        assert!(page.iter().all(|&byte| byte == 0xa5), "a neighbour's header page");
        let room = host.payload_bytes_max();
        assert!(world.seen(host, room).iter().all(|&byte| byte == 0xa5), "a neighbour's payload");
    }
}

pub(super) async fn a_dropped_store_still_finishes(world: World) {
    let length = 9000;
    let (to, from, into) = (world.device_slot(0, 2, 0, length), world.host_slot(0, length), world.host_slot(1, length));
    let store = world.plan(5, 1, length, from, to);
    let expect = expect(&store.header);
    drop(world.tier.store(vec![store]));
    for _ in 0..PATIENCE {
        if world.load(to, into, expect).await == LoadOutcome::Verified {
            assert_eq!(world.seen(into, length), payload(5, length));
            return;
        }
    }
    panic!("a store whose future was dropped never finished");
}

pub(super) async fn a_dropped_load_harms_nobody(world: World) {
    let length = 9000;
    let (slot, into) = (world.device_slot(0, 2, 0, length), world.host_slot(1, length));
    let header = world.put(6, length, slot).await;
    for _ in 0..10 {
        drop(world.tier.load(vec![Load { from: slot, into, expect: expect(&header) }]));
        drop(world.tier.verify(vec![Verify { at: slot, expect: expect(&header) }]));
        drop(world.tier.sync(vec![0]));
    }
    assert_eq!(world.load(slot, into, expect(&header)).await, LoadOutcome::Verified);
    assert_eq!(world.seen(into, length), payload(6, length));
    assert_eq!(world.tier.sync(vec![0]).await, Ok(()));
}

pub(super) async fn every_device_is_reached(world: World) {
    let length = 4096;
    let devices = u16::try_from(world.tier.geometry().len()).expect("a slot names at most 65536 devices");
    let slot = |device| world.device_slot(device, 0, 0, length);
    let host = |number: u16| world.host_slot(number.into(), length);
    let stores: Vec<_> =
        (0..devices).map(|device| world.plan(u64::from(device) + 50, 1, length, host(device), slot(device))).collect();
    let headers: Vec<_> = stores.iter().map(|store| store.header.clone()).collect();
    assert_eq!(world.tier.store(stores).await, vec![StoreOutcome::Written; devices.into()]);
    assert_eq!(world.tier.sync((0..devices).collect()).await, Ok(()));
    for (device, header) in (0..devices).zip(&headers) {
        let into = host(devices);
        assert_eq!(world.load(slot(device), into, expect(header)).await, LoadOutcome::Verified, "device {device}");
        assert_eq!(world.seen(into, length), payload(u64::from(device) + 50, length), "device {device}");
    }
}

pub(super) async fn a_sync_answers_and_can_be_shared(world: World) {
    let length = 4096;
    let header = world.put(8, length, world.device_slot(0, 0, 0, length)).await;
    let many: Vec<_> = (0..20).map(|_| world.tier.sync(vec![0, 0])).collect();
    for sync in many {
        assert_eq!(sync.await, Ok(()));
    }
    let strange = world.tier.sync(vec![u16::MAX]).await;
    assert!(matches!(strange, Err(TierError::Io(_))), "a device that does not exist: {strange:?}");
    let into = world.host_slot(1, length);
    assert_eq!(world.load(world.device_slot(0, 0, 0, length), into, expect(&header)).await, LoadOutcome::Verified);
}

pub(super) async fn health_has_an_entry_per_device(world: World) {
    assert_eq!(world.tier.health().len(), world.tier.geometry().len());
    let length = 4096;
    let slot = world.device_slot(0, 0, 0, length);
    let before = world.tier.health()[0].clone();
    let header = world.put(9, length, slot).await;
    world.load(slot, world.host_slot(1, length), expect(&header)).await;
    let after = world.tier.health()[0].clone();
    assert_eq!(after.state, kvtier_engine::port::DeviceState::Up, "{}", after.detail);
    assert!(!after.detail.is_empty(), "how it is driven");
    assert!(after.written_bytes >= before.written_bytes + 8192, "header page and payload: {before:?} {after:?}");
    assert!(after.read_bytes >= before.read_bytes + 8192, "header page and payload: {before:?} {after:?}");
}
