//! Taking blocks away on purpose: delete, quarantine, dropping a space.

use kvtier_identity::BlockId;

use super::Catalog;
use super::copies::removed;
use super::entry::{Level, State};
use super::plan::BlockIndex;
use crate::port::{Moment, Record, RemovalCause};

impl Catalog {
    /// Removes a block from every tier; a put of it that is under way is given up. `None`: there is no such block.
    /// Its descendants stay, but cannot be found without it.
    pub fn delete(&mut self, now: Moment, block: BlockId) -> Option<Vec<Record>> {
        let index = self.blocks.find(block)?;
        self.remove(now, index, RemovalCause::Deleted)
    }

    fn remove(&mut self, now: Moment, index: u32, cause: RemovalCause) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        match self.blocks.get(index).state {
            State::Visible => self.doom(now, index, cause, &mut records),
            State::Pending => self.give_up(self.blocks.get(index).generation),
            State::Free | State::Shadow | State::Doomed => return None,
        }
        Some(records)
    }

    /// The scrubber found the NVMe copy of a block it holds to be corrupt. A good host copy stays, and is queued to be
    /// written to another slot.
    pub fn quarantine(&mut self, now: Moment, index: BlockIndex) -> Vec<Record> {
        let mut records = Vec::new();
        self.condemn(now, index.0, &mut records);
        records
    }

    /// The host copy of a block, which is known by this checksum, is not what was put (INV-1): nobody finds it any more. A good
    /// NVMe copy stays. While somebody holds the block its slot is never used again. Nothing: there is no such copy.
    pub fn condemn_host(&mut self, now: Moment, block: BlockId, crc: u32) -> Vec<Record> {
        let mut records = Vec::new();
        let Some(index) = self.blocks.find_visible(block) else { return records };
        let entry = *self.blocks.get(index);
        if !entry.has(Level::Host) || entry.crc != crc {
            return records;
        }
        self.domain_mut(index, Level::Host).corrupt += 1;
        if !entry.has(Level::Nvme) {
            self.doom(now, index, RemovalCause::Corrupt, &mut records);
            return records;
        }
        self.uncount(index, Level::Host, false);
        match entry.holds {
            0 => self.free_slot(index, Level::Host),
            _ => self.quarantine_host(index),
        }
        self.forget_key(index);
        records.push(removed(entry.block(), entry.space, Level::Host, RemovalCause::Corrupt));
        self.settle(index);
        self.settle(entry.parent);
        records
    }

    /// Removes a space's blocks, looking at up to `count_max` entries from `cursor` (0 at first); true: all were seen.
    /// No put into the space may begin meanwhile.
    pub fn drop_space_step(
        &mut self,
        now: Moment,
        space: u32,
        count_max: usize,
        cursor: &mut u32,
    ) -> (Vec<Record>, bool) {
        let end = self.blocks.end().min(cursor.saturating_add(u32::try_from(count_max).unwrap_or(u32::MAX)));
        let mut records = Vec::new();
        for index in *cursor..end {
            if self.blocks.get(index).space == space {
                records.extend(self.remove(now, index, RemovalCause::SpaceDropped).into_iter().flatten());
            }
        }
        *cursor = end;
        (records, end == self.blocks.end())
    }
}
