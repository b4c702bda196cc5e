//! What the catalog promises, one story per test.

mod behaviour;

use behaviour::*;
use kvtier_engine::catalog::Catalog;
use kvtier_engine::catalog::plan::*;
use kvtier_engine::place::TierKind::{Host, Nvme};
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::{LoadOutcome, Record, RemovalCause, TierError};

#[test]
fn a_leased_block_outlives_a_full_tier() {
    let mut catalog = Catalog::new(settings(1, 0));
    let leased = put(&mut catalog, 0, None);
    catalog.lease(at(0), LeaseId(1), OWNER, &[leased], at(100)).expect("there is room for a lease");
    (1..20).for_each(|number| _ = put(&mut catalog, number, None));
    assert_eq!(tier(&catalog, 0), Some(Host));

    catalog.release(at(1), LeaseId(1), OWNER).expect("the lease is open");
    (20..30).for_each(|number| _ = put(&mut catalog, number, None));
    assert_eq!(tier(&catalog, 0), None, "a block that is not leased any more can go");
    catalog.check().expect("consistent");
}

#[test]
fn a_tier_full_of_leases_declines_and_evicts_nothing() {
    let mut catalog = Catalog::new(settings(1, 0));
    let blocks = put_chain(&mut catalog, 0, 4);
    catalog.lease(at(0), LeaseId(1), OWNER, &blocks, at(100)).expect("there is room for a lease");
    assert_eq!(decline(&mut catalog, 9, None, 4096), Decline::HostFull);
    assert_eq!((catalog.count().host.blocks, catalog.count().host.evictions), (4, 0));
    assert_eq!(catalog.miss(at(5), id(9)).reason, MissReason::Declined(Decline::HostFull));
}

#[test]
fn a_block_is_never_evicted_before_its_descendants() {
    for policy in [PolicyKind::LeafLru, PolicyKind::S3Fifo] {
        let mut catalog = Catalog::new(kvtier_engine::catalog::CatalogSettings { policy, ..settings(2, 0) });
        put_chain(&mut catalog, 0, 8);
        let gone: Vec<_> = (100..108).flat_map(|number| put_sized(&mut catalog, number, None, 4096).2).collect();
        let chain: Vec<_> = gone.into_iter().filter(|record| (0..8).any(|number| *record == evicted(number))).collect();
        let expected: Vec<_> = (0..8).rev().map(evicted).take(chain.len()).collect();
        assert_eq!(chain, expected, "{policy:?}");
        assert!(!chain.is_empty());
    }
}

/// Simulator seed 1058: an extent was emptied for another size, a volatile parent went with it, and below the parent a
/// child that had been acknowledged durable.
#[test]
fn pressure_in_the_host_tier_never_costs_an_nvme_copy() {
    let mut catalog = Catalog::new(settings(1, 4));
    put(&mut catalog, 0, None);
    put(&mut catalog, 1, Some(0));
    store(&mut catalog, 1);
    put(&mut catalog, 2, None);
    put(&mut catalog, 3, None);
    catalog.take_admitted(10);

    assert_eq!(decline(&mut catalog, 9, None, 8192), Decline::HostFull, "the only extent cannot be emptied");
    let wanted: Vec<_> = catalog.take_admitted(10).into_iter().map(|(_, block)| block).collect();
    assert_eq!(wanted, [id(0)], "what is in the way is wanted on NVMe");
    store(&mut catalog, 0);
    put_sized(&mut catalog, 9, None, 8192);
    assert_eq!((tier(&catalog, 0), tier(&catalog, 1)), (Some(Nvme), Some(Nvme)));
    catalog.check().expect("consistent");
}

/// Simulator seed 1058, too: the child became durable while its parent was still being put.
#[test]
fn a_parent_knows_of_a_child_that_became_durable_before_it() {
    let mut catalog = Catalog::new(settings(2, 4));
    let parent = reserve(&mut catalog, 0, None, 4096);
    put(&mut catalog, 1, Some(0));
    store(&mut catalog, 1);
    match catalog.finish_part(at(0), &parent, Some(0), |_, _, _| 0) {
        PartOutcome::Visible { index, .. } => assert!(catalog.has_durable_child(index)),
        other => panic!("{other:?}"),
    }
    let childless = put(&mut catalog, 2, None);
    assert!(!catalog.has_durable_child(childless));
}

