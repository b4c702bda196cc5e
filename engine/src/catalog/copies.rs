//! How copies appear and go away, and how holds keep them. Everything that changes a count passes through here.

use kvtier_identity::{BlockId, Key};

use super::Catalog;
use super::entry::{DETACHED, Level, NONE, QUEUED, State, WISHED};
use super::plan::{BlockIndex, HostCopy};
use crate::port::{Moment, Record, RemovalCause};

impl Catalog {
    /// Gives back one hold. What a doomed block owned is free with its last hold.
    ///
    /// The records are to be journaled; today there are none, because a removal is journaled when it is decided.
    pub fn unhold(&mut self, index: BlockIndex) -> Vec<Record> {
        self.drop_hold(index.0);
        Vec::new()
    }

    /// Whether the block was removed while somebody holds it. Ask before journaling `StoredNvme`: a store that lost the
    /// race against a delete need not become durable at all.
    pub fn is_doomed(&self, index: BlockIndex) -> bool {
        self.blocks.get(index.0).state == State::Doomed
    }

    pub(super) fn hold(&mut self, index: u32) {
        let entry = self.blocks.get_mut(index);
        entry.holds += 1;
        if entry.holds == 1 {
            self.held_blocks += 1;
        }
    }

    pub(super) fn drop_hold(&mut self, index: u32) {
        let entry = self.blocks.get_mut(index);
        assert!(entry.holds > 0, "block entry {index} is not held");
        entry.holds -= 1;
        if entry.holds > 0 {
            return;
        }
        self.held_blocks -= 1;
        if entry.state == State::Doomed {
            self.bury(index);
        } else {
            self.settle(index);
        }
    }

    /// Something that may have kept these copies from being evicted is gone.
    pub(super) fn settle(&mut self, index: u32) {
        if index == NONE {
            return;
        }
        let entry = self.blocks.get(index);
        for level in Level::ALL {
            if entry.has(level) {
                let order = entry.domain(level);
                self.shelves[level as usize].policy.unpark(order, index);
            }
        }
    }

    /// Whether a copy may be evicted: not held, and no descendant depends on it (INV-4, leaf first).
    pub(super) fn evictable(&self, index: u32, level: Level) -> bool {
        evictable(&self.blocks, index, level)
    }

    /// A copy has become readable: its slot is owned, its bytes are there.
    pub(super) fn appear(&mut self, index: u32, level: Level) {
        let entry = *self.blocks.get(index);
        assert!(entry.has(level), "a copy appears after its bytes");
        self.advance_tick();
        self.refresh(entry.parent);
        let above = self.parent_in(index, level);
        let now = self.tick.now;
        self.tick.touches += 1;
        self.blocks.get_mut(index).stamp = now;
        self.count_copy(index, level, above);
        if entry.has(level.other()) {
            self.settle(index);
        } else {
            let sum = self.spaces.entry(entry.space).or_default();
            sum.blocks += 1;
            sum.bytes += u64::from(entry.length);
        }
    }

    pub(super) fn advance_tick(&mut self) {
        let [host, nvme] = &self.shelves;
        self.tick.advance(host.blocks.max(nvme.blocks));
    }

    /// Touches a block and its ancestors, head first, as far as they were not touched in this tick.
    pub(super) fn refresh(&mut self, index: u32) {
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        let mut at = index;
        while at != NONE && self.blocks.get(at).stamp != self.tick.now {
            path.push(at);
            at = self.blocks.get(at).parent;
        }
        path.reverse();
        self.touch(&path);
        self.path = path;
    }

    /// Touches a path, each block the child of the one before; the first one's parent was touched in this tick.
    pub(super) fn touch(&mut self, path: &[u32]) {
        for level in Level::ALL {
            let mut rest = path;
            while let Some(skipped) = rest.iter().position(|index| self.blocks.get(*index).has(level)) {
                let run = &rest[skipped..];
                let count = run.iter().take_while(|index| self.blocks.get(**index).has(level)).count();
                let above = self.parent_in(run[0], level);
                // A run is a piece of a chain, so all of it is in one domain.
                let order = self.blocks.get(run[0]).domain(level);
                self.shelf_mut(level).policy.touch(order, &run[..count], above);
                rest = &run[count..];
            }
        }
        let now = self.tick.now;
        path.iter().for_each(|index| self.blocks.get_mut(*index).stamp = now);
        self.tick.touches += path.len() as u64;
    }

    /// The parent, if it has a readable copy in a tier.
    fn parent_in(&self, index: u32, level: Level) -> Option<u32> {
        let parent = self.blocks.get(index).parent;
        (parent != NONE && self.blocks.get(parent).has(level)).then_some(parent)
    }

    /// Takes a readable copy that is neither held nor in flight out of a tier and frees its slot.
    pub(super) fn evict(&mut self, now: Moment, index: u32, level: Level, records: &mut Vec<Record>) {
        assert!(self.evictable(index, level), "a held block or one with descendants is never evicted (INV-4)");
        let entry = *self.blocks.get(index);
        self.uncount(index, level, true);
        self.free_slot(index, level);
        self.domain_mut(index, level).evictions += 1;
        records.push(removed(entry.block(), entry.space, level, RemovalCause::Evicted));
        if level == Level::Host {
            self.forget_key(index);
        }
        self.settle(entry.parent);
        if !entry.has(level.other()) {
            self.vanish(now, index, RemovalCause::Evicted, level);
            self.blocks.set_state(index, State::Shadow);
            self.blocks.get_mut(index).flags = 0;
            self.blocks.prune(index);
        }
    }

