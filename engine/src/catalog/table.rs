//! From block id to entry index: a hash table made for looking up whole chains.
//!
//! Linear probing over 8-byte slots, `fingerprint << 32 | index`. A probe costs one cache line and depends on nothing but
//! the id, so a chain's probes are issued one after the other and their misses overlap; whether the entry really has the
//! id is the caller's second pass. The fingerprint alone says where a slot's home is, so growing and deleting never look
//! at an entry. 256 shards by the id's high bits: growing one moves 1/256 of the slots, so nobody waits for a rehash.

const SHARDS: usize = 256;
const EMPTY: u64 = u64::MAX;
/// Slots of a shard at first.
const SLOTS_MIN: usize = 16;

/// No candidate.
pub(super) const ABSENT: u32 = u32::MAX;

#[derive(Debug)]
struct Shard {
    slots: Box<[u64]>,
    count: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Shard]>,
}

impl Table {
    pub(super) fn new() -> Self {
        let shard = || Shard { slots: vec![EMPTY; SLOTS_MIN].into(), count: 0 };
        Self { shards: std::iter::repeat_with(shard).take(SHARDS).collect() }
    }

    /// The first index whose fingerprint agrees, or [`ABSENT`]. Almost always the right one; see [`Table::find`].
    #[inline]
    pub(super) fn candidate(&self, id: [u64; 2]) -> u32 {
        let shard = &self.shards[shard_of(id)];
        let print = fingerprint(id);
        let mut at = home(print, shard.slots.len());
        loop {
            let slot = shard.slots[at];
            if (slot >> 32) as u32 == print || slot == EMPTY {
                // The low half of an empty slot is `ABSENT`.
                return slot as u32;
            }
            at = next(at, shard.slots.len());
        }
    }

    /// The index that `is` accepts among those whose fingerprint agrees.
    pub(super) fn find(&self, id: [u64; 2], is: impl Fn(u32) -> bool) -> Option<u32> {
        let shard = &self.shards[shard_of(id)];
        shard.position(fingerprint(id), is).map(|at| shard.slots[at] as u32)
    }

    /// Adds an id that is not there.
    pub(super) fn insert(&mut self, id: [u64; 2], index: u32) {
        let shard = &mut self.shards[shard_of(id)];
        if (shard.count as usize + 1) * 4 > shard.slots.len() * 3 {
            shard.grow();
        }
        shard.put(u64::from(fingerprint(id)) << 32 | u64::from(index));
        shard.count += 1;
    }

    /// Lets an id lead to another index.
    pub(super) fn replace(&mut self, id: [u64; 2], old: u32, new: u32) {
        let shard = &mut self.shards[shard_of(id)];
        let at = shard.position(fingerprint(id), |index| index == old).expect("the id is in the table");
        shard.slots[at] = shard.slots[at] >> 32 << 32 | u64::from(new);
    }

    /// Removes an id that is there.
    pub(super) fn remove(&mut self, id: [u64; 2], index: u32) {
        let shard = &mut self.shards[shard_of(id)];
        let mut hole = shard.position(fingerprint(id), |at| at == index).expect("the id is in the table");
        let count = shard.slots.len();
        let mut at = hole;
        // Pull back what would be cut off from its home by the hole.
        loop {
            at = next(at, count);
            let slot = shard.slots[at];
            if slot == EMPTY {
                break;
            }
            let home = home((slot >> 32) as u32, count);
            let stays = if hole < at { hole < home && home <= at } else { hole < home || home <= at };
            if !stays {
                shard.slots[hole] = slot;
                hole = at;
            }
        }
        shard.slots[hole] = EMPTY;
        shard.count -= 1;
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.count as usize).sum()
    }

    /// Bytes of RAM.
    pub(super) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| (size_of::<Shard>() + size_of_val(&*shard.slots)) as u64).sum()
    }
}

impl Shard {
    fn position(&self, print: u32, is: impl Fn(u32) -> bool) -> Option<usize> {
        let mut at = home(print, self.slots.len());
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            if (slot >> 32) as u32 == print && is(slot as u32) {
                return Some(at);
            }
            at = next(at, self.slots.len());
        }
    }

    fn put(&mut self, slot: u64) {
        let mut at = home((slot >> 32) as u32, self.slots.len());
        while self.slots[at] != EMPTY {
            at = next(at, self.slots.len());
        }
        self.slots[at] = slot;
    }

    /// A quarter more, so that at least three in five slots are in use.
    fn grow(&mut self) {
        let count = self.slots.len() + self.slots.len().div_ceil(4);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; count].into());
        old.into_iter().filter(|slot| *slot != EMPTY).for_each(|slot| self.put(slot));
    }
}

fn shard_of(id: [u64; 2]) -> usize {
    (id[1] >> 56) as usize
}

#[inline]
fn fingerprint(id: [u64; 2]) -> u32 {
    (id[0] >> 32) as u32
}

/// Where a fingerprint's slot should be: its share of the range, so that any number of slots will do.
#[inline]
fn home(print: u32, slots: usize) -> usize {
    ((u64::from(print) * slots as u64) >> 32) as usize
}

#[inline]
fn next(at: usize, slots: usize) -> usize {
    if at + 1 == slots { 0 } else { at + 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few shards and few fingerprints, so that runs collide, wrap around and are cut by removals.
        #[test]
        fn a_table_finds_what_a_map_finds(steps in prop::collection::vec((0u64..3, 0u32..40, any::<bool>()), 0..400)) {
            let mut table = Table::new();
            let mut map = BTreeMap::new();
            for (step, (shard, print, add)) in (0u32..).zip(steps) {
                let id = id_of(shard, print);
                match (map.get(&id).copied(), add) {
                    (None, true) => {
                        table.insert(id, step);
                        map.insert(id, step);
                    }
                    (Some(index), true) => {
                        table.replace(id, index, step);
                        map.insert(id, step);
                    }
                    (Some(index), false) => {
                        table.remove(id, index);
                        map.remove(&id);
                    }
                    (None, false) => {}
                }
                prop_assert_eq!(table.len(), map.len());
                for shard in 0..3 {
                    for print in 0..40 {
                        let id = id_of(shard, print);
                        let found = table.find(id, |index| map.get(&id) == Some(&index));
                        prop_assert_eq!(found, map.get(&id).copied());
                        let same_print = map.keys().any(|other| (other[0] >> 32, other[1]) == (id[0] >> 32, id[1]));
                        prop_assert_eq!(table.candidate(id) != ABSENT, same_print);
                    }
                }
            }
        }
    }

    fn id_of(shard: u64, print: u32) -> [u64; 2] {
        [((u64::from(print % 20) * 0x0ccc_cccd) << 32) | u64::from(print), shard << 56]
    }
}