#[test]
fn the_least_recently_used_leaf_goes_first() {
    let mut catalog = Catalog::new(settings(2, 0));
    put_chain(&mut catalog, 0, 4);
    put_chain(&mut catalog, 10, 4);
    lookup(&mut catalog, &[0, 1, 2, 3]);
    assert_eq!(put_sized(&mut catalog, 20, None, 4096).2, [evicted(13)]);
    assert_eq!(put_sized(&mut catalog, 21, None, 4096).2, [evicted(12)]);
}

#[test]
fn the_hit_is_the_longest_prefix_over_all_tiers() {
    let mut catalog = Catalog::new(settings(2, 2));
    put_chain(&mut catalog, 0, 4);
    (0..4).for_each(|number| _ = store(&mut catalog, number));
    // Six newcomers leave room for two of the chain in the host tier.
    put_chain(&mut catalog, 10, 6);
    let found = lookup(&mut catalog, &[0, 1, 2, 3, 99, 10]);
    let tiers: Vec<_> = found.iter().map(|found| found.tier).collect();
    assert_eq!(tiers, [Host, Host, Nvme, Nvme]);
    assert!(lookup(&mut catalog, &[99, 0]).is_empty());
}

#[test]
fn a_block_is_visible_when_its_last_part_is() {
    let mut catalog = Catalog::new(settings(2, 0));
    let part = |part| PutPlan { part, ..plan(1, None, &[4096, 1000, 24]) };
    let claim = |answer| if let Reserve::Write(claim) = answer { claim } else { panic!("{answer:?}") };
    let claims = [2, 0, 1].map(|number| claim(catalog.reserve(at(0), part(number))));
    assert!(claims.iter().all(|claim| claim.slot == claims[0].slot));
    assert_eq!(claims.each_ref().map(|claim| (claim.offset, claim.length)), [(5096, 24), (0, 4096), (4096, 1000)]);
    assert!(matches!(catalog.reserve(at(0), part(1)), Reserve::Declined(Decline::UnderWay)));

    let append = |first: u32, second: u32, length: u64| first * 10_000 + second * 1000 + length as u32 % 1000;
    for (claim, crc) in [(&claims[0], 3), (&claims[1], 1)] {
        assert!(matches!(catalog.finish_part(at(0), claim, Some(crc), append), PartOutcome::Incomplete));
        assert_eq!(catalog.miss(at(0), id(1)).reason, MissReason::Incomplete);
        assert!(lookup(&mut catalog, &[1]).is_empty());
    }
    assert!(matches!(catalog.reserve(at(0), part(0)), Reserve::PartTaken), "a part is put once");
    match catalog.finish_part(at(0), &claims[2], Some(2), append) {
        PartOutcome::Visible { crc, .. } => assert_eq!(crc, append(append(1, 2, 1000), 3, 24)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(catalog.reserve(at(0), part(0)), Reserve::Duplicate));
    assert_eq!(lookup(&mut catalog, &[1])[0].length, 5120);
}

#[test]
fn puts_that_cannot_be_are_refused_with_the_reason() {
    let mut catalog = Catalog::new(settings(1, 0));
    let disagrees = |answer| if let Reserve::Disagrees(field) = answer { field } else { panic!("{answer:?}") };
    assert_eq!(decline(&mut catalog, 1, Some(0), 4096), Decline::ParentUnknown);
    assert_eq!(decline(&mut catalog, 1, None, 8 * 4096), Decline::TooLarge);
    assert!(matches!(catalog.reserve(at(0), plan(1, None, &[u32::MAX, 2])), Reserve::Declined(Decline::TooLarge)));
    assert_eq!(disagrees(catalog.reserve(at(0), plan(1, None, &[]))), "part");
    assert_eq!(disagrees(catalog.reserve(at(0), plan(1, None, &[0]))), "part");
    assert_eq!(disagrees(catalog.reserve(at(0), PutPlan { part: 1, ..plan(1, None, &[9]) })), "part");
    let claims: Vec<_> = (10..14).map(|number| reserve(&mut catalog, number, None, 4096)).collect();
    assert_eq!(disagrees(catalog.reserve(at(0), plan(10, None, &[4095]))), "part_bytes");
    assert_eq!(disagrees(catalog.reserve(at(0), plan(10, Some(11), &[4096]))), "parent");
    assert_eq!(disagrees(catalog.reserve(at(0), PutPlan { key: key(99), ..plan(10, None, &[4096]) })), "key");
    assert_eq!(decline(&mut catalog, 15, None, 4096), Decline::Busy);
    claims.iter().for_each(|claim| _ = catalog.finish_part(at(0), claim, None, |_, _, _| 0));
    assert_eq!(catalog.count().host.slot_bytes, 0, "the slots of puts that were given up come back");
    catalog.check().expect("consistent");
}

#[test]
fn a_late_writer_keeps_the_slot_of_a_put_that_was_given_up() {
    let mut catalog = Catalog::new(settings(1, 0));
    let claim = reserve(&mut catalog, 1, None, 7 * 4096);
    assert_eq!(catalog.next_deadline(), Some(at(1_000_000)));
    assert_eq!(catalog.expire(at(1_000_000)).pending, 1);
    assert_eq!(decline(&mut catalog, 2, None, 4096), Decline::HostFull, "the writer may still write (INV-8)");
    assert!(matches!(catalog.finish_part(at(0), &claim, Some(1), |_, _, _| 0), PartOutcome::GivenUp));
    assert_eq!(tier(&catalog, 1), None);
    put(&mut catalog, 2, None);
}

#[test]
fn a_deleted_block_is_a_miss_at_once_and_its_reader_keeps_its_bytes() {
    let mut catalog = Catalog::new(settings(1, 1));
    put(&mut catalog, 0, None);
    store(&mut catalog, 0);
    let LoadPlan::Resident(copy) = catalog.begin_load_block(at(0), id(0)) else { panic!("it is in host memory") };
    let records = catalog.delete(at(1), id(0)).expect("the block is there");
    let deleted = |tier| removed(0, tier, RemovalCause::Deleted);
    assert_eq!(records, [deleted(Host), deleted(Nvme)]);
    assert!(lookup(&mut catalog, &[0]).is_empty());
    let miss = catalog.miss(at(31), id(0));
    assert_eq!((miss.reason, miss.tier), (MissReason::Removed(RemovalCause::Deleted), Some(Host)));
    assert_eq!(miss.age, Some(std::time::Duration::from_millis(30)));

    // It can be put again, elsewhere, while the reader goes on.
    let again = reserve(&mut catalog, 0, None, 4096);
    assert_ne!(again.slot, copy.slot);
    catalog.check().expect("consistent");
    catalog.unhold(copy.index);
    assert!(matches!(catalog.finish_part(at(0), &again, Some(5), |_, _, _| 0), PartOutcome::Visible { .. }));
    assert_eq!(catalog.count().host.slot_bytes, u64::from(copy.slot.bytes));
    catalog.check().expect("consistent");
}

#[test]
fn children_find_their_parent_again_when_it_is_put_again() {
    let mut catalog = Catalog::new(settings(2, 0));
    put_chain(&mut catalog, 0, 3);
    catalog.delete(at(0), id(1)).expect("the block is there");
    assert_eq!(lookup(&mut catalog, &[0, 1, 2]).len(), 1);
    put(&mut catalog, 1, Some(0));
    assert_eq!(lookup(&mut catalog, &[0, 1, 2]).len(), 3);
    catalog.check().expect("consistent");
}

#[test]
fn a_block_cannot_become_its_own_ancestor() {
    let mut catalog = Catalog::new(settings(2, 0));
    put_chain(&mut catalog, 0, 3);
    catalog.delete(at(0), id(0)).expect("the block is there");
    let answer = catalog.reserve(at(0), plan(0, Some(2), &[4096]));
    assert!(matches!(answer, Reserve::Disagrees("the block would be its own ancestor")), "{answer:?}");
    catalog.check().expect("consistent");
}

#[test]
fn a_corrupt_copy_is_a_miss_and_its_slot_is_never_used_again() {
    let mut catalog = Catalog::new(settings(1, 1));
    put_chain(&mut catalog, 0, 4);
    let slots: Vec<_> = (0..4).map(|number| store(&mut catalog, number).slot).collect();
    put_sized(&mut catalog, 50, None, 7 * 4096);
    assert_eq!(tier(&catalog, 3), Some(Nvme));
    catalog.delete(at(0), id(50));

    let done = load(&mut catalog, 3, LoadOutcome::Corrupt("crc"));
    let expected = [Record::Quarantined { slot: slots[3] }, removed(3, Nvme, RemovalCause::Corrupt)];
    assert_eq!((done.copy, done.records.as_slice()), (None, expected.as_slice()));
    assert_eq!(catalog.count().nvme.corrupt, 1);
    for number in 60..66 {
        put(&mut catalog, number, None);
        assert_ne!(store(&mut catalog, number).slot, slots[3]);
    }
    catalog.check().expect("consistent");
}

#[test]
fn the_scrubber_heals_from_a_good_host_copy() {
    let mut catalog = Catalog::new(settings(1, 1));
    let index = put(&mut catalog, 0, None);
    let bad = store(&mut catalog, 0).slot;
    let mut cursor = 0;
    let batch = catalog.scrub_next(&mut cursor, 10);
    assert_eq!((batch.len(), batch[0].0, batch[0].1.at, cursor), (1, index, bad, 0));
    let records = catalog.quarantine(at(0), index);
    assert_eq!(records, [Record::Quarantined { slot: bad }, removed(0, Nvme, RemovalCause::Corrupt)]);
    catalog.unhold(index);
    assert_eq!(tier(&catalog, 0), Some(Host));
    assert_eq!(catalog.take_admitted(9), [(index, id(0))]);
    assert_ne!(store(&mut catalog, 0).slot, bad);
}

#[test]
fn only_one_flight_brings_a_block_up() {
    let mut catalog = Catalog::new(settings(1, 1));
    put(&mut catalog, 0, None);
    let entry = store(&mut catalog, 0);
    put_sized(&mut catalog, 1, None, 7 * 4096);
    catalog.delete(at(0), id(1));
    let LoadPlan::Load { index, from, expect, .. } = catalog.begin_load_block(at(0), id(0)) else { panic!("on NVMe") };
    assert_eq!((from, expect.generation, expect.crc), (entry.slot, 7 << 40, 0));
    assert!(matches!(catalog.begin_load_block(at(0), id(0)), LoadPlan::InFlight));
    let failed = LoadOutcome::Failed(TierError::Busy);
    assert_eq!(catalog.finish_load(at(0), index, &failed, None), LoadDone { copy: None, records: vec![] });
    assert_eq!((tier(&catalog, 0), catalog.count().host.slot_bytes), (Some(Nvme), 0));
    let done = load(&mut catalog, 0, LoadOutcome::Verified);
    assert!(matches!(done.records.as_slice(), [Record::StoredHost { .. }]));
    let copy = done.copy.expect("verified");
    assert_eq!(catalog.count().held_blocks, 1);
    catalog.unhold(copy.index);
    catalog.check().expect("consistent");
}

#[test]
fn a_load_is_throttled_when_the_host_tier_is_leased() {
    let mut catalog = Catalog::new(settings(1, 1));
    put(&mut catalog, 0, None);
    store(&mut catalog, 0);
    let large = put_sized(&mut catalog, 1, None, 7 * 4096).0;
    catalog.lease(at(0), LeaseId(1), OWNER, &[large], at(9)).expect("there is room for a lease");
    let LoadPlan::Miss(miss) = catalog.begin_load_block(at(0), id(0)) else { panic!("no room") };
    assert_eq!(miss.reason, MissReason::Throttled);
    assert_eq!(catalog.expire(at(9)).leases, 1);
    assert!(matches!(catalog.begin_load_block(at(0), id(0)), LoadPlan::Load { .. }));
}

#[test]
fn stores_under_way_leave_room_for_a_load() {
    let mut catalog = Catalog::new(settings(2, 4));
    put(&mut catalog, 0, None);
    store(&mut catalog, 0);
    // Eight slots of one page: these are all the others.
    let under_way: Vec<_> = (1..8).map(|number| put(&mut catalog, number, None)).collect();
    for (index, number) in under_way.iter().zip(1..) {
        assert!(matches!(catalog.begin_store(at(0), *index, id(number)), StorePlan::Store { .. }));
    }
    let declined = |catalog: &mut Catalog| match catalog.reserve(at(0), plan(8, None, &[4096])) {
        Reserve::Declined(why) => Some(why),
        _ => None,
    };
    assert_eq!(declined(&mut catalog), Some(Decline::HostFull), "seven of eight slots are being stored");
    assert_eq!(tier(&catalog, 0), Some(Host), "a declined put has pushed nobody out");
    catalog.finish_store(at(0), under_way[0], true);
    assert_eq!(declined(&mut catalog), None);
    catalog.check().expect("the catalog is sound");
}

#[test]
fn generations_grow_from_the_epochs_first() {
    let mut catalog = Catalog::new(settings(1, 1));
    put_chain(&mut catalog, 0, 3);
    let generations: Vec<_> = (0..3).map(|number| store(&mut catalog, number).generation).collect();
    assert_eq!(generations, [7 << 40, (7 << 40) + 1, (7 << 40) + 2]);
}

#[test]
fn a_failed_store_gives_its_slot_back() {
    let mut catalog = Catalog::new(settings(1, 1));
    let index = put(&mut catalog, 0, None);
    assert!(matches!(catalog.begin_store(at(0), index, id(0)), StorePlan::Store { .. }));
    assert!(matches!(catalog.begin_store(at(0), index, id(0)), StorePlan::InFlight));
    catalog.finish_store(at(0), index, false);
    assert_eq!((catalog.count().nvme.slot_bytes, tier(&catalog, 0)), (0, Some(Host)));
    store(&mut catalog, 0);
    assert!(matches!(catalog.begin_store(at(0), index, id(0)), StorePlan::Durable));
    assert!(matches!(catalog.begin_store(at(0), index, id(1)), StorePlan::Gone));
    assert!(matches!(catalog.begin_store(at(0), BlockIndex(9_999), id(1)), StorePlan::Gone));
}

#[test]
fn a_delete_that_overtakes_a_store_takes_the_durable_copy_back() {
    let mut catalog = Catalog::new(settings(1, 1));
    let index = put(&mut catalog, 0, None);
    assert!(matches!(catalog.begin_store(at(0), index, id(0)), StorePlan::Store { .. }));
    assert!(!catalog.is_doomed(index));
    let deleted = |tier| removed(0, tier, RemovalCause::Deleted);
    // Its commit may be in the log already, so the removal from NVMe is journaled with the delete.
    assert_eq!(catalog.delete(at(0), id(0)), Some(vec![deleted(Host), deleted(Nvme)]));
    assert!(catalog.is_doomed(index));
    catalog.finish_store(at(0), index, true);
    assert_eq!((catalog.count().nvme.slot_bytes, catalog.count().host.slot_bytes), (0, 0));
}

#[test]
fn a_child_is_admitted_after_its_parent() {
    let mut catalog = Catalog::new(settings(2, 2));
    let (parent, admitted, _) = put_sized(&mut catalog, 0, None, 4096);
    assert!(admitted, "a root has nobody to wait for");
    let (child, admitted, _) = put_sized(&mut catalog, 1, Some(0), 4096);
    assert!(!admitted, "its parent is not on its way yet");
    assert!(catalog.take_admitted(9).is_empty());
    assert!(matches!(catalog.begin_store(at(0), parent, id(0)), StorePlan::Store { .. }));
    assert_eq!(catalog.take_admitted(9), [(child, id(1))]);
    assert!(put_sized(&mut catalog, 2, Some(0), 4096).1, "its parent is in flight");
}

#[test]
fn second_touch_admits_what_is_hit_or_put_again() {
    let mut chosen = settings(1, 2);
    chosen.admission = AdmissionKind::SecondTouch;
    let mut catalog = Catalog::new(chosen);
    let (index, admitted, _) = put_sized(&mut catalog, 0, None, 4096);
    assert!(!admitted);
    lookup(&mut catalog, &[0]);
    assert_eq!(catalog.take_admitted(9), [(index, id(0))]);
    lookup(&mut catalog, &[0]);
    assert_eq!(catalog.take_admitted(9).len(), 1, "what was not stored is wanted again at the next hit");
    catalog.delete(at(0), id(0));
    assert!(put_sized(&mut catalog, 0, None, 4096).1, "the second put");
}

#[test]
fn leases_know_ended_unknown_and_foreign() {
    let mut catalog = Catalog::new(settings(1, 0));
    let index = put(&mut catalog, 0, None);
    let other = OwnerId(2);
    for number in 1..=4 {
        catalog.lease(at(0), LeaseId(number), OWNER, &[index], at(10)).expect("up to four");
    }
    assert_eq!(catalog.lease(at(0), LeaseId(5), OWNER, &[index], at(10)), Err(LeaseError::TooMany));
    assert_eq!(catalog.leased(at(9), LeaseId(1), OWNER), Ok([index].as_slice()));
    assert_eq!(catalog.leased(at(9), LeaseId(1), other), Err(LeaseError::Foreign));
    assert_eq!(catalog.leased(at(10), LeaseId(1), OWNER), Err(LeaseError::Ended), "the deadline counts, not the sweep");
    assert_eq!(catalog.leased(at(9), LeaseId(77), OWNER), Err(LeaseError::Unknown));
    catalog.release(at(9), LeaseId(1), OWNER).expect("open");
    assert_eq!(catalog.release(at(9), LeaseId(1), OWNER), Err(LeaseError::Ended));
    assert_eq!(catalog.release(at(9), LeaseId(1), other), Err(LeaseError::Foreign));
    catalog.release_owner(other);
    assert_eq!(catalog.count().leases, 3);
    catalog.release_owner(OWNER);
    assert_eq!((catalog.count().leases, catalog.count().held_blocks), (0, 0));
    // The memory of ended leases is bounded by the number of open ones.
    for number in 10..14 {
        catalog.lease(at(0), LeaseId(number), OWNER, &[index], at(10)).expect("up to four");
        catalog.release(at(0), LeaseId(number), OWNER).expect("open");
    }
    assert_eq!(catalog.release(at(9), LeaseId(1), OWNER), Err(LeaseError::Unknown));
    catalog.check().expect("consistent");
}

#[test]
fn pins_hold_within_their_quota_until_their_deadline() {
    let mut catalog = Catalog::new(settings(1, 0));
    let blocks = put_chain(&mut catalog, 0, 3);
    assert_eq!(catalog.pin(at(0), 1, "a", &blocks[..2], at(50), 10_000), Ok(8192));
    let quota = PinError::Quota { asked: 4096, used: 8192, max: 10_000 };
    assert_eq!(catalog.pin(at(0), 1, "b", &blocks[2..], at(50), 10_000), Err(quota));
    assert_eq!(catalog.pin(at(0), 1, "a", &blocks[..1], at(60), 10_000), Ok(4096), "a pin of that name is replaced");
    assert_eq!(catalog.pin(at(0), 1, "b", &blocks[2..], at(70), 10_000), Ok(4096));
    assert_eq!((catalog.count().pins, catalog.count().held_blocks), (2, 2));
    assert_eq!(catalog.expire(at(60)).pins, 1);
    assert_eq!(catalog.unpin(1, "a"), None);
    assert_eq!(catalog.unpin(1, "b"), Some(vec![]));
    assert_eq!((catalog.count().held_blocks, catalog.next_deadline()), (0, None));
    catalog.check().expect("consistent");
}

#[test]
fn a_block_is_added_to_a_pin_within_its_quota_and_ends_with_it() {
    let mut catalog = Catalog::new(settings(1, 0));
    let blocks = put_chain(&mut catalog, 0, 3);
    assert_eq!(catalog.pin_also(1, "a", blocks[0], 10_000), Ok(false), "there is no such pin");
    assert_eq!(catalog.pin(at(0), 1, "a", &[], at(50), 10_000), Ok(0));
    assert_eq!([0, 1].map(|number| catalog.pin_also(1, "a", blocks[number], 10_000)), [Ok(true), Ok(true)]);
    let quota = PinError::Quota { asked: 4096, used: 8192, max: 10_000 };
    assert_eq!(catalog.pin_also(1, "a", blocks[2], 10_000), Err(quota));
    assert_eq!((catalog.count().pinned_bytes, catalog.count().held_blocks), (8192, 2));
    catalog.check().expect("consistent");
    assert_eq!(catalog.expire(at(50)).pins, 1);
    assert_eq!((catalog.count().pinned_bytes, catalog.count().held_blocks), (0, 0));
    catalog.check().expect("consistent");
}

#[test]
fn an_extent_changes_hands_when_another_size_needs_it() {
    let mut catalog = Catalog::new(settings(3, 0));
    put_chain(&mut catalog, 0, 12);
    let (_, _, gone) = put_sized(&mut catalog, 50, None, 7 * 4096);
    let expected: Vec<_> = (8..12).rev().map(evicted).collect();
    assert_eq!(gone, expected, "one extent is emptied, the coldest, leaf first");
    let (_, _, gone) = put_sized(&mut catalog, 51, None, 7 * 4096);
    assert_eq!(gone, [evicted(50)], "its own class is colder now");
    assert_eq!(catalog.count().host.capacity_bytes, 3 * 8 * 4096);
    catalog.check().expect("consistent");
}

#[test]
fn dropping_a_space_in_steps_removes_all_of_it_and_nothing_else() {
    let mut catalog = Catalog::new(settings(4, 0));
    put_chain(&mut catalog, 0, 5);
    let other = PutPlan { space: 2, ..plan(50, None, &[100]) };
    let Reserve::Write(claim) = catalog.reserve(at(0), other) else { panic!("there is room") };
    catalog.finish_part(at(0), &claim, Some(1), |_, _, _| 0);
    assert_eq!((catalog.count_of_space(1), catalog.count_of_space(2)), ((5, 5 * 4096), (1, 100)));
    let (mut cursor, mut steps, mut records) = (0, 0, Vec::new());
    loop {
        let (step, done) = catalog.drop_space_step(at(0), 1, 2, &mut cursor);
        records.extend(step);
        steps += 1;
        if done {
            break;
        }
    }
    let expected: Vec<_> = (0..5).map(|number| removed(number, Host, RemovalCause::SpaceDropped)).collect();
    assert_eq!((records, steps), (expected, 3));
    assert_eq!((catalog.count_of_space(1), catalog.count_of_space(2)), ((0, 0), (1, 100)));
    catalog.check().expect("consistent");
}

#[test]
fn an_idle_catalog_and_a_long_history_take_bounded_ram() {
    let mut catalog = Catalog::new(settings(4, 0));
    (0..2_000).for_each(|number| _ = put(&mut catalog, number, None));
    let before = catalog.count().metadata_bytes;
    (2_000..50_000).for_each(|number| _ = put(&mut catalog, number, None));
    let after = catalog.count().metadata_bytes;
    assert!(after <= before + 4096, "{before} bytes became {after} although the tier is as full as before");
}
