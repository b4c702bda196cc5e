//! What must always be true, checked from scratch. For tests and the simulator: it looks at everything.

use std::collections::BTreeMap;

use super::Catalog;
use super::entry::{DETACHED, Level, NONE, QUEUED, State};
use super::expire::Due;
use crate::place::slot_bytes;

type Check = Result<(), String>;

impl Catalog {
    /// Recounts everything and compares (INV-2, INV-4, accounting, links, eviction orders). The error says what
    /// disagrees.
    pub fn check(&self) -> Check {
        for index in 0..self.blocks.end() {
            self.check_state(index)?;
            self.check_kin(index)?;
        }
        self.check_roots()?;
        self.check_table()?;
        self.check_holds()?;
        self.check_due()?;
        for level in Level::ALL {
            self.check_shelf(level)?;
        }
        self.check_spaces()
    }

    fn check_state(&self, index: u32) -> Check {
        let entry = self.blocks.get(index);
        let has = Level::ALL.map(|level| entry.has(level));
        let owns = Level::ALL.map(|level| entry.place(level).is_some());
        let flights = Level::ALL.map(|level| entry.in_flight(level));
        let wrong = match entry.state {
            State::Free => owns != [false; 2] || entry.holds != 0,
            State::Shadow => {
                owns != [false; 2] || entry.holds != 0 || self.blocks.kin(index).first_child == NONE || entry.flags != 0
            }
            State::Pending => owns != [true, false] || flights != [false; 2] || !self.keys.contains_key(&index),
            State::Visible => has == [false; 2] || (flights[0] && !has[1]) || (flights[1] && !has[0]),
            State::Doomed => entry.holds == 0 || self.keys.contains_key(&index),
        };
        if wrong || (flights != [false; 2] && entry.holds == 0) || (entry.flags & QUEUED != 0 && !has[0]) {
            return Err(format!("entry {index} contradicts itself: {entry:?}"));
        }
        if self.keys.contains_key(&index) && !owns[0] {
            return Err(format!("entry {index} keeps a key without a host slot"));
        }
        for level in Level::ALL {
            let Some(place) = entry.place(level) else { continue };
            let slots = self.slots(index, level);
            if slots.extent(slots.extent_of(place)).owner(place.page) != index {
                return Err(format!("entry {index} does not own its slot at {place:?} (INV-2)"));
            }
            if slots.slot(place).payload_bytes_max() < entry.length {
                return Err(format!("entry {index} of {} bytes does not fit its slot", entry.length));
            }
        }
        Ok(())
    }

    fn check_kin(&self, index: u32) -> Check {
        let mut counts = [0; 2];
        let mut before = NONE;
        for child in self.blocks.children(index) {
            let entry = self.blocks.get(child);
            if entry.domain != self.blocks.get(index).domain {
                return Err(format!("entry {child} and its parent {index} are of different domains"));
            }
            if entry.parent != index || entry.state == State::Free || self.blocks.kin(child).prev != before {
                return Err(format!("child {child} of entry {index} is linked wrongly"));
            }
            before = child;
            for level in Level::ALL {
                counts[level as usize] += u32::from(entry.counts() && entry.place(level).is_some());
            }
        }
        if counts != self.blocks.kin(index).children {
            return Err(format!("entry {index} counts children {:?}, has {counts:?}", self.blocks.kin(index).children));
        }
        Ok(())
    }

    /// Every chain of parents ends, and every child is in its parent's list.
    fn check_roots(&self) -> Check {
        let end = self.blocks.end() as usize;
        let mut ends = vec![false; end];
        let mut path = Vec::new();
        for index in 0..self.blocks.end() {
            let mut at = index;
            while at != NONE && !ends[at as usize] && self.blocks.get(at).state != State::Free {
                path.push(at);
                at = self.blocks.get(at).parent;
                if path.len() > end {
                    return Err(format!("entry {index} is its own ancestor"));
                }
            }
            path.drain(..).for_each(|at| ends[at as usize] = true);
        }
        let in_use = |index: &u32| self.blocks.get(*index).state != State::Free;
        let linked: usize = (0..self.blocks.end()).map(|index| self.blocks.children(index).count()).sum();
        let named = (0..self.blocks.end()).filter(in_use).filter(|at| self.blocks.get(*at).parent != NONE).count();
        if linked == named { Ok(()) } else { Err(format!("{named} entries name a parent, {linked} are children")) }
    }

    fn check_table(&self) -> Check {
        let mut named = 0;
        for index in 0..self.blocks.end() {
            let entry = self.blocks.get(index);
            if entry.state != State::Free && entry.flags & DETACHED == 0 {
                named += 1;
                if self.blocks.find(entry.block()) != Some(index) {
                    return Err(format!("entry {index} is not found by its id"));
                }
            }
        }
        if named == self.blocks.table_len() { Ok(()) } else { Err("the table holds an id that is gone".into()) }
    }

