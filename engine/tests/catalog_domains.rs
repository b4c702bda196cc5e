//! Domains of the host tier: their blocks compete for room with each other, and with nobody else's.

mod behaviour;

use behaviour::*;
use kvtier_engine::catalog::Catalog;
use kvtier_engine::catalog::plan::*;
use kvtier_engine::place::{PAGE_BYTES, TierKind};
use kvtier_engine::policy::PolicyKind;
use kvtier_engine::port::LoadOutcome;

const POLICIES: [PolicyKind; 2] = [PolicyKind::LeafLru, PolicyKind::S3Fifo];

/// Arenas of one extent (four one-page slots) each.
fn domains(count: usize, nvme_extents: u64, policy: PolicyKind) -> Catalog {
    let one = settings(1, nvme_extents);
    let settings = kvtier_engine::catalog::CatalogSettings { host: vec![extents(1); count], policy, ..one };
    Catalog::new(settings)
}

fn put_in(
    catalog: &mut Catalog,
    domain: u8,
    number: u64,
    parent: Option<u64>,
    bytes: u32,
) -> Result<PartClaim, Decline> {
    match catalog.reserve(at(0), PutPlan { domain, ..plan(number, parent, &[bytes]) }) {
        Reserve::Write(claim) => {
            assert_eq!(claim.slot.device, u16::from(domain));
            let done = catalog.finish_part(at(0), &claim, Some(1), |_, _, _| 0);
            assert!(matches!(done, PartOutcome::Visible { .. }), "{done:?}");
            catalog.check().expect("the catalog is sound");
            Ok(claim)
        }
        Reserve::Declined(why) => Err(why),
        other => panic!("block {number}: {other:?}"),
    }
}

fn fill_domain(catalog: &mut Catalog, domain: u8, first: u64) {
    (first..first + 4).for_each(|number| _ = put_in(catalog, domain, number, None, 4096).expect("there is room"));
}

#[test]
fn a_full_domain_evicts_its_own_and_spares_the_others() {
    for policy in POLICIES {
        let mut catalog = domains(3, 0, policy);
        fill_domain(&mut catalog, 0, 0);
        fill_domain(&mut catalog, 1, 100);
        for number in 104..200 {
            let claim = put_in(&mut catalog, 1, number, None, 4096).expect("room is made");
            assert!(claim.records.iter().all(|record| (100..200).any(|own| *record == evicted(own))), "{claim:?}");
        }
        assert!((0..4).all(|number| tier(&catalog, number) == Some(TierKind::Host)), "{policy:?}");
        let counts: Vec<_> = catalog.count_of_domains().iter().map(|count| (count.blocks, count.evictions)).collect();
        assert_eq!(counts, [(4, 0), (4, 96), (0, 0)]);
    }
}

#[test]
fn a_domain_full_of_leased_blocks_declines_its_own_puts_only() {
    let mut catalog = domains(2, 0, PolicyKind::LeafLru);
    fill_domain(&mut catalog, 1, 100);
    let held: Vec<_> = (100..104).map(|number| lookup(&mut catalog, &[number])[0].index).collect();
    catalog.lease(at(0), LeaseId(1), OWNER, &held, at(100)).expect("leased");
    assert_eq!(put_in(&mut catalog, 1, 104, None, 4096).expect_err("all is held"), Decline::HostFull);
    fill_domain(&mut catalog, 0, 0);
    put_in(&mut catalog, 0, 4, None, 4096).expect("the other domain makes room for itself");
}

#[test]
fn an_extent_of_another_domain_is_never_emptied_for_another_size() {
    let mut catalog = domains(2, 0, PolicyKind::LeafLru);
    fill_domain(&mut catalog, 0, 0);
    fill_domain(&mut catalog, 1, 100);
    // Needs the whole extent, which four small blocks are in.
    let claim = put_in(&mut catalog, 1, 200, None, 7 * PAGE_BYTES as u32).expect("the domain's extent is emptied");
    assert_eq!(claim.records.len(), 4);
    assert!((0..4).all(|number| tier(&catalog, number) == Some(TierKind::Host)));
}

#[test]
fn a_block_is_staged_up_into_its_own_domain() {
    let mut catalog = domains(2, 4, PolicyKind::LeafLru);
    fill_domain(&mut catalog, 0, 0);
    put_in(&mut catalog, 1, 100, None, 4096).expect("there is room");
    store(&mut catalog, 100);
    fill_domain(&mut catalog, 1, 101);
    assert_eq!(tier(&catalog, 100), Some(TierKind::Nvme));
    let LoadPlan::Load { index, into, records, .. } = catalog.begin_load_block(at(0), id(100)) else {
        panic!("no load")
    };
    assert_eq!(into.device, 1);
    assert_eq!(records.len(), 1, "room was made in the domain");
    let done = catalog.finish_load(at(0), index, &LoadOutcome::Verified, Some(key(100)));
    assert_eq!(done.copy.expect("it is up").slot, into);
    assert!((0..4).all(|number| tier(&catalog, number) == Some(TierKind::Host)));
}

