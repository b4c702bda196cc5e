//! Bringing a block up from NVMe to host memory, one flight per block.

use kvtier_identity::{BlockId, Key};

use super::Catalog;
use super::entry::{FLIGHT, Level, State};
use super::plan::{BlockIndex, LoadDone, LoadPlan, Miss, MissReason};
use crate::port::tier::Expect;
use crate::port::{LoadOutcome, Moment, Record, RemovalCause};

const LOADING: u8 = FLIGHT[Level::Host as usize];

impl Catalog {
    /// What must happen for a block to be readable in host memory. The caller holds or leases `index`.
    pub fn begin_load(&mut self, now: Moment, index: BlockIndex) -> LoadPlan {
        let index = index.0;
        let entry = *self.blocks.get(index);
        if entry.state != State::Visible {
            return LoadPlan::Miss(self.miss(now, entry.block()));
        }
        if entry.in_flight(Level::Host) {
            return LoadPlan::InFlight;
        }
        self.hold(index);
        if let Some(copy) = self.host_copy(index) {
            return LoadPlan::Resident(copy);
        }
        let mut records = Vec::new();
        let class = self.slots(index, Level::Host).class(entry.length);
        let place = class.and_then(|class| self.make_room(now, Level::Host, class, index, &mut records));
        let Some(place) = place else {
            self.drop_hold(index);
            return LoadPlan::Miss(Miss { reason: MissReason::Throttled, age: None, tier: Some(Level::Nvme.tier()) });
        };
        self.blocks.get_mut(index).flags |= LOADING;
        self.blocks.occupy(index, Level::Host, place);
        let from = self.slot(index, Level::Nvme).expect("a visible block without a host copy is on NVMe");
        LoadPlan::Load {
            index: BlockIndex(index),
            from,
            into: self.slots(index, Level::Host).slot(place),
            expect: expect(&entry),
            records,
        }
    }

    /// The same for a block that nobody holds, by its id.
    pub fn begin_load_block(&mut self, now: Moment, block: BlockId) -> LoadPlan {
        match self.blocks.find_visible(block) {
            Some(index) => self.begin_load(now, BlockIndex(index)),
            None => LoadPlan::Miss(self.miss(now, block)),
        }
    }

    /// The flight of a load has ended. `key` is what the loaded header says; without it the copy is readable, but
    /// neither announced nor ever written back. A copy in the answer takes the flight's hold over.
    pub fn finish_load(&mut self, now: Moment, index: BlockIndex, outcome: &LoadOutcome, key: Option<Key>) -> LoadDone {
        let index = index.0;
        let entry = self.blocks.get_mut(index);
        assert!(entry.in_flight(Level::Host), "block entry {index} is not being loaded");
        entry.flags &= !LOADING;
        let doomed = entry.state == State::Doomed;
        let mut records = Vec::new();
        if !doomed && *outcome == LoadOutcome::Verified {
            if let Some(key) = key {
                self.keep_key(index, key);
            }
            self.appear(index, Level::Host);
            return LoadDone { copy: self.host_copy(index), records: self.stored_host(index).into_iter().collect() };
        }
        // Nobody reads a copy that was never readable.
        self.free_slot(index, Level::Host);
        let parent = self.blocks.get(index).parent;
        self.settle(parent);
        if matches!(outcome, LoadOutcome::Corrupt(_)) {
            self.condemn(now, index, &mut records);
        }
        self.drop_hold(index);
        LoadDone { copy: None, records }
    }

    /// The flight of a load has ended, and something may still write to its slot at any time: the slot is never used again.
    pub fn abandon_load(&mut self, index: BlockIndex) {
        let index = index.0;
        let entry = self.blocks.get_mut(index);
        assert!(entry.in_flight(Level::Host), "block entry {index} is not being loaded");
        entry.flags &= !LOADING;
        self.quarantine_host(index);
        let parent = self.blocks.get(index).parent;
        self.settle(parent);
        self.drop_hold(index);
    }

    /// The NVMe copy is not what was stored: its slot is never used again, and the block is gone unless it has a good
    /// host copy (INV-1).
    pub(super) fn condemn(&mut self, now: Moment, index: u32, records: &mut Vec<Record>) {
        let entry = *self.blocks.get(index);
        // A load and the scrubber may both have found it.
        let Some(place) = entry.place(Level::Nvme).filter(|_| !entry.in_flight(Level::Nvme)) else { return };
        let slot = self.slots(index, Level::Nvme).slot(place);
        records.push(Record::Quarantined { slot });
        self.domain_mut(index, Level::Nvme).corrupt += 1;
        let healthy = entry.has(Level::Host);
        if healthy {
            self.uncount(index, Level::Nvme, false);
            records.push(super::copies::removed(entry.block(), entry.space, Level::Nvme, RemovalCause::Corrupt));
            if let Some(recovery) = &mut self.recovery {
                recovery.note_removed(entry.mark());
            }
        } else if entry.state == State::Visible {
            // Held by whoever found the damage, so the entry outlives its removal.
            assert!(entry.holds > 0, "damage is reported by a holder");
            self.doom(now, index, RemovalCause::Corrupt, records);
        }
        self.blocks.vacate(index, Level::Nvme);
        self.domain_mut(index, Level::Nvme).slots.quarantine(place, index);
        if healthy {
            self.settle(entry.parent);
            self.want(index);
        }
    }
}

pub(super) fn expect(entry: &super::entry::Entry) -> Expect {
    Expect { block: entry.block(), length: entry.length, crc: entry.crc, generation: entry.generation }
}
