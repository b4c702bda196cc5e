//! From a stopped node to a serving one.
//!
//! ```text
//!   index at its last flush ─► apply the log's tail ─► spaces known ─► SERVE (lookups fall through to the index)
//!                                                                        │
//!                                       scan in chunks ─► RAM index ─────┴─► complete: NVMe slots may be allocated
//! ```
//!
//! A crash in here changes nothing: applying the tail again gives the same index.

use std::sync::Arc;

use kvtier_identity::BlockId;

use super::alarm::Alarm;
use super::{Core, Engine, Shared, indexer};
use crate::catalog::plan::Fill;
use crate::flow::error::EngineError;
use crate::place::TierKind;
use crate::port::{IndexEntry, Record, RemovalCause};

/// Entries filled under one hold of the core.
const FILL_COUNT: usize = 4096;
/// Records of the tail applied at once.
const TAIL_COUNT: usize = 65_536;

impl Engine {
    /// Applies the log's tail to the index, then serves while RAM fills.
    pub(crate) async fn recover(&self) -> Result<(), EngineError> {
        let shared = &self.shared;
        let unavailable = |error| EngineError::unavailable("the index", error);
        let index = &shared.ports.index;
        loop {
            let tail = shared.ports.journal.read(index.applied(), TAIL_COUNT).await;
            let tail = tail.map_err(|refused| EngineError::unavailable("the journal", refused))?;
            let Some((last, _)) = tail.last() else { break };
            index.apply(indexer::changes_of(&tail), last.seq).await.map_err(unavailable)?;
        }
        let spaces = index.spaces().await.map_err(unavailable)?;
        let quarantined = index.quarantined().await.map_err(unavailable)?;
        let mut core = shared.lock();
        for record in spaces {
            let bytes = u32::try_from(record.description.block_bytes_max()).expect("a block has at most 64 MiB");
            core.catalog.register_size(bytes);
            core.spaces.insert(record, 0);
        }
        core.catalog.begin_fill(&quarantined);
        core.filling = true;
        Ok(())
    }
}

/// Fills RAM from the index.
pub(crate) async fn fill(shared: Arc<Shared>) {
    let started = shared.now();
    let mut after = None;
    while !shared.stopped() {
        let entries = match shared.ports.index.scan(after, FILL_COUNT).await {
            Ok(entries) => entries,
            Err(error) => {
                shared.alarms.raise(Alarm::Recovery, format!("the index cannot be read: {error}"));
                shared.ports.clock.sleep(std::time::Duration::from_millis(500)).await;
                continue;
            }
        };
        shared.alarms.clear(Alarm::Recovery);
        let mut core = shared.lock();
        let Some((last, _)) = entries.last() else {
            core.finish_fill();
            shared.recovered(started);
            return;
        };
        after = Some(*last);
        let mut records = Vec::new();
        for (block, entry) in &entries {
            records.extend(core.fill(*block, entry));
        }
        shared.meter.index_conflicts.add(records.len() as u64);
        shared.journal(&mut core, records);
    }
}

impl Core {
    /// Adds an entry unless the block went away meanwhile. An entry that cannot be true is taken out of the index.
    pub(crate) fn fill(&mut self, block: BlockId, entry: &IndexEntry) -> Option<Record> {
        if !self.filling {
            return None;
        }
        let removal = |cause| Record::Removed { block, space: entry.space, tier: TierKind::Nvme, cause };
        let Some(space) = self.spaces.numbered(entry.space) else {
            return Some(removal(RemovalCause::SpaceDropped));
        };
        match self.catalog.fill(block, entry, space.domain) {
            Fill::Added(_) | Fill::Known => None,
            Fill::Conflict(_) => Some(removal(RemovalCause::Corrupt)),
        }
    }

    fn finish_fill(&mut self) {
        self.catalog.finish_fill();
        self.filling = false;
    }
}
