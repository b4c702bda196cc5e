//! After a restart: NVMe copies come back from the index.
//!
//! The index is read in id order, so children come before and after their parents; a parent not yet seen is a shadow that
//! turns visible later. Puts, loads and deletes go on meanwhile; only NVMe slots are neither handed out nor evicted.

use std::collections::BinaryHeap;

use kvtier_identity::BlockId;

use super::Catalog;
use super::entry::{Level, NONE, QUEUED, State, WISHED};
use super::numbers::NumberSet;
use super::plan::{BlockIndex, Fill};
use crate::place::Slot;
use crate::port::IndexEntry;

/// Blocks sorted at a time.
const RUN_MAX: usize = 65_536;

/// What is remembered while the index is being filled.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Ids removed meanwhile, which the index may still name.
    removed: NumberSet<u64>,
    /// The eviction order in the making, once everything is filled.
    order: Option<Order>,
}

impl Recovery {
    pub(super) fn note_removed(&mut self, mark: u64) {
        self.removed.insert(mark);
    }
}

#[derive(Debug, Default)]
struct Order {
    /// First entry not gathered yet.
    next: u32,
    /// Blocks by generation, oldest first.
    runs: Vec<Vec<u32>>,
    /// Generation of the newest block of each run that is not empty.
    heads: BinaryHeap<(u64, usize)>,
}

impl Catalog {
    /// Recovery begins: marks what was quarantined. To be called before anything is on NVMe.
    pub fn begin_fill(&mut self, quarantined: &[Slot]) {
        assert!(self.shelf(Level::Nvme).blocks == 0, "recovery begins with an empty catalog");
        for slot in quarantined {
            self.shelf_mut(Level::Nvme).domains[0].slots.mark_bad(*slot);
        }
        self.recovery = Some(Recovery::default());
    }

    /// Takes one entry of the index over, of a space in this domain. Any order; the same entry twice does no harm. After a conflict nothing owns
    /// the entry's slot: the caller journals the removal, so that the index forgets it too.
    pub fn fill(&mut self, block: BlockId, entry: &IndexEntry, domain: u8) -> Fill {
        let recovery = self.recovery.as_ref().expect("recovery has begun");
        assert!(recovery.order.is_none(), "the index was filled already");
        if recovery.removed.contains(&(block.0 as u64)) {
            return Fill::Conflict("the block was removed since recovery began");
        }
        let mut found = self.blocks.find(block);
        if found.is_some_and(|index| self.blocks.get(index).domain != domain) {
            return Fill::Conflict("the block is of another domain");
        }
        if let Some(index) = found {
            let known = self.blocks.get(index);
            match known.state {
                State::Visible if known.place(Level::Nvme).is_some() => return Fill::Known,
                State::Visible if (known.length, known.crc) != (entry.length, entry.crc) => {
                    return Fill::Conflict("other bytes were put under this key meanwhile");
                }
                State::Visible => {}
                // The durable copy is complete; whoever is putting it again learns that it is a duplicate.
                State::Pending => self.give_up(known.generation),
                State::Free | State::Shadow | State::Doomed => {}
            }
            found = self.blocks.find(block);
        }
        let index = self.entry_for(found, block, domain);
        let filled = if self.blocks.get(index).state == State::Visible {
            self.claim_filled(index, entry)
        } else {
            self.adopt(index, entry).and_then(|()| self.claim_filled(index, entry))
        };
        if let Err(problem) = filled {
            self.blocks.prune(index);
            return Fill::Conflict(problem);
        }
        if self.blocks.get(index).state != State::Visible {
            self.blocks.set_state(index, State::Visible);
        }
        self.appear_filled(index);
        Fill::Added(BlockIndex(index))
    }

