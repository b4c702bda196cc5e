//! What comes back after a restart, and what does not.

mod behaviour;

use behaviour::*;
use kvtier_engine::catalog::Catalog;
use kvtier_engine::catalog::plan::*;
use kvtier_engine::place::Slot;
use kvtier_engine::place::TierKind::{Host, Nvme};
use kvtier_engine::port::IndexEntry;

/// What the index would hold of a chain of four blocks.
fn stored_chain(nvme_extents: u64) -> Vec<IndexEntry> {
    let mut catalog = Catalog::new(settings(1, nvme_extents));
    put_chain(&mut catalog, 0, 4);
    (0..4).map(|number| store(&mut catalog, number)).collect()
}

fn recovering(quarantined: &[Slot]) -> Catalog {
    let mut catalog = Catalog::new(settings(1, 2));
    catalog.begin_fill(quarantined);
    catalog
}

fn conflict(fill: Fill) -> &'static str {
    if let Fill::Conflict(problem) = fill { problem } else { panic!("{fill:?}") }
}

#[test]
fn a_chain_filled_in_any_order_is_whole() {
    let entries = stored_chain(2);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut catalog = recovering(&[]);
        for number in order {
            assert!(matches!(catalog.fill(id(number), &entries[number as usize], 0), Fill::Added(_)));
            assert_eq!(catalog.fill(id(number), &entries[number as usize], 0), Fill::Known);
            catalog.check().expect("consistent");
        }
        catalog.finish_fill();
        let found = lookup(&mut catalog, &[0, 1, 2, 3]);
        assert!(found.len() == 4 && found.iter().all(|found| found.tier == Nvme));
        catalog.check().expect("consistent");
    }
}

#[test]
fn nothing_is_stored_before_the_index_is_known() {
    let entries = stored_chain(2);
    let mut catalog = recovering(&[]);
    let index = put(&mut catalog, 50, None);
    let recovering = StorePlan::Declined(Decline::Recovering);
    assert_eq!(format!("{:?}", catalog.begin_store(at(0), index, id(50))), format!("{recovering:?}"));
    catalog.fill(id(0), &entries[0], 0);
    catalog.finish_fill();
    assert_ne!(store(&mut catalog, 50).slot, entries[0].slot);
}

#[test]
fn an_entry_that_cannot_be_true_is_a_conflict() {
    let entries = stored_chain(2);
    let mut catalog = recovering(&[entries[3].slot]);
    let with_slot = |number: usize, slot| IndexEntry { slot, ..entries[number].clone() };
    let slot = entries[0].slot;
    assert!(matches!(catalog.fill(id(0), &entries[0], 0), Fill::Added(_)));
    let refused = |catalog: &mut Catalog, entry: &IndexEntry| {
        let problem = conflict(catalog.fill(id(1), entry, 0));
        assert_eq!(tier(catalog, 1), None);
        catalog.check().expect("consistent");
        problem
    };
    for (bad, part) in [
        (slot, "another block"),
        (Slot { bytes: 3 * 4096, ..slot }, "another slot size"),
        (Slot { offset: slot.offset + 4096, ..slot }, "not aligned"),
        (Slot { offset: 1 << 40, ..slot }, "outside"),
        (Slot { offset: 17, ..slot }, "outside"),
        (Slot { device: 3, ..slot }, "outside"),
        (Slot { bytes: 4096, ..slot }, "whole number of pages"),
        (Slot { bytes: 8191, ..slot }, "whole number of pages"),
        (Slot { bytes: 0, ..slot }, "whole number of pages"),
        (Slot { bytes: 9 * 4096, offset: 8 * 4096, ..slot }, "not aligned"),
        (entries[3].slot, "quarantined"),
    ] {
        let problem = refused(&mut catalog, &with_slot(1, bad));
        assert!(problem.contains(part), "{bad:?}: {problem}");
    }
    let large = IndexEntry { length: 5000, ..entries[1].clone() };
    assert!(refused(&mut catalog, &large).contains("smaller than the block"));
    let own = IndexEntry { parent: Some(id(1)), ..entries[1].clone() };
    assert!(refused(&mut catalog, &own).contains("ancestor"));
}

#[test]
fn entries_that_name_each_other_as_parent_do_not_hang() {
    let entries = stored_chain(2);
    let mut catalog = recovering(&[]);
    let head = IndexEntry { parent: Some(id(3)), ..entries[0].clone() };
    for number in 1..4 {
        assert!(matches!(catalog.fill(id(number), &entries[number as usize], 0), Fill::Added(_)));
    }
    assert!(conflict(catalog.fill(id(0), &head, 0)).contains("ancestor"));
    catalog.finish_fill();
    catalog.check().expect("consistent");
}

#[test]
fn what_was_deleted_while_filling_does_not_come_back() {
    let entries = stored_chain(2);
    let mut catalog = recovering(&[]);
    catalog.fill(id(0), &entries[0], 0);
    catalog.delete(at(0), id(0)).expect("the block is there");
    assert!(conflict(catalog.fill(id(0), &entries[0], 0)).contains("removed"));
    assert_eq!(tier(&catalog, 0), None);
}

#[test]
fn other_bytes_under_one_key_do_not_mix() {
    let entries = stored_chain(2);
    let mut catalog = recovering(&[]);
    put(&mut catalog, 0, None);
    let same = entries[0].clone();
    let other = IndexEntry { crc: 99, ..same.clone() };
    assert!(conflict(catalog.fill(id(0), &other, 0)).contains("other bytes"));
    assert!(matches!(catalog.fill(id(0), &same, 0), Fill::Added(_)), "the same bytes are one block with two copies");
    assert_eq!((tier(&catalog, 0), catalog.count().nvme.blocks, catalog.count().blocks), (Some(Host), 1, 1));
}

#[test]
fn a_durable_copy_beats_a_put_that_is_not_complete() {
    let entries = stored_chain(2);
    let mut catalog = recovering(&[]);
    let claim = reserve(&mut catalog, 0, None, 4096);
    assert!(matches!(catalog.fill(id(0), &entries[0], 0), Fill::Added(_)));
    assert!(matches!(catalog.finish_part(at(0), &claim, Some(1), |_, _, _| 0), PartOutcome::GivenUp));
    assert_eq!((tier(&catalog, 0), catalog.count().host.slot_bytes), (Some(Nvme), 0));
    catalog.check().expect("consistent");
}

#[test]
fn the_oldest_store_goes_first_after_a_restart() {
    let mut before = Catalog::new(settings(2, 2));
    let numbers: Vec<u64> = (0..8).collect();
    numbers.iter().for_each(|number| _ = put(&mut before, *number, None));
    let entries: Vec<_> = numbers.iter().map(|number| store(&mut before, *number)).collect();

    let mut catalog = recovering(&[]);
    for number in [5, 0, 7, 3, 1, 6, 2, 4] {
        catalog.fill(id(number), &entries[number as usize], 0);
    }
    lookup(&mut catalog, &[0]);
    while !catalog.finish_fill_step(1) {}
    let evicted: Vec<_> = (20..23)
        .map(|number| {
            let index = put(&mut catalog, number, None);
            let StorePlan::Store { index, records, .. } = catalog.begin_store(at(0), index, id(number)) else {
                panic!("there is room")
            };
            catalog.finish_store(at(0), index, true);
            records
        })
        .collect();
    let gone = |number| vec![removed(number, Nvme, kvtier_engine::port::RemovalCause::Evicted)];
    assert_eq!(evicted, [gone(1), gone(2), gone(3)], "block 0 is the oldest, but was used since");
}
