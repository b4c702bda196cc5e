//! Room in a tier: a free slot, or one that eviction makes free.
//!
//! In this order: a free slot or extent; the coldest copy of the wanted class among the coldest few; an extent of another
//! class, emptied whole; the coldest copy of the class anywhere near. Emptying an extent is planned before anything is
//! evicted, so a refused call has changed nothing. Never more bytes than there are: slots come from extents only (INV-5).
//!
//! All of it stays in one domain: slots and eviction order of another are never looked at, and emptying an NVMe extent
//! never costs host copies of another domain than the one it is emptied for.
//!
//! Pressure in the host tier never costs an NVMe copy. A block whose only copy is in the host tier while a descendant is
//! on NVMe stays; it is wanted on NVMe, too, so that it can go soon.

use super::Catalog;
use super::copies::evictable;
use super::entry::{Level, NONE, State};
use super::numbers::NumberSet;
use super::shelf::Shelf;
use super::slots::Place;
use crate::policy::Verdict;
use crate::port::{Moment, Record};

/// Cold candidates of other classes to look past before an extent is emptied instead.
const SKIP_MAX: usize = 64;
/// The same when there is no extent to empty.
const SKIP_FAR_MAX: usize = 4096;
/// Extents without cold candidates that are considered too.
const EXTENTS_MAX: usize = 8;
/// The most copies one call evicts to empty an extent. An extent of 256 MiB in the smallest slots has 32,768.
const DRAIN_MAX: usize = 65_536;

/// The room that is wanted.
#[derive(Debug, Clone, Copy)]
struct Wish {
    level: Level,
    class: u32,
    /// Whose host copies may go for it.
    home: u8,
}

impl Wish {
    /// Number of the tier's domain in which it is wanted.
    fn domain(self) -> usize {
        match self.level {
            Level::Host => usize::from(self.home),
            Level::Nvme => 0,
        }
    }
}

/// A copy to evict: the block, and which tiers.
type Step = (u32, [bool; 2]);

impl Catalog {
    /// A slot of a class, owned by `owner`. Evicts if it must; `None`: nothing can go, and nothing was evicted.
    ///
    /// The owner's parent is kept, so that the new copy is reachable. Not when the owner is only staged up: its NVMe copy
    /// keeps its parent's, and in a tiny arena the parent's host copy, with all its ancestors', may be the only room.
    pub(super) fn make_room(
        &mut self,
        now: Moment,
        level: Level,
        class: u32,
        owner: u32,
        records: &mut Vec<Record>,
    ) -> Option<Place> {
        let parent = self.blocks.get(owner).parent;
        let staged_up = level == Level::Host && self.blocks.get(owner).has(Level::Nvme);
        let guarded = parent != NONE && !staged_up && self.blocks.get(parent).counts();
        if guarded {
            self.hold(parent);
        }
        let place = self.evict_for(now, level, class, owner, records);
        if guarded {
            self.drop_hold(parent);
        }
        place
    }

    fn evict_for(
        &mut self,
        now: Moment,
        level: Level,
        class: u32,
        owner: u32,
        records: &mut Vec<Record>,
    ) -> Option<Place> {
        if let Some(place) = self.domain_mut(owner, level).slots.allocate(class, owner) {
            return Some(place);
        }
        let wish = Wish { level, class, home: self.blocks.get(owner).domain };
        let mut cold = Vec::new();
        let mut victim = self.find_victim(wish, SKIP_MAX, &mut cold);
        if victim.is_none() {
            let mut stuck = Vec::new();
            let steps = self.plan_drain(wish, cold, &mut stuck);
            stuck.into_iter().for_each(|index| self.want(index));
            match steps {
                Some(steps) => self.drain(now, &steps, records),
                None => victim = Some(self.find_victim(wish, SKIP_FAR_MAX, &mut Vec::new())?),
            }
        }
        if let Some(victim) = victim {
            self.evict(now, victim, level, records);
        }
        let place = self.domain_mut(owner, level).slots.allocate(class, owner);
        Some(place.expect("the eviction made a slot of this class free"))
    }

    /// The coldest evictable copy of a class. Extents of colder copies of other classes are noted in `cold`.
    fn find_victim(&mut self, wish: Wish, skip_max: usize, cold: &mut Vec<u32>) -> Option<u32> {
        let Wish { level, class, .. } = wish;
        let Self { blocks, shelves, .. } = self;
        let Shelf { domains, policy, .. } = &mut shelves[level as usize];
        let slots = &domains[wish.domain()].slots;
        policy.victim(wish.domain(), skip_max, &mut |index| {
            if !evictable(blocks, index, level) {
                return Verdict::Park;
            }
            let place = blocks.get(index).place(level).expect("a copy in the order has a slot");
            let extent = slots.extent_of(place);
            if slots.extent(extent).class() == class {
                return Verdict::Take;
            }
            if !cold.contains(&extent) {
                cold.push(extent);
            }
            Verdict::Skip
        })
    }

