//! A naive model of the catalog and of the bytes it governs.
//!
//! The model is fed by the records the catalog asks to have journaled, like any subscriber, and by the outcomes the
//! test itself reports. Every page of both tiers holds a tag that says which put its bytes came from, so that a slot
//! handed out while somebody still reads or writes it shows up as wrong bytes (INV-1, INV-2, INV-8).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use kvtier_engine::catalog::plan::*;
use kvtier_engine::catalog::{Catalog, CatalogSettings};
use kvtier_engine::place::{PAGE_BYTES, Slot, TierKind};
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::{DeviceGeometry, IndexEntry, Moment, Record, RemovalCause};
use kvtier_identity::{BlockId, Key};

/// Blocks that exist in the world.
pub(crate) const BLOCKS: u32 = 36;
const EXTENT: u64 = 16 * PAGE_BYTES;

/// How often each thing happened, over all cases of a run.
#[derive(Default)]
pub(crate) struct Coverage(pub(crate) std::cell::RefCell<BTreeMap<&'static str, u64>>);

impl Coverage {
    pub(crate) fn note(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Model {
    pub(crate) host: Option<u32>,
    pub(crate) nvme: Option<u32>,
    pub(crate) loading: bool,
    pub(crate) storing: bool,
    /// Number of the put under way.
    pub(crate) pending: Option<u64>,
    pub(crate) index: Option<BlockIndex>,
    pub(crate) missing: Option<(MissReason, Option<TierKind>, Moment)>,
}

impl Model {
    pub(crate) fn visible(&self) -> bool {
        self.host.is_some() || self.nvme.is_some()
    }

    fn owns(&self, tier: TierKind) -> bool {
        match tier {
            TierKind::Host => self.host.is_some() || self.loading || self.pending.is_some(),
            _ => self.nvme.is_some() || self.storing,
        }
    }
}

pub(crate) struct Reader {
    pub(crate) copy: HostCopy,
    pub(crate) tag: u32,
}

pub(crate) struct Flight {
    pub(crate) index: BlockIndex,
    pub(crate) number: u32,
    pub(crate) from: Slot,
    pub(crate) to: Slot,
    pub(crate) tag: u32,
    pub(crate) entry: Option<IndexEntry>,
    pub(crate) doomed: bool,
}

pub(crate) struct Writer {
    pub(crate) number: u32,
    pub(crate) claim: PartClaim,
    pub(crate) given_up: bool,
}

pub(crate) struct Lease {
    pub(crate) owner: OwnerId,
    pub(crate) deadline: Moment,
    pub(crate) blocks: Vec<BlockIndex>,
}

pub(crate) struct World {
    pub(crate) catalog: Catalog,
    pub(crate) now: Moment,
    pub(crate) blocks: Vec<Model>,
    pub(crate) host: BTreeMap<(u16, u64), u32>,
    pub(crate) nvme: BTreeMap<(u16, u64), u32>,
    pub(crate) index: BTreeMap<u32, IndexEntry>,
    pub(crate) bad: Vec<Slot>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) parts: BTreeMap<(u64, u16), u32>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) loads: Vec<Flight>,
    pub(crate) stores: Vec<Flight>,
    pub(crate) scrubs: Vec<(BlockIndex, u32)>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) ended: BTreeMap<LeaseId, OwnerId>,
    pub(crate) pins: BTreeMap<(u32, String), (Moment, Vec<BlockIndex>, u64)>,
    pub(crate) to_fill: Option<Vec<u32>>,
    pub(crate) removed_in_fill: BTreeSet<u32>,
    pub(crate) next: u32,
    pub(crate) epoch: u64,
    pub(crate) coverage: Rc<Coverage>,
    pub(crate) policy: PolicyKind,
    pub(crate) admission: AdmissionKind,
    pub(crate) scrub_cursor: u32,
    /// Domains of the host tier.
    pub(crate) domains: u32,
    /// The block room is being made for.
    pub(crate) acting: Option<u32>,
}