    /// A readable copy counts from now on, next to its parent's copy `above`.
    pub(super) fn count_copy(&mut self, index: u32, level: Level, above: Option<u32>) {
        let entry = *self.blocks.get(index);
        let shelf = self.shelf_mut(level);
        shelf.policy.insert(entry.domain(level), index, entry.mark(), above);
        shelf.blocks += 1;
        let domain = &mut shelf.domains[entry.domain(level)];
        domain.blocks += 1;
        domain.payload_bytes += u64::from(entry.length);
    }

    /// A readable copy does not count any more; its slot stays as it is.
    pub(super) fn uncount(&mut self, index: u32, level: Level, evicted: bool) {
        let entry = *self.blocks.get(index);
        let shelf = self.shelf_mut(level);
        shelf.policy.remove(entry.domain(level), index, entry.mark(), evicted);
        shelf.blocks -= 1;
        let domain = &mut shelf.domains[entry.domain(level)];
        domain.blocks -= 1;
        domain.payload_bytes -= u64::from(entry.length);
    }

    /// The block's last readable copy is gone.
    pub(super) fn vanish(&mut self, now: Moment, index: u32, cause: RemovalCause, level: Level) {
        let entry = self.blocks.get(index);
        self.history.note_removed(now, entry.mark(), cause, level);
        // An evicted host copy says nothing against an NVMe copy that the index may still bring.
        if let Some(recovery) = self.recovery.as_mut().filter(|_| cause != RemovalCause::Evicted) {
            recovery.note_removed(entry.mark());
        }
        let sum = self.spaces.get_mut(&entry.space).expect("the space of a visible block is counted");
        sum.blocks -= 1;
        sum.bytes -= u64::from(entry.length);
        if *sum == super::SpaceSum::default() {
            let space = entry.space;
            self.spaces.remove(&space);
        }
    }

    /// Removes a visible block from every tier, held or not; slots that are held come back later.
    pub(super) fn doom(&mut self, now: Moment, index: u32, cause: RemovalCause, records: &mut Vec<Record>) {
        let entry = *self.blocks.get(index);
        assert!(entry.state == State::Visible, "only visible blocks are removed");
        for level in Level::ALL {
            if entry.has(level) {
                self.uncount(index, level, false);
                records.push(removed(entry.block(), entry.space, level, cause));
            } else if level == Level::Nvme && entry.in_flight(level) {
                // Its commit record may be in the log already. Taken back now, not when the flight ends: by then the block
                // may have been put again.
                records.push(removed(entry.block(), entry.space, level, cause));
            }
        }
        let level = if entry.has(Level::Host) { Level::Host } else { Level::Nvme };
        self.vanish(now, index, cause, level);
        self.mark_doomed(index, cause);
    }

    /// From now on the block exists only for those who hold it.
    pub(super) fn mark_doomed(&mut self, index: u32, cause: RemovalCause) {
        self.forget_key(index);
        self.blocks.set_state(index, State::Doomed);
        let entry = self.blocks.get_mut(index);
        entry.flags &= !(QUEUED | WISHED);
        entry.cause = cause;
        let (holds, parent) = (entry.holds, entry.parent);
        self.settle(parent);
        if holds == 0 {
            self.bury(index);
        }
    }

    /// Frees what a doomed block without holds owns.
    fn bury(&mut self, index: u32) {
        for level in Level::ALL {
            if self.blocks.get(index).place(level).is_some() {
                self.free_slot(index, level);
            }
        }
        self.blocks.get_mut(index).flags &= DETACHED;
        self.blocks.set_state(index, State::Shadow);
        self.blocks.prune(index);
    }

    pub(super) fn keep_key(&mut self, index: u32, key: Key) {
        self.key_bytes += key_heap_bytes(&key);
        let before = self.keys.insert(index, key);
        assert!(before.is_none(), "a block gets its key once");
    }

    pub(super) fn forget_key(&mut self, index: u32) {
        if let Some(key) = self.keys.remove(&index) {
            self.key_bytes -= key_heap_bytes(&key);
        }
    }

    /// The readable host copy of a block that the caller holds or leases. No hold is added.
    pub fn copy_in_host(&self, index: BlockIndex) -> Option<HostCopy> {
        self.host_copy(index.0)
    }

    /// The readable host copy.
    pub(super) fn host_copy(&self, index: u32) -> Option<HostCopy> {
        let entry = self.blocks.get(index);
        let slot = self.slot(index, Level::Host).filter(|_| entry.has(Level::Host))?;
        Some(HostCopy { index: BlockIndex(index), slot, length: entry.length, crc: entry.crc })
    }

    /// The id of a block's parent.
    pub(super) fn parent_id(&self, index: u32) -> Option<BlockId> {
        let parent = self.blocks.get(index).parent;
        (parent != NONE).then(|| self.blocks.get(parent).block())
    }
}

/// Bytes an allocator takes for a key: rounded up to 16, plus its own header.
fn key_heap_bytes(key: &Key) -> u64 {
    key.as_bytes().len() as u64 / 16 * 16 + 32
}

/// `Removed` of one copy.
pub(super) fn removed(block: BlockId, space: u32, level: Level, cause: RemovalCause) -> Record {
    Record::Removed { block, space, tier: level.tier(), cause }
}

/// See [`Catalog::evictable`].
pub(super) fn evictable(blocks: &super::blocks::Blocks, index: u32, level: Level) -> bool {
    let entry = blocks.get(index);
    let children = blocks.kin(index).children;
    let other = level.other();
    entry.holds == 0
        && entry.has(level)
        && children[level as usize] == 0
        && (entry.has(other) || children[other as usize] == 0)
}
