//! Named pins, and deleting blocks.
//!
//! Pins live in RAM: a restart ends them, like leases.

use std::time::Duration;

use kvtier_identity::{Key, SpaceDigest};

use super::Engine;
use super::ask::{Pinned, clamp};
use super::error::EngineError;
use crate::catalog::plan::PinError;

const NAME_BYTES_MAX: usize = 128;

impl Engine {
    /// Keeps the chain's resident prefix under a name. Pinning again under a name replaces the pin.
    pub async fn pin(
        &self,
        space: &SpaceDigest,
        name: &str,
        keys: &[Key],
        ttl: Duration,
    ) -> Result<Pinned, EngineError> {
        check_name(name)?;
        let ttl = clamp(ttl, self.shared.settings.pin_ttl_max);
        if ttl.is_zero() {
            return Err(EngineError::invalid("ttl_ms", 0, "a pin lasts at least 1 ms"));
        }
        let blocks = self.block_ids(space, keys)?;
        self.fault_in(&blocks).await?;
        let mut core = self.shared.lock();
        let number = core.spaces.find(space)?.record.number;
        let mut resident = Vec::new();
        core.catalog.lookup(&blocks, &mut resident);
        let indices: Vec<_> = resident.iter().map(|block| block.index).collect();
        let now = self.shared.now();
        let quota = self.shared.settings.pin_quota_bytes;
        let pinned =
            core.catalog.pin(now, number, name, &indices, now.after(ttl), quota).map_err(|error| match error {
                PinError::Quota { asked, used, max } => EngineError::Exhausted {
                    what: "the pin quota",
                    detail: format!("{asked} bytes asked, {used} of {max} bytes pinned in this space: unpin something"),
                    retry: Duration::from_secs(1),
                },
                PinError::TooMany => EngineError::Exhausted {
                    what: "the pin table",
                    detail: format!("{} pins are set", self.shared.settings.pin_count_max),
                    retry: Duration::from_secs(1),
                },
            })?;
        let blocks = u32::try_from(indices.len()).expect("a chain has at most 65,536 keys");
        Ok(Pinned { blocks, bytes: pinned, deadline_unix_ms: self.unix_ms_after(ttl) })
    }

    /// Ends a pin; true if it existed.
    pub fn unpin(&self, space: &SpaceDigest, name: &str) -> Result<bool, EngineError> {
        check_name(name)?;
        let mut core = self.shared.lock();
        let number = core.spaces.find(space)?.record.number;
        let Some(records) = core.catalog.unpin(number, name) else { return Ok(false) };
        self.shared.journal(&mut core, records);
        Ok(true)
    }

    /// Forgets blocks; returns how many there were. Durable when it returns.
    pub async fn delete(&self, space: &SpaceDigest, keys: &[Key]) -> Result<u32, EngineError> {
        let blocks = self.block_ids(space, keys)?;
        self.fault_in(&blocks).await?;
        let (deleted, newest) = {
            let mut core = self.shared.lock();
            self.shared.ports.journal.ready().map_err(|refused| EngineError::unavailable("the journal", refused))?;
            let mut deleted = 0;
            for block in blocks {
                let Some(records) = core.catalog.delete(self.shared.now(), block) else { continue };
                deleted += 1;
                self.shared.journal(&mut core, records);
            }
            (deleted, self.shared.ports.journal.status().appended_seq)
        };
        if deleted > 0 {
            let durable = self.shared.ports.journal.durable(newest).await;
            durable.map_err(|error| EngineError::unavailable("the journal", error))?;
        }
        Ok(deleted)
    }
}

fn check_name(name: &str) -> Result<(), EngineError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let value = format!("{} bytes long", name.len());
        return Err(EngineError::invalid("name", value, "a pin's name has 1 to 128 bytes"));
    }
    Ok(())
}