pub(crate) fn id(number: u32) -> BlockId {
    // Uniform, as the catalog may expect.
    let low = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let high = (low ^ low >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    BlockId(u128::from(high) << 64 | u128::from(low ^ high >> 32))
}

pub(crate) fn number(block: BlockId) -> u32 {
    (0..BLOCKS).find(|number| id(*number) == block).expect("the catalog names only blocks it was given")
}

pub(crate) fn key(number: u32) -> Key {
    Key::new(&number.to_le_bytes()).expect("4 bytes")
}

/// A forest: three roots, each block with up to three children.
pub(crate) fn parent(number: u32) -> Option<u32> {
    match number {
        0..3 => None,
        _ if number.is_multiple_of(4) => Some(number - 3),
        _ => Some((number - 3) / 2 + (number % 2)),
    }
}

pub(crate) fn chain(number: u32) -> Vec<u32> {
    let mut chain: Vec<u32> = std::iter::successors(Some(number), |number| parent(*number)).collect();
    chain.reverse();
    chain
}

pub(crate) fn part_bytes(number: u32) -> Vec<u32> {
    match number % 9 {
        0 => vec![5000, 4000, 3000],
        4 => vec![9 * 4096],
        5 => vec![100, 60],
        8 => vec![3 * 4096 - 7],
        _ => vec![4096],
    }
}

pub(crate) fn length(number: u32) -> u32 {
    part_bytes(number).iter().sum()
}

/// One per tree.
pub(crate) fn space(number: u32) -> u32 {
    chain(number)[0]
}

pub(crate) const SPACES: u32 = 3;

/// Not commutative, so that the order of parts matters.
pub(crate) fn combine(first: u32, second: u32, length: u64) -> u32 {
    first.wrapping_mul(31).wrapping_add(second).wrapping_add(length as u32)
}

pub(crate) fn settings(policy: PolicyKind, admission: AdmissionKind, domains: u32, epoch: u64) -> CatalogSettings {
    let device =
        |extents, first| DeviceGeometry { bytes: extents * EXTENT, extent_bytes: EXTENT, first_extent_offset: first };
    CatalogSettings {
        // Of different sizes, the first alone as large as the others together.
        host: [3, 2, 1][..domains as usize].iter().map(|extents| device(*extents, 0)).collect(),
        nvme: vec![device(1, PAGE_BYTES), device(2, 4 * PAGE_BYTES)],
        policy,
        admission,
        generation_first: epoch << 40,
        history_count_max: 1 << 16,
        lease_count_max: 6,
        pending_count_max: 5,
        pin_count_max: 3,
    }
}

pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl World {
    pub(crate) fn new(policy: PolicyKind, admission: AdmissionKind, domains: u32, coverage: Rc<Coverage>) -> Self {
        let mut catalog = Catalog::new(settings(policy, admission, domains, 1));
        catalog.register_size(12_000);
        Self {
            catalog,
            now: Moment(ms(1)),
            blocks: vec![Model::default(); BLOCKS as usize],
            host: BTreeMap::new(),
            nvme: BTreeMap::new(),
            index: BTreeMap::new(),
            bad: Vec::new(),
            writers: Vec::new(),
            parts: BTreeMap::new(),
            readers: Vec::new(),
            loads: Vec::new(),
            stores: Vec::new(),
            scrubs: Vec::new(),
            leases: BTreeMap::new(),
            ended: BTreeMap::new(),
            pins: BTreeMap::new(),
            to_fill: None,
            removed_in_fill: BTreeSet::new(),
            next: 0,
            epoch: 1,
            coverage,
            policy,
            admission,
            scrub_cursor: 0,
            domains,
            acting: None,
        }
    }

    /// The domain of a block's host copies.
    pub(crate) fn domain(&self, number: u32) -> u8 {
        (space(number) % self.domains) as u8
    }

    /// Applies what making room for a block has cost: no host copy of another domain.
    pub(crate) fn apply_for(&mut self, number: u32, records: &[Record]) {
        self.acting = Some(number);
        self.apply(records);
        self.acting = None;
    }

    pub(crate) fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    pub(crate) fn model(&mut self, number: u32) -> &mut Model {
        &mut self.blocks[number as usize]
    }

    pub(crate) fn write_host(&mut self, slot: Slot, tag: u32) {
        pages(slot).for_each(|page| _ = self.host.insert((slot.device, page), tag));
    }

    pub(crate) fn host_reads(&self, slot: Slot, tag: u32) -> bool {
        pages(slot).all(|page| self.host.get(&(slot.device, page)) == Some(&tag))
    }

    pub(crate) fn write_nvme(&mut self, slot: Slot, tag: u32) {
        pages(slot).for_each(|page| _ = self.nvme.insert((slot.device, page), tag));
    }

    pub(crate) fn nvme_reads(&self, slot: Slot, tag: u32) -> bool {
        pages(slot).all(|page| self.nvme.get(&(slot.device, page)) == Some(&tag))
    }

    /// Whether anybody the test knows of holds this entry.
    pub(crate) fn held(&self, index: BlockIndex) -> bool {
        self.readers.iter().any(|reader| reader.copy.index == index)
            || self.loads.iter().chain(&self.stores).any(|flight| flight.index == index)
            || self.scrubs.iter().any(|(held, _)| *held == index)
            || self.leases.values().any(|lease| lease.blocks.contains(&index))
            || self.pins.values().any(|(_, blocks, _)| blocks.contains(&index))
    }

    /// Applies records to the model, in order, as a journal would.
    pub(crate) fn apply(&mut self, records: &[Record]) {
        let mut host_gone = None;
        for record in records {
            match record {
                Record::Removed { block, tier, cause, space: of } => {
                    let number = number(*block);
                    assert_eq!(*of, space(number));
                    let taken_back = |flight: &Flight| flight.number == number && flight.doomed;
                    let has_copy = self.blocks[number as usize].nvme.is_some();
                    if *tier == TierKind::Nvme && !has_copy && self.stores.iter().any(taken_back) {
                        // Its commit may have been journaled already: the removal comes with the doom.
                        self.coverage.note("store taken back");
                        continue;
                    }
                    // A block removed from both tiers at once went away from the faster one.
                    let both = *cause != RemovalCause::Evicted && host_gone == Some(number);
                    host_gone = (*tier == TierKind::Host).then_some(number);
                    self.apply_removed(number, *tier, *cause, if both { TierKind::Host } else { *tier });
                }
                Record::Quarantined { slot } => {
                    assert!(!self.bad.contains(slot), "a slot is quarantined once");
                    self.bad.push(*slot);
                }
                other => panic!("unexpected record {other:?}"),
            }
        }
    }

    fn apply_removed(&mut self, number: u32, tier: TierKind, cause: RemovalCause, lost_from: TierKind) {
        let index = self.blocks[number as usize].index.expect("a visible block has an entry");
        if cause == RemovalCause::Evicted {
            assert!(!self.held(index), "block {number} was evicted while held (INV-4)");
            let model = &self.blocks[number as usize];
            let last = !(model.host.is_some() && model.nvme.is_some());
            let below = |child: &u32| {
                let child = &self.blocks[*child as usize];
                child.owns(tier) || (last && (child.owns(TierKind::Host) || child.owns(TierKind::Nvme)))
            };
            let child = (0..BLOCKS).filter(|child| parent(*child) == Some(number)).find(below);
            assert_eq!(child, None, "block {number} was evicted from {tier:?} before its descendant");
            let actor = self.acting.expect("blocks are evicted to make room");
            let stranger = self.domain(actor) != self.domain(number);
            assert!(tier == TierKind::Nvme || !stranger, "block {actor} has cost another domain block {number}");
            if stranger {
                self.coverage.note("evicted from nvme for another domain");
            }
        }
        self.coverage.note(match (tier, cause) {
            (TierKind::Host, RemovalCause::Evicted) => "evicted from host",
            (TierKind::Nvme, RemovalCause::Evicted) => "evicted from nvme",
            (_, RemovalCause::Corrupt) => "removed corrupt",
            (_, RemovalCause::Deleted) => "removed deleted",
            _ => "removed otherwise",
        });
        let now = self.now;
        let model = self.model(number);
        let copy = if tier == TierKind::Host { &mut model.host } else { &mut model.nvme };
        assert!(copy.take().is_some(), "block {number} had no copy in {tier:?}");
        if !model.visible() {
            model.missing = Some((MissReason::Removed(cause), Some(lost_from), now));
        }
        if tier == TierKind::Nvme {
            self.index.remove(&number);
        }
        if self.to_fill.is_some() && cause != RemovalCause::Evicted {
            self.removed_in_fill.insert(number);
        }
        if !self.blocks[number as usize].visible() {
            self.vanish(number, index);
        }
    }

    /// The block is gone; whoever holds it holds a doomed one.
    fn vanish(&mut self, number: u32, index: BlockIndex) {
        if self.held(index) {
            self.coverage.note("doomed while held");
        }
        for flight in self.loads.iter_mut().chain(&mut self.stores).filter(|flight| flight.index == index) {
            flight.doomed = true;
            self.coverage.note("doomed in flight");
        }
        let model = self.model(number);
        (model.loading, model.storing, model.index) = (false, false, None);
    }

    /// Compares everything that can be asked with the model.
    pub(crate) fn check(&self) {
        self.catalog.check().expect("the catalog contradicts itself");
        let count = self.catalog.count();
        let visible = self.blocks.iter().filter(|model| model.visible()).count() as u64;
        assert_eq!(count.blocks, visible);
        assert_eq!(count.host.blocks, self.blocks.iter().filter(|model| model.host.is_some()).count() as u64);
        assert_eq!(count.nvme.blocks, self.blocks.iter().filter(|model| model.nvme.is_some()).count() as u64);
        assert!(
            count.host.slot_bytes <= count.host.capacity_bytes && count.nvme.slot_bytes <= count.nvme.capacity_bytes
        );
        for (domain, count) in (0..).zip(self.catalog.count_of_domains()) {
            let members = (0..BLOCKS).filter(|number| self.domain(*number) == domain);
            let members: Vec<u32> = members.filter(|number| self.blocks[*number as usize].host.is_some()).collect();
            let bytes: u64 = members.iter().map(|number| u64::from(length(*number))).sum();
            assert_eq!((count.blocks, count.payload_bytes), (members.len() as u64, bytes), "domain {domain}");
        }
        assert_eq!(count.leases, self.leases.len() as u64);
        assert_eq!(count.pins, self.pins.len() as u64);
        for space_number in 0..SPACES {
            let members = (0..BLOCKS).filter(|number| space(*number) == space_number);
            let members: Vec<u32> = members.filter(|number| self.blocks[*number as usize].visible()).collect();
            let bytes: u64 = members.iter().map(|number| u64::from(length(*number))).sum();
            assert_eq!(self.catalog.count_of_space(space_number), (members.len() as u64, bytes));
        }
        for (number, model) in (0..).zip(&self.blocks) {
            self.check_block(number, model);
        }
        for reader in &self.readers {
            assert!(self.host_reads(reader.copy.slot, reader.tag), "a reader sees other bytes (INV-1)");
        }
    }

    fn check_block(&self, number: u32, model: &Model) {
        let tier = if model.host.is_some() { TierKind::Host } else { TierKind::Nvme };
        let expected = model.visible().then_some((tier, length(number)));
        let found = self.catalog.peek(id(number));
        assert_eq!(found.map(|found| (found.tier, found.length)), expected, "block {number}");
        if let Some(found) = found {
            assert_eq!(Some(found.index), model.index);
            return;
        }
        let miss = self.catalog.miss(self.now, id(number));
        if model.pending.is_some() {
            assert_eq!(miss.reason, MissReason::Incomplete);
        } else {
            let (reason, tier, since) = model.missing.unwrap_or((MissReason::NeverStored, None, self.now));
            let age = model.missing.map(|_| self.now.since(since));
            assert_eq!(miss, Miss { reason, age, tier }, "block {number}");
        }
    }
}

fn pages(slot: Slot) -> impl Iterator<Item = u64> {
    slot.offset / PAGE_BYTES..(slot.offset + u64::from(slot.bytes)) / PAGE_BYTES
}