    /// Links a shadow to its parent, which may be unknown yet: then it is known to be of the same domain.
    fn adopt(&mut self, index: u32, entry: &IndexEntry) -> Result<(), &'static str> {
        let domain = self.blocks.get(index).domain;
        let parent = match entry.parent {
            None => NONE,
            Some(parent) => self.blocks.find(parent).unwrap_or_else(|| self.blocks.insert(parent, domain)),
        };
        if parent != NONE && self.blocks.get(parent).domain != domain {
            return Err("the block's parent is of another domain");
        }
        let linked = self.blocks.set_parent(index, parent);
        if linked.is_err() {
            self.blocks.prune(parent);
            return linked;
        }
        let filled = self.blocks.get_mut(index);
        (filled.space, filled.length, filled.crc) = (entry.space, entry.length, entry.crc);
        Ok(())
    }

    fn claim_filled(&mut self, index: u32, entry: &IndexEntry) -> Result<(), &'static str> {
        let place = self.domain_mut(index, Level::Nvme).slots.claim(entry.slot, entry.length, index)?;
        self.blocks.occupy(index, Level::Nvme, place);
        let filled = self.blocks.get_mut(index);
        filled.generation = entry.generation;
        filled.flags &= !(QUEUED | WISHED);
        Ok(())
    }

    /// Like `appear`, without a touch: what was stored before the restart is no news.
    fn appear_filled(&mut self, index: u32) {
        let entry = *self.blocks.get(index);
        let parent = entry.parent;
        let above = (parent != NONE && self.blocks.get(parent).has(Level::Nvme)).then_some(parent);
        self.count_copy(index, Level::Nvme, above);
        if entry.has(Level::Host) {
            self.settle(index);
        } else {
            let sum = self.spaces.entry(entry.space).or_default();
            sum.blocks += 1;
            sum.bytes += u64::from(entry.length);
        }
    }

    /// Completes recovery in one go; [`Catalog::finish_fill_step`] does the same without holding the core for long.
    pub fn finish_fill(&mut self) {
        while !self.finish_fill_step(usize::MAX) {}
    }

    /// One step towards the end of recovery, looking at up to `count_max` blocks: orders the NVMe copies for eviction,
    /// newest store hottest, ancestors hotter than descendants, what was touched since the start hottest of all. True:
    /// recovery is complete, and NVMe slots may be handed out and evicted. No `fill` after the first step.
    pub fn finish_fill_step(&mut self, count_max: usize) -> bool {
        let recovery = self.recovery.as_mut().expect("recovery has begun");
        let mut order = std::mem::take(recovery.order.get_or_insert_default());
        let complete = if order.next < self.blocks.end() {
            self.gather(&mut order, count_max);
            false
        } else {
            self.sink_oldest(&mut order, count_max)
        };
        if complete {
            self.recovery = None;
            self.tick.now = self.tick.now.wrapping_add(1);
        } else if let Some(recovery) = &mut self.recovery {
            recovery.order = Some(order);
        }
        complete
    }

    /// Sorts the next run of entries by generation.
    fn gather(&self, order: &mut Order, count_max: usize) {
        let count = u32::try_from(count_max.min(RUN_MAX)).expect("a run is far below 2^32").max(1);
        let end = self.blocks.end().min(order.next.saturating_add(count));
        let untouched = |index: &u32| self.blocks.get(*index).has(Level::Nvme) && self.blocks.get(*index).stamp == 0;
        let mut run: Vec<u32> = (order.next..end).filter(untouched).collect();
        run.sort_unstable_by_key(|index| self.blocks.get(*index).generation);
        order.next = end;
        if let Some(newest) = run.last() {
            order.heads.push((self.blocks.get(*newest).generation, order.runs.len()));
            order.runs.push(run);
        }
    }

    /// Merges the runs: each block, newest first, goes to the cold end, after those of its ancestors that did not.
    fn sink_oldest(&mut self, order: &mut Order, count_max: usize) -> bool {
        let mut path = Vec::new();
        for _ in 0..count_max {
            let Some((_, run)) = order.heads.pop() else { return true };
            let index = order.runs[run].pop().expect("a run in the heap is not empty");
            if let Some(next) = order.runs[run].last() {
                order.heads.push((self.blocks.get(*next).generation, run));
            } else {
                order.runs[run] = Vec::new();
            }
            let mut at = index;
            while at != NONE && self.blocks.get(at).stamp == 0 {
                path.push(at);
                at = self.blocks.get(at).parent;
            }
            while let Some(at) = path.pop() {
                // Any stamp but 0 will do: one tick ago, so that the next touch counts.
                self.blocks.get_mut(at).stamp = self.tick.now.wrapping_sub(1).max(1);
                if self.blocks.get(at).has(Level::Nvme) {
                    self.shelf_mut(Level::Nvme).policy.sink(0, at);
                }
            }
        }
        order.heads.is_empty()
    }
}