    /// A block is held at least as often as is known here; readers and scrubs are the caller's.
    fn check_holds(&self) -> Check {
        let mut known: BTreeMap<u32, u32> = BTreeMap::new();
        let pinned = self.pins.values().flat_map(|pin| pin.blocks.iter().copied());
        for block in self.leases.blocks().chain(pinned) {
            *known.entry(block.0).or_default() += 1;
        }
        for pending in self.pending.values() {
            *known.entry(pending.index).or_default() += pending.writer_count();
        }
        let mut held = 0;
        for index in 0..self.blocks.end() {
            let entry = self.blocks.get(index);
            let flights = Level::ALL.into_iter().filter(|level| entry.in_flight(*level)).count() as u32;
            let least = known.get(&index).copied().unwrap_or(0) + flights;
            held += u64::from(entry.holds > 0);
            if entry.holds < least {
                return Err(format!("entry {index} is held {} times, {least} holders are known (INV-4)", entry.holds));
            }
        }
        if held == self.held_blocks {
            Ok(())
        } else {
            Err(format!("{held} entries are held, not {}", self.held_blocks))
        }
    }

    fn check_due(&self) -> Check {
        let waits = self.pending.iter().filter(|(_, put)| self.blocks.get(put.index).state == State::Pending);
        let expected = self.leases.count() as usize + self.pins.len() + waits.count();
        let known = self.due.iter().all(|(_, due)| match due {
            Due::Lease(_) => true,
            Due::Pin(space, name) => self.pins.contains_key(&(*space, name.clone())),
            Due::Pending(number) => self.pending.contains_key(number),
        });
        if known && expected == self.due.len() { Ok(()) } else { Err("a deadline is missing or left over".into()) }
    }

    fn check_shelf(&self, level: Level) -> Check {
        let shelf = self.shelf(level);
        for index in 0..self.blocks.end() {
            let entry = self.blocks.get(index);
            if shelf.policy.contains(index) != entry.has(level) {
                return Err(format!("entry {index} and the eviction order of {level:?} disagree"));
            }
            if self.evictable(index, level) && shelf.policy.is_parked(index) {
                return Err(format!("entry {index} may be evicted from {level:?}, but was set aside"));
            }
        }
        (0..shelf.domains.len()).try_for_each(|number| self.check_domain(level, number))?;
        let blocks: u64 = shelf.domains.iter().map(|domain| domain.blocks).sum();
        if blocks == shelf.blocks { Ok(()) } else { Err(format!("{level:?} counts {} blocks", shelf.blocks)) }
    }

    /// A domain's slots, order and counts are those of its own blocks, and of nobody else's.
    fn check_domain(&self, level: Level, number: usize) -> Check {
        let domain = &self.shelf(level).domains[number];
        domain.slots.check()?;
        let (mut blocks, mut bytes, mut owned, mut storing) = (0, 0, 0, 0);
        let own = |index: &u32| self.blocks.get(*index).domain(level) == number;
        for index in (0..self.blocks.end()).filter(own) {
            let entry = self.blocks.get(index);
            owned += u64::from(entry.place(level).is_some());
            if level == Level::Host && entry.in_flight(Level::Nvme) {
                storing += u64::from(slot_bytes(entry.length));
            }
            if entry.has(level) {
                blocks += 1;
                bytes += u64::from(entry.length);
            }
        }
        if storing != domain.storing_bytes {
            return Err(format!(
                "{level:?} {number} counts {} bytes being stored, has {storing}",
                domain.storing_bytes
            ));
        }
        let live: u64 =
            (0..domain.slots.extent_count()).map(|extent| u64::from(domain.slots.extent(extent).live_count())).sum();
        if live != owned {
            return Err(format!("{live} slots of {level:?} {number} are owned, {owned} blocks own one (INV-2)"));
        }
        let ordered = self.shelf(level).policy.members(number);
        if !ordered.iter().all(own) {
            return Err(format!("a block of another domain is in the eviction order of {level:?} {number}"));
        }
        if (blocks, bytes, blocks) != (domain.blocks, domain.payload_bytes, ordered.len() as u64) {
            return Err(format!("{level:?} {number} counts {} blocks, has {blocks}", domain.blocks));
        }
        Ok(())
    }

    fn check_spaces(&self) -> Check {
        let mut sums: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
        for index in 0..self.blocks.end() {
            let entry = self.blocks.get(index);
            if entry.state == State::Visible {
                let sum = sums.entry(entry.space).or_default();
                sum.0 += 1;
                sum.1 += u64::from(entry.length);
            }
        }
        for ((space, _), pin) in &self.pins {
            sums.entry(*space).or_default().2 += pin.payload_bytes;
        }
        let counted = self.spaces.iter().map(|(space, sum)| (*space, (sum.blocks, sum.bytes, sum.pinned_bytes)));
        let counted: BTreeMap<_, _> = counted.collect();
        // A pin of no bytes leaves no trace in the sums.
        sums.retain(|_, sum| *sum != (0, 0, 0));
        let counted: BTreeMap<_, _> = counted.into_iter().filter(|(_, sum)| *sum != (0, 0, 0)).collect();
        if sums == counted { Ok(()) } else { Err(format!("spaces count {counted:?}, have {sums:?}")) }
    }
}
