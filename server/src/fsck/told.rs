//! What a run of log records comes to.

use std::collections::{BTreeMap, BTreeSet};

use kvtier_engine::place::{Slot, TierKind};
use kvtier_engine::port::{IndexEntry, Record, SpaceRecord};
use kvtier_identity::BlockId;

/// The state after the records applied so far. As large as what they name, and a log's size has a bound.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Blocks that were stored and are there.
    pub(super) blocks: BTreeMap<BlockId, IndexEntry>,
    /// Blocks that were removed and have not come back.
    pub(super) gone: BTreeSet<BlockId>,
    /// Spaces that were opened and are there.
    pub(super) spaces: BTreeMap<u32, SpaceRecord>,
    /// Slots that were taken out of use.
    pub(super) quarantined: Vec<Slot>,
    /// The last record.
    pub(super) covered: u64,
}

impl Told {
    /// Applies the next record.
    pub(super) fn apply(&mut self, seq: u64, record: Record) {
        self.covered = seq;
        match record {
            Record::StoredNvme { block, entry } => {
                self.gone.remove(&block);
                self.blocks.insert(block, entry);
            }
            Record::Removed { block, tier: TierKind::Nvme, .. } => {
                self.blocks.remove(&block);
                self.gone.insert(block);
            }
            Record::SpaceOpened(space) => drop(self.spaces.insert(space.number, *space)),
            Record::SpaceDropped { space, .. } => drop(self.spaces.remove(&space)),
            Record::Quarantined { slot } => self.quarantined.push(slot),
            Record::Removed { .. }
            | Record::StoredHost { .. }
            | Record::Reset { .. }
            | Record::EngineStored { .. }
            | Record::EngineRemoved { .. }
            | Record::EngineReset { .. } => {}
        }
    }

    /// Whether the records say anything of a block's copy on NVMe.
    pub(super) fn names(&self, block: BlockId) -> bool {
        self.blocks.contains_key(&block) || self.gone.contains(&block)
    }
}
