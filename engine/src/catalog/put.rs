//! Putting a block: reserve a host slot, fill its parts, become visible (INV-2).
//!
//! A pending put owns its slot from the first part on. Every part that is being written is a hold, so a put that is given
//! up (deadline, delete, dropped space) keeps its slot until the last writer has let go (INV-8).

use kvtier_identity::BlockId;

use super::Catalog;
use super::entry::{Level, NONE, State};
use super::expire::Due;
use super::plan::{BlockIndex, Decline, PartClaim, PartOutcome, PutPlan, Reserve};
use crate::place::slot_bytes;
use crate::port::{Moment, Record, RemovalCause};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Free,
    Writing,
    Done { crc: u32 },
}

/// A put that waits for parts, or one that was given up and waits for its writers.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) index: u32,
    part_bytes: Box<[u32]>,
    parts: Box<[Part]>,
    deadline: Moment,
}

impl Pending {
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<Self>() + size_of::<u64>() + self.parts.len() * (size_of::<Part>() + size_of::<u32>())) as u64
    }

    /// Parts somebody is writing: as many holds does the put keep on its block.
    pub(super) fn writer_count(&self) -> u32 {
        self.parts.iter().filter(|part| **part == Part::Writing).count() as u32
    }
}

impl Catalog {
    /// Reserves a host slot for a block, or the right to write one more part of a put under way.
    pub fn reserve(&mut self, now: Moment, plan: PutPlan) -> Reserve {
        let found = self.blocks.find(plan.block);
        let state = found.map(|index| self.blocks.get(index).state);
        if state == Some(State::Visible) {
            return Reserve::Duplicate;
        }
        if plan.part_bytes.contains(&0) || usize::from(plan.part) >= plan.part_bytes.len() {
            return Reserve::Disagrees("part");
        }
        let answer = match found {
            Some(index) if state == Some(State::Pending) => self.join(index, &plan),
            _ => self.open(now, found, &plan),
        };
        if let Reserve::Declined(why) = &answer
            && *why != Decline::UnderWay
        {
            self.note_declined(now, plan.block, *why);
        }
        answer
    }

    /// The first part of a block.
    fn open(&mut self, now: Moment, found: Option<u32>, plan: &PutPlan) -> Reserve {
        let parent = match plan.parent.map(|parent| self.blocks.find(parent)) {
            None => NONE,
            Some(Some(parent)) if self.blocks.get(parent).counts() => parent,
            Some(_) => return Reserve::Declined(Decline::ParentUnknown),
        };
        let strange = |index: u32| self.blocks.get(index).domain != plan.domain;
        if found.into_iter().chain((parent != NONE).then_some(parent)).any(strange) {
            return Reserve::Disagrees("domain");
        }
        if self.pending.len() >= self.settings.pending_count_max as usize {
            return Reserve::Declined(Decline::Busy);
        }
        let length = plan.part_bytes.iter().try_fold(0u32, |sum, bytes| sum.checked_add(*bytes));
        let home = &self.shelf(Level::Host).domains[usize::from(plan.domain)];
        let class = length.and_then(|length| Some((length, home.slots.class(length)?)));
        let Some((length, class)) = class else { return Reserve::Declined(Decline::TooLarge) };
        if !home.takes_puts(u64::from(slot_bytes(length))) {
            return Reserve::Declined(Decline::HostFull);
        }

        let index = self.entry_for(found, plan.block, plan.domain);
        if let Err(problem) = self.blocks.set_parent(index, parent) {
            self.blocks.prune(index);
            return Reserve::Disagrees(problem);
        }
        // Pending from here on, so that making room prunes neither the block nor its parent.
        self.blocks.set_state(index, State::Pending);
        let mut records = Vec::new();
        let Some(place) = self.make_room(now, Level::Host, class, index, &mut records) else {
            self.blocks.set_state(index, State::Shadow);
            self.blocks.prune(index);
            return Reserve::Declined(Decline::HostFull);
        };
        self.blocks.occupy(index, Level::Host, place);
        self.keep_key(index, plan.key.clone());
        let number = self.pending_next;
        self.pending_next += 1;
        let entry = self.blocks.get_mut(index);
        (entry.space, entry.length, entry.generation) = (plan.space, length, number);
        let pending = Pending {
            index,
            part_bytes: plan.part_bytes.clone().into(),
            parts: vec![Part::Free; plan.part_bytes.len()].into(),
            deadline: plan.deadline,
        };
        self.pending.insert(number, pending);
        self.due.insert((plan.deadline, Due::Pending(number)));
        Reserve::Write(self.claim(number, plan.part, records))
    }

    /// The entry a new copy of this block goes to: its shadow, or a fresh one.
    pub(super) fn entry_for(&mut self, found: Option<u32>, block: BlockId, domain: u8) -> u32 {
        match found {
            None => self.blocks.insert(block, domain),
            Some(index) if self.blocks.get(index).state == State::Doomed => self.blocks.replace(index),
            Some(index) => index,
        }
    }