/// To empty an NVMe extent for another size, a parent whose only copy is there would have to go, and with it its
/// child's host copy. A put of the same domain may cost that, one of another domain may not.
#[test]
fn room_on_nvme_is_not_paid_for_with_host_copies_of_another_domain() {
    for stranger in [false, true] {
        let two = kvtier_engine::catalog::CatalogSettings { host: vec![extents(2); 2], ..settings(1, 1) };
        let mut catalog = Catalog::new(two);
        put_in(&mut catalog, 0, 0, None, 4096).expect("there is room");
        store(&mut catalog, 0);
        put_in(&mut catalog, 0, 1, Some(0), 4096).expect("there is room");
        store(&mut catalog, 1);
        (2..10).for_each(|number| _ = put_in(&mut catalog, 0, number, None, 4096).expect("room is made"));
        assert_eq!((tier(&catalog, 0), tier(&catalog, 1)), (Some(TierKind::Nvme), Some(TierKind::Nvme)));
        let done = load(&mut catalog, 1, LoadOutcome::Verified);
        catalog.unhold(done.copy.expect("it is up").index);
        // Another size than what is on NVMe: its only extent would have to be emptied.
        put_in(&mut catalog, u8::from(stranger), 50, None, 7 * PAGE_BYTES as u32).expect("room is made");
        let up = tier(&catalog, 1);
        let index = catalog.peek(id(50)).expect("it was put").index;
        match catalog.begin_store(at(0), index, id(50)) {
            StorePlan::Store { .. } => assert!(!stranger, "paid for by another domain"),
            StorePlan::Declined(Decline::NvmeFull) => assert!(stranger),
            other => panic!("{other:?}"),
        }
        catalog.check().expect("the catalog is sound");
        if stranger {
            assert_eq!((up, tier(&catalog, 1)), (Some(TierKind::Host), Some(TierKind::Host)));
        }
    }
}

#[test]
fn a_slot_given_back_is_told_with_its_arena() {
    let mut catalog = domains(2, 0, PolicyKind::LeafLru);
    catalog.remember_given_back();
    let claims = [0, 1].map(|domain| put_in(&mut catalog, domain, u64::from(domain), None, 4096).expect("room"));
    catalog.delete(at(0), id(1));
    assert_eq!(catalog.take_given_back().collect::<Vec<_>>(), [(1, claims[1].slot.offset)]);
    catalog.delete(at(0), id(0));
    assert_eq!(catalog.take_given_back().collect::<Vec<_>>(), [(0, claims[0].slot.offset)]);
}

#[test]
fn a_chain_stays_in_one_domain() {
    let mut catalog = domains(2, 4, PolicyKind::LeafLru);
    put_in(&mut catalog, 0, 0, None, 4096).expect("there is room");
    let child = PutPlan { domain: 1, ..plan(1, Some(0), &[4096]) };
    assert!(matches!(catalog.reserve(at(0), child), Reserve::Disagrees("domain")));
    // After a restart the index is believed no more than a client.
    let entry = store(&mut catalog, 0);
    let mut next = domains(2, 4, PolicyKind::LeafLru);
    next.begin_fill(&[]);
    let child = kvtier_engine::port::IndexEntry {
        parent: Some(id(0)),
        key: key(1),
        slot: kvtier_engine::place::Slot { offset: entry.slot.offset + u64::from(entry.slot.bytes), ..entry.slot },
        ..entry.clone()
    };
    assert!(matches!(next.fill(id(1), &child, 1), Fill::Added(_)), "its parent is not known yet");
    assert!(matches!(next.fill(id(0), &entry, 0), Fill::Conflict(_)), "it is in the domain of its child");
    assert!(matches!(next.fill(id(0), &entry, 1), Fill::Added(_)));
    next.check().expect("the catalog is sound");
}

#[test]
fn domains_count_together_as_the_tier() {
    let mut catalog = domains(2, 0, PolicyKind::S3Fifo);
    fill_domain(&mut catalog, 0, 0);
    put_in(&mut catalog, 1, 100, None, 4096).expect("there is room");
    let (all, each) = (catalog.count().host, catalog.count_of_domains());
    assert_eq!((all.blocks, all.payload_bytes, all.capacity_bytes), (5, 5 * 4096, 16 * PAGE_BYTES));
    assert_eq!(each.iter().map(|count| count.blocks).collect::<Vec<_>>(), [4, 1]);
    catalog.delete(at(0), id(100)).expect("there");
    assert_eq!(catalog.count_of_domains()[1].slot_bytes, 0);
}
