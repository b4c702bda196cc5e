//! Named pins: an operator's or tenant's wish to keep blocks resident for a while, within a quota.

use super::Catalog;
use super::expire::Due;
use super::plan::{BlockIndex, PinError};
use crate::port::{Moment, Record};

#[derive(Debug)]
pub(super) struct Pin {
    pub(super) blocks: Vec<BlockIndex>,
    pub(super) payload_bytes: u64,
    deadline: Moment,
}

impl Pin {
    pub(super) fn bytes(&self) -> u64 {
        (self.blocks.len() * 4 + size_of::<Self>() + size_of::<(u32, Box<str>)>() * 2) as u64
    }
}

impl Catalog {
    /// Holds these blocks under a name until `deadline`; a pin of that name is replaced. `blocks` come from a lookup,
    /// and nothing has changed the catalog since. `bytes_max` bounds the payload of all pins of the space; a block in
    /// two pins counts twice. Returns the pin's payload bytes.
    pub fn pin(
        &mut self,
        _now: Moment,
        space: u32,
        name: &str,
        blocks: &[BlockIndex],
        deadline: Moment,
        bytes_max: u64,
    ) -> Result<u64, PinError> {
        let key = (space, Box::from(name));
        let old = self.pins.get(&key).map(|pin| pin.payload_bytes);
        if old.is_none() && self.pins.len() >= self.settings.pin_count_max as usize {
            return Err(PinError::TooMany);
        }
        let asked: u64 = blocks.iter().map(|block| u64::from(self.blocks.get(block.0).length)).sum();
        let pinned = self.spaces.get(&space).map_or(0, |sum| sum.pinned_bytes);
        let used = pinned - old.unwrap_or(0);
        if used.saturating_add(asked) > bytes_max {
            return Err(PinError::Quota { asked, used, max: bytes_max });
        }
        // The new holds come first, so that blocks in both pins are held throughout.
        for block in blocks {
            self.hold(block.0);
        }
        self.unpin(space, name);
        self.spaces.entry(space).or_default().pinned_bytes += asked;
        self.due.insert((deadline, Due::Pin(space, key.1.clone())));
        self.pins.insert(key, Pin { blocks: blocks.into(), payload_bytes: asked, deadline });
        Ok(asked)
    }

    /// Adds a block to a pin that there is, within the same bounds; false: there is none of that name.
    pub fn pin_also(&mut self, space: u32, name: &str, block: BlockIndex, bytes_max: u64) -> Result<bool, PinError> {
        let Some(pin) = self.pins.get_mut(&(space, Box::from(name))) else { return Ok(false) };
        let asked = u64::from(self.blocks.get(block.0).length);
        let sum = self.spaces.entry(space).or_default();
        if sum.pinned_bytes.saturating_add(asked) > bytes_max {
            return Err(PinError::Quota { asked, used: sum.pinned_bytes, max: bytes_max });
        }
        sum.pinned_bytes += asked;
        pin.payload_bytes += asked;
        pin.blocks.push(block);
        self.hold(block.0);
        Ok(true)
    }

    /// Ends a pin; `None`: there is none of that name. The records are to be journaled (see `unhold`).
    pub fn unpin(&mut self, space: u32, name: &str) -> Option<Vec<Record>> {
        let key = (space, Box::from(name));
        let pin = self.pins.remove(&key)?;
        self.due.remove(&(pin.deadline, Due::Pin(space, key.1)));
        // A pin of no blocks does not keep its space's sum alive.
        let sum = self.spaces.entry(space).or_default();
        sum.pinned_bytes -= pin.payload_bytes;
        if *sum == super::SpaceSum::default() {
            self.spaces.remove(&space);
        }
        for block in &pin.blocks {
            self.drop_hold(block.0);
        }
        Some(Vec::new())
    }
}
