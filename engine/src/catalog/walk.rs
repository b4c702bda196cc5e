//! Walks over all blocks in chunks, while the catalog goes on changing: the scrubber's and the snapshot's.
//!
//! A cursor is an entry index. Entries do not move, so a block that stays is met exactly once per walk; one that comes or
//! goes meanwhile may or may not be met.

use super::Catalog;
use super::entry::{Level, State};
use super::load::expect;
use super::plan::{BlockIndex, SnapshotBlock};
use crate::port::Verify;

/// Entries looked at per call and block asked for, so that a walk over mostly empty entries is not long either.
const LOOK_FACTOR: u32 = 16;

impl Catalog {
    /// Up to `count_max` NVMe copies to verify, from `cursor` on. Each is held: give it back with `unhold`, after
    /// `quarantine` if it was corrupt. Call again until the cursor is 0: then a round is complete.
    pub fn scrub_next(&mut self, cursor: &mut u32, count_max: usize) -> Vec<(BlockIndex, Verify)> {
        let mut found = Vec::new();
        let end = self.walk(cursor, count_max, |catalog, index| {
            let entry = catalog.blocks.get(index);
            if let Some(at) = catalog.slot(index, Level::Nvme).filter(|_| entry.has(Level::Nvme)) {
                found.push((BlockIndex(index), Verify { at, expect: expect(entry) }));
            }
            found.len()
        });
        if end {
            *cursor = 0;
        }
        for (index, _) in &found {
            self.hold(index.0);
        }
        found
    }

    /// Up to `count_max` resident blocks, from `cursor` on (0 at first). The cursor is `u32::MAX` when all were seen.
    pub fn snapshot_next(&self, cursor: &mut u32, count_max: usize) -> Vec<SnapshotBlock> {
        let mut found = Vec::new();
        let end = self.walk(cursor, count_max, |catalog, index| {
            let entry = catalog.blocks.get(index);
            if entry.state == State::Visible {
                found.push(SnapshotBlock {
                    block: entry.block(),
                    space: entry.space,
                    parent: catalog.parent_id(index),
                    length: entry.length,
                    host: entry.has(Level::Host),
                    nvme: entry.has(Level::Nvme),
                    key: catalog.keys.get(&index).filter(|_| entry.has(Level::Host)).cloned(),
                });
            }
            found.len()
        });
        if end {
            *cursor = u32::MAX;
        }
        found
    }

    /// Visits entries until `count_max` were found or enough were looked at; true: that was the last.
    fn walk(&self, cursor: &mut u32, count_max: usize, mut visit: impl FnMut(&Self, u32) -> usize) -> bool {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX).max(1);
        let end = self.blocks.end().min(cursor.saturating_add(count_max.saturating_mul(LOOK_FACTOR)));
        while *cursor < end {
            let found = visit(self, *cursor);
            *cursor += 1;
            if found >= count_max as usize {
                break;
            }
        }
        *cursor >= self.blocks.end()
    }
}
