//! Finding blocks: the longest resident prefix of a chain, and why the next block is missing.

use kvtier_identity::BlockId;

use super::Catalog;
use super::entry::{Entry, Level, NONE, QUEUED, State};
use super::plan::{BlockIndex, Miss, MissReason, Resident};
use crate::place::TierKind;
use crate::port::Moment;

impl Catalog {
    /// Appends the longest prefix of `blocks` that is resident in any tier to `out` and touches it; returns its length.
    ///
    /// The probes come first and depend on nothing but the ids, so that the processor overlaps their cache misses.
    pub fn lookup(&mut self, blocks: &[BlockId], out: &mut Vec<Resident>) -> usize {
        let first = out.len();
        for block in blocks {
            let Some(index) = self.blocks.find(*block) else { break };
            let entry = self.blocks.get(index);
            if entry.state != State::Visible {
                break;
            }
            out.push(resident(index, entry));
        }
        self.advance_tick();
        for found in &out[first..] {
            self.use_block(found.index.0);
        }
        out.len() - first
    }

    /// Touches one found block. In a chain its parent was touched just before.
    #[inline]
    fn use_block(&mut self, index: u32) {
        let now = self.tick.now;
        let entry = self.blocks.get(index);
        let volatile = entry.place(Level::Nvme).is_none() && entry.flags & QUEUED == 0;
        if entry.stamp != now {
            let parent = entry.parent;
            if parent == NONE || self.blocks.get(parent).stamp == now {
                self.touch(index);
            } else {
                self.refresh(index);
            }
        }
        if volatile {
            self.admit_hit(index);
        }
    }

    /// Whether and where a block is resident, without touching it.
    pub fn peek(&self, block: BlockId) -> Option<Resident> {
        self.blocks.find_visible(block).map(|index| resident(index, self.blocks.get(index)))
    }

    /// The id of an entry. The index must be valid: leased, held or in flight.
    pub fn block_of(&self, index: BlockIndex) -> BlockId {
        self.blocks.get(index.0).block()
    }

    /// Why a block is not resident, as far as the bounded history remembers.
    pub fn miss(&self, now: Moment, block: BlockId) -> Miss {
        let state = self.blocks.find(block).map(|index| self.blocks.get(index).state);
        match state {
            Some(State::Pending) => Miss { reason: MissReason::Incomplete, age: None, tier: None },
            _ => self.history.explain(now, block.0 as u64),
        }
    }
}

fn resident(index: u32, entry: &Entry) -> Resident {
    let tier = if entry.has(Level::Host) { TierKind::Host } else { TierKind::Nvme };
    Resident { index: BlockIndex(index), tier, length: entry.length }
}
