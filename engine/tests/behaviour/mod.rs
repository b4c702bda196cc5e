#![allow(dead_code, reason = "each test binary uses a part of it")]
//! A small catalog with round numbers, for tests that tell one story each.

use std::time::Duration;

use kvtier_engine::catalog::plan::*;
use kvtier_engine::catalog::{Catalog, CatalogSettings};
use kvtier_engine::place::{PAGE_BYTES, TierKind};
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::{DeviceGeometry, IndexEntry, LoadOutcome, Moment, Record, RemovalCause};
use kvtier_identity::{BlockId, Key};

pub(crate) const OWNER: OwnerId = OwnerId(1);

pub(crate) fn at(ms: u64) -> Moment {
    Moment(Duration::from_millis(ms))
}

/// Extents of 8 pages: four slots of one payload page.
pub(crate) fn extents(count: u64) -> DeviceGeometry {
    DeviceGeometry { bytes: count * 8 * PAGE_BYTES, extent_bytes: 8 * PAGE_BYTES, first_extent_offset: 0 }
}

pub(crate) fn settings(host_extents: u64, nvme_extents: u64) -> CatalogSettings {
    CatalogSettings {
        host: vec![extents(host_extents)],
        nvme: if nvme_extents == 0 { vec![] } else { vec![extents(nvme_extents)] },
        policy: PolicyKind::LeafLru,
        admission: AdmissionKind::All,
        generation_first: 7 << 40,
        history_count_max: 1 << 12,
        lease_count_max: 4,
        pending_count_max: 4,
        pin_count_max: 4,
    }
}

pub(crate) fn id(number: u64) -> BlockId {
    let low = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    BlockId(u128::from(low.wrapping_mul(0xbf58_476d_1ce4_e5b9)) << 64 | u128::from(low ^ low >> 29))
}

pub(crate) fn key(number: u64) -> Key {
    Key::new(&number.to_le_bytes()).expect("8 bytes")
}

pub(crate) fn plan(number: u64, parent: Option<u64>, part_bytes: &[u32]) -> PutPlan {
    PutPlan {
        block: id(number),
        space: 1,
        domain: 0,
        key: key(number),
        parent: parent.map(id),
        part_bytes: part_bytes.into(),
        part: 0,
        deadline: at(1_000_000),
    }
}

pub(crate) fn reserve(catalog: &mut Catalog, number: u64, parent: Option<u64>, bytes: u32) -> PartClaim {
    match catalog.reserve(at(0), plan(number, parent, &[bytes])) {
        Reserve::Write(claim) => claim,
        other => panic!("block {number}: {other:?}"),
    }
}

/// Puts a block of one part; returns its index, whether it is admitted, and what was evicted for it.
pub(crate) fn put_sized(
    catalog: &mut Catalog,
    number: u64,
    parent: Option<u64>,
    bytes: u32,
) -> (BlockIndex, bool, Vec<Record>) {
    let claim = reserve(catalog, number, parent, bytes);
    match catalog.finish_part(at(0), &claim, Some(number as u32), |_, _, _| 0) {
        PartOutcome::Visible { index, admit, .. } => (index, admit, claim.records),
        other => panic!("block {number}: {other:?}"),
    }
}

pub(crate) fn put(catalog: &mut Catalog, number: u64, parent: Option<u64>) -> BlockIndex {
    put_sized(catalog, number, parent, 4096).0
}

/// Puts blocks `first..first + count` as one chain.
pub(crate) fn put_chain(catalog: &mut Catalog, first: u64, count: u64) -> Vec<BlockIndex> {
    (first..first + count).map(|number| put(catalog, number, (number > first).then(|| number - 1))).collect()
}

pub(crate) fn decline(catalog: &mut Catalog, number: u64, parent: Option<u64>, bytes: u32) -> Decline {
    match catalog.reserve(at(0), plan(number, parent, &[bytes])) {
        Reserve::Declined(why) => why,
        other => panic!("block {number}: {other:?}"),
    }
}

/// Stores a resident block on NVMe.
pub(crate) fn store(catalog: &mut Catalog, number: u64) -> IndexEntry {
    let index = catalog.peek(id(number)).expect("the block is resident").index;
    match catalog.begin_store(at(0), index, id(number)) {
        StorePlan::Store { index, entry, .. } => {
            catalog.finish_store(at(0), index, true);
            entry
        }
        other => panic!("block {number}: {other:?}"),
    }
}

/// Loads a block up; the copy is held.
pub(crate) fn load(catalog: &mut Catalog, number: u64, outcome: LoadOutcome) -> LoadDone {
    match catalog.begin_load_block(at(0), id(number)) {
        LoadPlan::Load { index, .. } => catalog.finish_load(at(0), index, &outcome, Some(key(number))),
        other => panic!("block {number}: {other:?}"),
    }
}

pub(crate) fn lookup(catalog: &mut Catalog, numbers: &[u64]) -> Vec<Resident> {
    let mut found = Vec::new();
    let blocks: Vec<BlockId> = numbers.iter().map(|number| id(*number)).collect();
    let count = catalog.lookup(&blocks, &mut found);
    assert_eq!(count, found.len());
    found
}

pub(crate) fn tier(catalog: &Catalog, number: u64) -> Option<TierKind> {
    catalog.peek(id(number)).map(|found| found.tier)
}

pub(crate) fn removed(number: u64, tier: TierKind, cause: RemovalCause) -> Record {
    Record::Removed { block: id(number), space: 1, tier, cause }
}

pub(crate) fn evicted(number: u64) -> Record {
    removed(number, TierKind::Host, RemovalCause::Evicted)
}