    /// How to empty an extent for another class: the one with the fewest blocks among those with cold copies, else one
    /// of the emptiest. `None`: in each of them something is held, or it is all too much.
    fn plan_drain(&self, wish: Wish, mut cold: Vec<u32>, stuck: &mut Vec<u32>) -> Option<Vec<Step>> {
        let class = wish.class;
        let slots = &self.shelf(wish.level).domains[wish.domain()].slots;
        let blocks_in = |extent: &u32| (slots.extent(*extent).live_count(), *extent);
        let serves = |extent: &u32| {
            let own = slots.extent(*extent).class();
            own != 0 && own != class && slots.could_serve(*extent, class)
        };
        cold.retain(serves);
        cold.sort_by_key(blocks_in);
        let mut others: Vec<u32> =
            (0..slots.extent_count()).filter(|extent| serves(extent) && !cold.contains(extent)).collect();
        if others.len() > EXTENTS_MAX {
            others.select_nth_unstable_by_key(EXTENTS_MAX, blocks_in);
            others.truncate(EXTENTS_MAX);
        }
        others.sort_by_key(blocks_in);
        cold.iter().chain(&others).find_map(|extent| self.plan_extent(wish, *extent, stuck))
    }

    /// The evictions that empty an extent, descendants before ancestors. `None`: something in it has to stay; what stays
    /// only because it is not on NVMe yet is added to `stuck`.
    fn plan_extent(&self, wish: Wish, extent: u32, stuck: &mut Vec<u32>) -> Option<Vec<Step>> {
        let level = wish.level;
        let mut only = [false; 2];
        only[level as usize] = true;
        let mut steps = Vec::new();
        let mut planned = NumberSet::default();
        for index in self.shelf(level).domains[wish.domain()].slots.extent(extent).blocks() {
            // The second visit of a stack entry, after its descendants, is the one that counts.
            let mut stack = vec![(index, only, false)];
            while let Some((index, tiers, ready)) = stack.pop() {
                if ready {
                    steps.push((index, tiers));
                    continue;
                }
                if !planned.insert((index, tiers)) {
                    continue;
                }
                let strange = self.blocks.get(index).domain != wish.home;
                if strange && tiers[Level::Host as usize] && self.owns_any(index, [true, false]) {
                    return None;
                }
                let below = self.evict_below(index, tiers)?;
                if level == Level::Host && tiers[Level::Nvme as usize] && self.owns_any(index, [false, true]) {
                    stuck.extend(self.volatile_above(index));
                    return None;
                }
                stack.push((index, tiers, true));
                let children = self.blocks.children(index);
                stack.extend(children.filter(|child| self.owns_any(*child, below)).map(|child| (child, below, false)));
                if steps.len() + stack.len() > DRAIN_MAX {
                    return None;
                }
            }
        }
        Some(steps)
    }

    /// In which tiers the children must go before this block can leave `tiers`. `None`: it cannot.
    fn evict_below(&self, index: u32, tiers: [bool; 2]) -> Option<[bool; 2]> {
        let entry = self.blocks.get(index);
        if entry.state != State::Visible || entry.holds > 0 {
            return None;
        }
        let stays = Level::ALL.into_iter().any(|level| entry.has(level) && !tiers[level as usize]);
        let below = if stays { tiers } else { [true; 2] };
        // While the index fills, no NVMe copy goes.
        let kept = self.recovery.is_some() && below[Level::Nvme as usize] && self.owns_any(index, [false, true]);
        (!kept).then_some(below)
    }

    fn owns_any(&self, index: u32, tiers: [bool; 2]) -> bool {
        let entry = self.blocks.get(index);
        entry.counts() && Level::ALL.into_iter().any(|level| tiers[level as usize] && entry.place(level).is_some())
    }

    fn drain(&mut self, now: Moment, steps: &[Step], records: &mut Vec<Record>) {
        for (index, tiers) in steps {
            for level in Level::ALL {
                // A block may have been planned twice: for its own tier, and again below its parent for both.
                if tiers[level as usize] && self.blocks.known(*index) && self.blocks.get(*index).has(level) {
                    self.evict(now, *index, level, records);
                }
            }
        }
    }
}
