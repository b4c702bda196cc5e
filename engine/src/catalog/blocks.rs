//! Every block the catalog knows: found by id, linked to its parent and children.
//!
//! A hash table of 32-bit indexes points into a slab of entries. A block
//! without a copy stays as a *shadow* while children name it: a child whose parent was evicted, deleted or
//! not yet recovered still knows the parent's id, and finds it again when the parent comes back.

use kvtier_identity::BlockId;

use super::entry::{DETACHED, Entry, Kin, Level, NONE, State, split};
use super::slots::Place;
use super::table::{ABSENT, Table};
use crate::policy::slab::Slab;

/// Entries, relatives and the table that finds them.
pub(super) struct Blocks {
    entries: Slab<Entry>,
    kin: Slab<Kin>,
    table: Table,
    /// Head of the list of free entries, linked through `parent`.
    free: u32,
    /// Entries ever used: indexes below are free or in use, those above were never touched.
    used: u32,
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self { entries: Slab::new(Entry::BLANK), kin: Slab::new(Kin::BLANK), table: Table::new(), free: NONE, used: 0 }
    }

    /// The entry an id leads to, in whatever state.
    #[inline]
    pub(super) fn find(&self, block: BlockId) -> Option<u32> {
        let id = split(block);
        self.table.find(id, |index| self.entries[index].is(id))
    }

    /// Where an id probably leads, or [`ABSENT`]: costs one cache line. To be confirmed with [`Blocks::confirm`].
    #[inline]
    pub(super) fn candidate(&self, block: BlockId) -> u32 {
        self.table.candidate(split(block))
    }

    /// The entry an id leads to, given its candidate.
    #[inline]
    pub(super) fn confirm(&self, block: BlockId, candidate: u32) -> Option<u32> {
        if candidate == ABSENT {
            None
        } else if self.entries[candidate].is(split(block)) {
            Some(candidate)
        } else {
            // Another block with the same fingerprint came first: one in millions.
            self.find(block)
        }
    }

    /// The readable block with this id.
    #[inline]
    pub(super) fn find_visible(&self, block: BlockId) -> Option<u32> {
        self.find(block).filter(|index| self.entries[*index].state == State::Visible)
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Entry {
        &self.entries[index]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index]
    }

    pub(super) fn kin(&self, index: u32) -> &Kin {
        &self.kin[index]
    }

    /// Indexes below this have been used.
    pub(super) fn end(&self) -> u32 {
        self.used
    }

    /// Whether an index from outside names an entry at all.
    pub(super) fn known(&self, index: u32) -> bool {
        index < self.used && self.entries[index].state != State::Free
    }

    /// A shadow for an id that is not in the table.
    pub(super) fn insert(&mut self, block: BlockId, domain: u8) -> u32 {
        let index = self.take_entry(block, domain);
        self.table.insert(split(block), index);
        index
    }

    fn take_entry(&mut self, block: BlockId, domain: u8) -> u32 {
        let index = if self.free == NONE {
            self.used += 1;
            self.entries.reach(self.used);
            self.kin.reach(self.used);
            self.used - 1
        } else {
            let next = self.entries[self.free].parent;
            std::mem::replace(&mut self.free, next)
        };
        self.entries[index] = Entry::new(block, domain);
        self.kin[index] = Kin::BLANK;
        index
    }

    /// A shadow that takes id and children over from a doomed entry, which becomes detached.
    pub(super) fn replace(&mut self, doomed: u32) -> u32 {
        assert!(self.entries[doomed].state == State::Doomed, "only a doomed block is replaced");
        let block = self.entries[doomed].block();
        let index = self.take_entry(block, self.entries[doomed].domain);
        self.table.replace(split(block), doomed, index);
        self.entries[doomed].flags |= DETACHED;
        let old = self.kin[doomed];
        self.kin[index] = Kin { first_child: old.first_child, children: old.children, ..Kin::BLANK };
        self.kin[doomed] = Kin { first_child: NONE, children: [0; 2], ..old };
        let mut child = old.first_child;
        while child != NONE {
            self.entries[child].parent = index;
            child = self.kin[child].next;
        }
        index
    }

    /// Makes `parent` the parent of a block without slots. Refused if the block would become its own ancestor.
    pub(super) fn set_parent(&mut self, index: u32, parent: u32) -> Result<(), &'static str> {
        let old = self.entries[index].parent;
        if old == parent {
            return Ok(());
        }
        assert!(!self.entries[index].counts(), "the parent of a block with copies does not change");
        if parent != NONE && (parent == index || self.kin[index].first_child != NONE) {
            let mut ancestor = parent;
            while ancestor != NONE {
                if ancestor == index {
                    return Err("the block would be its own ancestor");
                }
                ancestor = self.entries[ancestor].parent;
            }
        }
        self.unlink(index);
        if parent != NONE {
            let first = self.kin[parent].first_child;
            self.kin[index].next = first;
            self.kin[parent].first_child = index;
            if first != NONE {
                self.kin[first].prev = index;
            }
            self.entries[index].parent = parent;
        }
        self.prune(old);
        Ok(())
    }

    fn unlink(&mut self, index: u32) {
        let parent = std::mem::replace(&mut self.entries[index].parent, NONE);
        if parent == NONE {
            return;
        }
        let Kin { next, prev, .. } = self.kin[index];
        if prev == NONE {
            self.kin[parent].first_child = next;
        } else {
            self.kin[prev].next = next;
        }
        if next != NONE {
            self.kin[next].prev = prev;
        }
        (self.kin[index].next, self.kin[index].prev) = (NONE, NONE);
    }

    /// Frees a shadow that nobody names as parent any more, and its ancestors that only lived for it.
    pub(super) fn prune(&mut self, mut index: u32) {
        while index != NONE && self.entries[index].state == State::Shadow && self.kin[index].first_child == NONE {
            let parent = self.entries[index].parent;
            self.unlink(index);
            if self.entries[index].flags & DETACHED == 0 {
                self.table.remove(split(self.entries[index].block()), index);
            }
            self.entries[index] = Entry::BLANK;
            self.entries[index].parent = self.free;
            self.free = index;
            index = parent;
        }
    }

    /// The block owns a slot from now on.
    pub(super) fn occupy(&mut self, index: u32, level: Level, place: Place) {
        assert!(self.entries[index].place(level).is_none(), "a block has one slot in a tier");
        self.entries[index].set_place(level, Some(place));
        if self.entries[index].counts() {
            self.count_in_parent(index, level, true);
        }
    }

    /// The block does not own its slot any more. Returns where it was.
    pub(super) fn vacate(&mut self, index: u32, level: Level) -> Place {
        let place = self.entries[index].place(level).expect("the block has a slot in the tier");
        if self.entries[index].counts() {
            self.count_in_parent(index, level, false);
        }
        self.entries[index].set_place(level, None);
        place
    }

    /// Changes the state, and with it whether the block's slots count for its parent.
    pub(super) fn set_state(&mut self, index: u32, state: State) {
        let before = self.entries[index].counts();
        self.entries[index].state = state;
        let after = self.entries[index].counts();
        if before != after {
            for level in Level::ALL {
                if self.entries[index].place(level).is_some() {
                    self.count_in_parent(index, level, after);
                }
            }
        }
    }

    fn count_in_parent(&mut self, index: u32, level: Level, more: bool) {
        let parent = self.entries[index].parent;
        if parent != NONE {
            let children = &mut self.kin[parent].children[level as usize];
            *children = if more { *children + 1 } else { *children - 1 };
        }
    }

    /// The children of a block, newest first.
    pub(super) fn children(&self, index: u32) -> impl Iterator<Item = u32> {
        let step = |child: u32| (child != NONE).then_some(child);
        std::iter::successors(step(self.kin[index].first_child), move |child| step(self.kin[*child].next))
    }

    /// Entries in the table.
    pub(super) fn table_len(&self) -> usize {
        self.table.len()
    }

    /// Bytes of RAM.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.bytes() + self.kin.bytes() + self.table.bytes()
    }
}
