//! Writing a block back to NVMe, one flight per block.

use kvtier_identity::BlockId;

use super::Catalog;
use super::entry::{FLIGHT, Level, NONE, QUEUED, State, WISHED};
use super::plan::{BlockIndex, Decline, StorePlan};
use crate::place::slot_bytes;
use crate::port::{IndexEntry, Moment};

const STORING: u8 = FLIGHT[Level::Nvme as usize];

impl Catalog {
    /// What must happen for a block to be durable. The index need not be held: the id tells whether it is still valid.
    pub fn begin_store(&mut self, now: Moment, index: BlockIndex, block: BlockId) -> StorePlan {
        let index = index.0;
        if !self.blocks.known(index) {
            return StorePlan::Gone;
        }
        let entry = *self.blocks.get(index);
        if entry.block() != block || entry.state != State::Visible {
            return StorePlan::Gone;
        }
        if entry.in_flight(Level::Nvme) {
            return StorePlan::InFlight;
        }
        if entry.has(Level::Nvme) {
            return StorePlan::Durable;
        }
        self.blocks.get_mut(index).flags &= !(QUEUED | WISHED);
        match self.store_declined(index, entry.length) {
            Some(why) => StorePlan::Declined(why),
            None => self.open_store(now, index),
        }
    }

    /// The block's visible ancestors without a durable copy, first of the chain first: a durable block is reachable after
    /// a restart only if they are durable, too. Stops at the first durable one, whose own ancestors are.
    pub fn volatile_ancestors(&self, block: BlockId) -> Vec<BlockId> {
        let above = self.blocks.find_visible(block).map(|index| self.volatile_above(index));
        above.unwrap_or_default().into_iter().map(|index| self.blocks.get(index).block()).collect()
    }

    /// The same, by index.
    pub(super) fn volatile_above(&self, index: u32) -> Vec<u32> {
        let volatile = |index: &u32| {
            let entry = self.blocks.get(*index);
            entry.state == State::Visible && !entry.has(Level::Nvme)
        };
        let parent = |index: u32| Some(self.blocks.get(index).parent).filter(|parent| *parent != NONE);
        let mut above: Vec<u32> =
            std::iter::successors(parent(index).filter(volatile), |at| parent(*at).filter(volatile)).collect();
        above.reverse();
        above
    }

    /// Whether the block is on NVMe, or on its way there.
    pub fn owns_nvme_slot(&self, block: BlockId) -> bool {
        self.blocks.find_visible(block).is_some_and(|index| self.blocks.get(index).place(Level::Nvme).is_some())
    }

    /// Whether a child of the block is durable, or on its way there: it was put while this block was still incomplete, and
    /// is reachable after a restart only if this block is durable, too.
    pub fn has_durable_child(&self, index: BlockIndex) -> bool {
        let durable = |child: u32| self.blocks.get(child).place(Level::Nvme).is_some();
        self.blocks.children(index.0).any(durable)
    }

    fn store_declined(&self, index: u32, length: u32) -> Option<Decline> {
        if !self.has_nvme() {
            Some(Decline::NvmeUnavailable)
        } else if self.recovery.is_some() {
            Some(Decline::Recovering)
        } else if self.slots(index, Level::Nvme).class(length).is_none() {
            Some(Decline::TooLarge)
        } else if !self.keys.contains_key(&index) {
            // Brought up without its key, then evicted from NVMe: nothing to write into header and index.
            Some(Decline::NotAdmitted)
        } else {
            None
        }
    }

    fn open_store(&mut self, now: Moment, index: u32) -> StorePlan {
        let entry = *self.blocks.get(index);
        let class = self.slots(index, Level::Nvme).class(entry.length).expect("the class was just looked up");
        let mut records = Vec::new();
        self.hold(index);
        let Some(place) = self.make_room(now, Level::Nvme, class, index, &mut records) else {
            self.drop_hold(index);
            return StorePlan::Declined(Decline::NvmeFull);
        };
        let generation = self.generation_next;
        self.generation_next += 1;
        let stored = self.blocks.get_mut(index);
        stored.flags |= STORING;
        stored.generation = generation;
        self.blocks.occupy(index, Level::Nvme, place);
        self.domain_mut(index, Level::Host).storing_bytes += u64::from(slot_bytes(entry.length));
        self.want_children(index);
        let from = self.slot(index, Level::Host).expect("a block that is not on NVMe has a host copy");
        let to = self.slots(index, Level::Nvme).slot(place);
        StorePlan::Store {
            index: BlockIndex(index),
            from,
            to,
            block: entry.block(),
            entry: IndexEntry {
                space: entry.space,
                key: self.keys[&index].clone(),
                parent: self.parent_id(index),
                length: entry.length,
                crc: entry.crc,
                generation,
                slot: to,
            },
            records,
        }
    }

    /// The flight of a store has ended, with the block durable and `StoredNvme` journaled, or not. Gives the flight's
    /// hold back. If the block was removed meanwhile, its durable copy was taken back then.
    pub fn finish_store(&mut self, _now: Moment, index: BlockIndex, stored: bool) {
        let index = index.0;
        let entry = self.blocks.get_mut(index);
        assert!(entry.in_flight(Level::Nvme), "block entry {index} is not being stored");
        entry.flags &= !STORING;
        let entry = *entry;
        self.domain_mut(index, Level::Host).storing_bytes -= u64::from(slot_bytes(entry.length));
        let doomed = entry.state == State::Doomed;
        if stored && !doomed {
            self.appear(index, Level::Nvme);
        } else if !doomed {
            self.free_slot(index, Level::Nvme);
            self.settle(entry.parent);
        }
        self.drop_hold(index);
    }
}