    /// One more part of a put under way.
    fn join(&mut self, index: u32, plan: &PutPlan) -> Reserve {
        let entry = self.blocks.get(index);
        let pending = &self.pending[&entry.generation];
        if *pending.part_bytes != *plan.part_bytes {
            return Reserve::Disagrees("part_bytes");
        }
        if self.parent_id(index) != plan.parent {
            return Reserve::Disagrees("parent");
        }
        if entry.space != plan.space || self.keys.get(&index) != Some(&plan.key) {
            return Reserve::Disagrees("key");
        }
        match pending.parts[usize::from(plan.part)] {
            Part::Free => Reserve::Write(self.claim(entry.generation, plan.part, Vec::new())),
            // Two engines that compute one prompt put its blocks at once: no mistake of either.
            Part::Writing => Reserve::Declined(Decline::UnderWay),
            Part::Done { .. } => Reserve::PartTaken,
        }
    }

    fn claim(&mut self, number: u64, part: u16, records: Vec<Record>) -> PartClaim {
        let at = usize::from(part);
        let pending = self.pending.get_mut(&number).expect("the pending put was just found");
        pending.parts[at] = Part::Writing;
        let (index, length) = (pending.index, pending.part_bytes[at]);
        let offset = pending.part_bytes[..at].iter().sum();
        self.hold(index);
        let entry = self.blocks.get(index);
        let slot = self.slot(index, Level::Host).expect("a pending block owns a host slot");
        PartClaim { block: entry.block(), pending: number, part, slot, offset, length, records }
    }

    /// A part is complete, with this CRC32; `None`: its writer gave up. `combine` joins two CRC32s, given the length of
    /// the second piece. After `Visible` the block is not held: use the index before anything else changes the catalog,
    /// or begin a store or lease at once.
    pub fn finish_part(
        &mut self,
        _now: Moment,
        claim: &PartClaim,
        crc: Option<u32>,
        combine: impl Fn(u32, u32, u64) -> u32,
    ) -> PartOutcome {
        let pending = self.pending.get_mut(&claim.pending).expect("a claim is given back once");
        let (index, at) = (pending.index, usize::from(claim.part));
        assert!(pending.parts[at] == Part::Writing, "part {at} of {:?} is not being written", claim.block);
        pending.parts[at] = crc.map_or(Part::Free, |crc| Part::Done { crc });
        if self.blocks.get(index).state == State::Doomed {
            if pending.writer_count() == 0 {
                self.pending.remove(&claim.pending);
            }
            self.drop_hold(index);
            return PartOutcome::GivenUp;
        }
        if pending.parts.iter().all(|part| *part == Part::Free) {
            self.drop_hold(index);
            self.give_up(claim.pending);
            return PartOutcome::GivenUp;
        }
        let crc = whole_crc(pending, combine);
        self.drop_hold(index);
        match crc {
            Some(crc) => self.become_visible(claim.pending, crc),
            None => PartOutcome::Incomplete,
        }
    }

    fn become_visible(&mut self, number: u64, crc: u32) -> PartOutcome {
        let pending = self.pending.remove(&number).expect("the pending put was just found");
        self.due.remove(&(pending.deadline, Due::Pending(number)));
        let index = pending.index;
        let entry = self.blocks.get_mut(index);
        (entry.crc, entry.generation) = (crc, 0);
        self.blocks.set_state(index, State::Visible);
        self.appear(index, Level::Host);
        let record = self.stored_host(index).expect("a block that was put has its key");
        let admit = self.admit_put(index);
        PartOutcome::Visible { index: BlockIndex(index), record, crc, admit }
    }

    /// `StoredHost` of a block whose key is known.
    pub(super) fn stored_host(&self, index: u32) -> Option<Record> {
        let entry = self.blocks.get(index);
        Some(Record::StoredHost {
            block: entry.block(),
            space: entry.space,
            key: self.keys.get(&index)?.clone(),
            parent: self.parent_id(index),
            length: entry.length,
        })
    }

    /// Gives up a pending put; its slot is free once its last writer has let go.
    pub(super) fn give_up(&mut self, number: u64) {
        let pending = &self.pending[&number];
        self.due.remove(&(pending.deadline, Due::Pending(number)));
        let index = pending.index;
        if pending.writer_count() == 0 {
            self.pending.remove(&number);
        }
        self.mark_doomed(index, RemovalCause::Deleted);
    }
}

/// The CRC32 of all parts in order, once every part is there.
fn whole_crc(pending: &Pending, combine: impl Fn(u32, u32, u64) -> u32) -> Option<u32> {
    let mut whole = None;
    for (part, bytes) in pending.parts.iter().zip(&pending.part_bytes) {
        let Part::Done { crc } = *part else { return None };
        whole = Some(whole.map_or(crc, |whole| combine(whole, crc, u64::from(*bytes))));
    }
    whole
}
