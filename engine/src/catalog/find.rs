//! Finding blocks: the longest resident prefix of a chain, and why the next block is missing.

use kvtier_identity::BlockId;

use super::Catalog;
use super::entry::{Entry, Level, QUEUED, State};
use super::plan::{BlockIndex, Miss, MissReason, Resident};
use crate::place::TierKind;
use crate::port::Moment;

/// Blocks per pass: enough misses to overlap, few enough to stay in the first-level cache.
const BATCH: usize = 64;

impl Catalog {
    /// Appends the longest prefix of `blocks` that is resident in any tier to `out` and touches it; returns its length.
    ///
    /// Table probes, then entries, then eviction orders, each for a batch of blocks: the accesses of one pass do not
    /// depend on each other, so the processor overlaps their cache misses.
    pub fn lookup(&mut self, blocks: &[BlockId], out: &mut Vec<Resident>) -> usize {
        let first = out.len();
        for batch in blocks.chunks(BATCH) {
            let mut candidates = [0; BATCH];
            for (candidate, block) in candidates.iter_mut().zip(batch) {
                *candidate = self.blocks.candidate(*block);
            }
            let before = out.len();
            for (candidate, block) in candidates.iter().zip(batch) {
                let Some(index) = self.blocks.confirm(*block, *candidate) else { break };
                let entry = self.blocks.get(index);
                if entry.state != State::Visible {
                    break;
                }
                out.push(resident(index, entry));
            }
            if out.len() - before < batch.len() {
                break;
            }
        }
        self.advance_tick();
        self.use_blocks(&out[first..]);
        out.len() - first
    }

    /// Touches what was found, and offers what is not on NVMe to the admission policy, parents first.
    fn use_blocks(&mut self, found: &[Resident]) {
        let mut run = std::mem::take(&mut self.run);
        run.clear();
        for Resident { index, .. } in found {
            let Entry { stamp, parent, .. } = *self.blocks.get(index.0);
            if stamp == self.tick.now {
                continue;
            }
            if run.last() != Some(&parent) {
                // The head; or whoever asks names blocks that are no chain.
                self.touch(&run);
                run.clear();
                self.refresh(parent);
            }
            if self.blocks.get(index.0).stamp != self.tick.now {
                run.push(index.0);
            }
        }
        self.touch(&run);
        self.run = run;
        if self.has_nvme() {
            for Resident { index, .. } in found {
                let entry = self.blocks.get(index.0);
                if entry.place(Level::Nvme).is_none() && entry.flags & QUEUED == 0 {
                    self.admit_hit(index.0);
                }
            }
        }
    }

    /// Whether and where a block is resident, without touching it.
    pub fn peek(&self, block: BlockId) -> Option<Resident> {
        self.blocks.find_visible(block).map(|index| resident(index, self.blocks.get(index)))
    }

    /// CRC32 of an entry's payload. The index must be valid, as for [`Catalog::block_of`].
    pub fn crc_of(&self, index: BlockIndex) -> u32 {
        self.blocks.get(index.0).crc
    }

    /// The block before an entry's. The index must be valid, as for [`Catalog::block_of`].
    pub fn parent_of(&self, index: BlockIndex) -> Option<BlockId> {
        self.parent_id(index.0)
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
