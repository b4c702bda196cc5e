//! A hit is a promise: other bytes than the block's are never `Verified` (INV-1).

use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{LoadOutcome, StoreOutcome};
use kvtier_identity::BlockId;

use super::world::{World, expect, payload};

async fn assert_corrupt(world: &World, from: Slot, expect: Expect, what: &str) {
    let into = world.host_slot(1, expect.length);
    let loaded = world.load(from, into, expect).await;
    assert!(matches!(loaded, LoadOutcome::Corrupt(_)), "{what}, loaded: {loaded:?}");
    let verified = world.verify(from, expect).await;
    assert!(matches!(verified, LoadOutcome::Corrupt(_)), "{what}, verified in place: {verified:?}");
}

pub(super) async fn another_block_than_expected_is_corrupt(world: World) {
    let length = 4500;
    let slot = world.device_slot(0, 0, 0, length);
    let right = expect(&world.put(1, length, slot).await);
    let others = [
        ("another block", Expect { block: BlockId(right.block.0 ^ 1), ..right }),
        ("an older generation", Expect { generation: right.generation + 1, ..right }),
        ("a newer generation", Expect { generation: 0, ..right }),
        ("a shorter block", Expect { length: length - 1, ..right }),
        ("a longer block", Expect { length: length + 1, ..right }),
        ("another checksum", Expect { crc: !right.crc, ..right }),
    ];
    for (what, other) in others {
        assert_corrupt(&world, slot, other, what).await;
    }
    assert_eq!(world.load(slot, world.host_slot(1, length), right).await, LoadOutcome::Verified);
}

pub(super) async fn an_overwritten_block_is_corrupt_for_its_old_owner(world: World) {
    let length = 8192;
    let slot = world.device_slot(0, 1, 2, length);
    let old = expect(&world.put(1, length, slot).await);
    let store = world.plan(2, 2, length, world.host_slot(0, length), slot);
    let new = expect(&store.header);
    assert_eq!(world.store(store).await, StoreOutcome::Written);
    assert_corrupt(&world, slot, old, "the old owner").await;
    let again = world.plan(1, 3, length, world.host_slot(0, length), slot);
    assert_eq!(world.store(again).await, StoreOutcome::Written);
    assert_corrupt(&world, slot, new, "the owner between").await;
    assert_corrupt(&world, slot, old, "the same block of an older store").await;
}

pub(super) async fn a_slot_that_was_never_written_is_corrupt(world: World) {
    let length = 4096;
    let other = world.put(1, length, world.device_slot(0, 0, 0, length)).await;
    assert_corrupt(&world, world.device_slot(0, 3, 5, length), expect(&other), "never written").await;
}

pub(super) async fn a_flipped_bit_is_corrupt_wherever_it_is(world: World) {
    let (page, length) = (PAGE_BYTES as u32, 5000);
    let slot = world.device_slot(0, 0, 1, length);
    let header_bytes = (0..256).step_by(5).chain([255]);
    let payload_bytes = (0..length).step_by(509).chain([length - 1]).map(|at| page + at);
    for at in header_bytes.chain(payload_bytes) {
        let right = expect(&world.put(u64::from(at), length, slot).await);
        (world.damage)(slot, at);
        assert_corrupt(&world, slot, right, &format!("byte {at} of the slot")).await;
    }
}

pub(super) async fn a_slot_outside_the_devices_is_no_hit(world: World) {
    let length = 4096;
    let slot = world.device_slot(0, 0, 0, length);
    let right = expect(&world.put(1, length, slot).await);
    let geometry = world.tier.geometry()[0];
    let end = geometry.first_extent_offset + geometry.bytes;
    let outside = [
        Slot { offset: end, ..slot },
        Slot { offset: end - PAGE_BYTES, ..slot },
        Slot { offset: u64::MAX - 4095, ..slot },
        Slot { offset: slot.offset + 1, ..slot },
        Slot { device: u16::MAX, ..slot },
        Slot { bytes: 4096, ..slot },
    ];
    for slot in outside {
        let store = world.plan(2, 2, length, world.host_slot(0, length), slot);
        let stored = world.store(store).await;
        assert!(matches!(stored, StoreOutcome::Failed(_)), "{slot:?}: {stored:?}");
        assert_corrupt(&world, slot, right, &format!("{slot:?}")).await;
    }
    assert_eq!(world.load(slot, world.host_slot(1, length), right).await, LoadOutcome::Verified);
}

pub(super) async fn a_payload_changed_after_its_commit_is_not_stored(world: World) {
    let length = 7000;
    let slot = |number| world.device_slot(0, 0, number, length);
    let host = |number| world.host_slot(number, length);
    let before = world.put(100, length, slot(1)).await;
    let stores: Vec<_> = (0..3).map(|seed| world.plan(seed, 9, length, host(seed), slot(seed))).collect();
    let expects: Vec<_> = stores.iter().map(|store| expect(&store.header)).collect();
    world.memory.write(host(1), 6999, &[!payload(1, length)[6999]]);
    let outcomes = world.tier.store(stores).await;
    assert!(matches!(outcomes[1], StoreOutcome::Corrupt(_)), "{outcomes:?}");
    assert_eq!((&outcomes[0], &outcomes[2]), (&StoreOutcome::Written, &StoreOutcome::Written));
    for number in [0, 2] {
        assert_eq!(world.load(slot(number), host(5), expects[number as usize]).await, LoadOutcome::Verified);
        assert_eq!(world.seen(host(5), length), payload(number, length));
    }
    assert_eq!(world.load(slot(1), host(5), expect(&before)).await, LoadOutcome::Verified, "nothing was written");
}
