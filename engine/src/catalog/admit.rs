//! Which blocks are written back to NVMe without being asked for.
//!
//! A child goes only after its parent: on NVMe without it, it could not be found again after a restart. A child the
//! policy wants while its parent is not on its way is remembered, and queued as soon as the parent's store begins.

use kvtier_identity::BlockId;

use super::Catalog;
use super::entry::{Level, NONE, QUEUED, State, WISHED};
use super::plan::BlockIndex;

/// Blocks that can wait for `take_admitted`; further ones wait for their next hit.
const WANTED_MAX: usize = 16_384;
/// Children looked at when a parent's store begins.
const CHILDREN_MAX: usize = 256;

impl Catalog {
    /// Blocks the admission policy wants on NVMe since the last call, parents before children: because they were hit
    /// again, or because their parent's store has begun. They are not held: call `begin_store` for each, in order.
    pub fn take_admitted(&mut self, count_max: usize) -> Vec<(BlockIndex, BlockId)> {
        let mut taken = Vec::new();
        while taken.len() < count_max {
            let Some((index, block)) = self.wanted.pop_front() else { break };
            let entry = self.blocks.get_mut(index);
            // It may be gone, and its entry may serve another block.
            if entry.block() == block && entry.flags & QUEUED != 0 {
                entry.flags &= !QUEUED;
                taken.push((BlockIndex(index), block));
            }
        }
        taken
    }

    /// The block was put; whether to store it now.
    pub(super) fn admit_put(&mut self, index: u32) -> bool {
        let mark = self.blocks.get(index).mark();
        if !self.has_nvme() || !self.admission.put(mark) {
            return false;
        }
        let ready = self.parent_ready(index);
        if !ready {
            self.blocks.get_mut(index).flags |= WISHED;
        }
        ready
    }

    /// The block was hit in the host tier and has no NVMe slot.
    pub(super) fn admit_hit(&mut self, index: u32) {
        let mark = self.blocks.get(index).mark();
        if self.has_nvme() && self.admission.hit(mark) {
            self.want(index);
        }
    }

    /// Queues a block, or remembers that its parent must go first.
    pub(super) fn want(&mut self, index: u32) {
        let ready = self.parent_ready(index);
        let entry = self.blocks.get_mut(index);
        if !ready {
            entry.flags |= WISHED;
        } else if entry.flags & QUEUED == 0 && self.wanted.len() < WANTED_MAX {
            entry.flags = (entry.flags | QUEUED) & !WISHED;
            self.wanted.push_back((index, entry.block()));
        }
    }

    /// The block's store has begun: children that waited for it can follow.
    pub(super) fn want_children(&mut self, index: u32) {
        let waits = |child: &u32| {
            let entry = self.blocks.get(*child);
            entry.flags & WISHED != 0 && entry.has(Level::Host) && entry.place(Level::Nvme).is_none()
        };
        let children: Vec<u32> = self.blocks.children(index).take(CHILDREN_MAX).filter(waits).collect();
        for child in children {
            self.want(child);
        }
    }

    /// Whether the parent is on NVMe, on its way there, or ahead in the queue.
    fn parent_ready(&self, index: u32) -> bool {
        let parent = self.blocks.get(index).parent;
        if parent == NONE {
            return true;
        }
        let entry = self.blocks.get(parent);
        entry.state == State::Visible && (entry.place(Level::Nvme).is_some() || entry.flags & QUEUED != 0)
    }
}
