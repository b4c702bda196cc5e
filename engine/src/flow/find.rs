//! Finding the longest resident prefix of a chain, and keeping it: leases and prefetch.

use std::time::Duration;

use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::ask::{Found, FoundBlock, LeaseGrant, Prefetched, clamp};
use super::error::EngineError;
use super::load::Ask;
use super::{Core, Engine};
use crate::catalog::plan::{LeaseId, OwnerId, Resident};

/// Blocks faulted in from the index at once while RAM still fills.
const FAULT_IN_COUNT: usize = 256;

impl Engine {
    /// The longest resident prefix; with `lease`, pinned for that long for `owner`.
    pub async fn lookup(
        &self,
        space: &SpaceDigest,
        keys: &[Key],
        lease: Option<Duration>,
        owner: OwnerId,
    ) -> Result<Found, EngineError> {
        let started = self.shared.now();
        let blocks = self.block_ids(space, keys)?;
        self.fault_in_prefix(&blocks).await?;
        let mut core = self.shared.lock();
        let mut resident = Vec::new();
        let count = core.catalog.lookup(&blocks, &mut resident);
        let miss = blocks.get(count).map(|block| core.catalog.miss(started, *block));
        let lease = match lease {
            Some(lease) if count > 0 => Some(self.grant(&mut core, &resident, lease, owner)?),
            _ => None,
        };
        // Only now: making room for a write-back may evict what was found and not leased.
        self.shared.write_back_admitted(&mut core);
        drop(core);
        self.shared.meter.looked_up(&resident, keys.len(), miss.as_ref());
        self.shared.meter.lookup_latency.record(self.shared.now().since(started));
        let prefix = resident.iter().map(|block| FoundBlock { tier: block.tier, length: block.length }).collect();
        Ok(Found { prefix, lease, miss })
    }

    pub(super) fn grant(
        &self,
        core: &mut Core,
        resident: &[Resident],
        lease: Duration,
        owner: OwnerId,
    ) -> Result<LeaseGrant, EngineError> {
        let lease = clamp(lease, self.shared.settings.lease_max);
        if lease.is_zero() {
            return Err(EngineError::invalid("lease_ms", 0, "a lease lasts at least 1 ms; leave it out for none"));
        }
        let random = &self.shared.ports.random;
        let id = LeaseId(u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()));
        let now = self.shared.now();
        let indices: Vec<_> = resident.iter().map(|block| block.index).collect();
        core.catalog.lease(now, id, owner, &indices, now.after(lease)).map_err(|_| EngineError::Exhausted {
            what: "the lease table",
            detail: format!("{} leases are open", self.shared.settings.lease_count_max),
            retry: Duration::from_millis(100),
        })?;
        Ok(LeaseGrant { id, deadline_unix_ms: self.unix_ms_after(lease) })
    }

    /// Ends a lease.
    pub fn release(&self, lease: LeaseId, owner: OwnerId) -> Result<(), EngineError> {
        let mut core = self.shared.lock();
        let records = core.catalog.release(self.shared.now(), lease, owner)?;
        self.shared.journal(&mut core, records);
        Ok(())
    }

    /// Ends every lease of a client that went away.
    pub fn release_owner(&self, owner: OwnerId) {
        let mut core = self.shared.lock();
        let records = core.catalog.release_owner(owner);
        self.shared.journal(&mut core, records);
    }

    /// Starts moving the chain's resident prefix to the host tier.
    pub async fn prefetch(&self, space: &SpaceDigest, keys: &[Key]) -> Result<Prefetched, EngineError> {
        let blocks = self.block_ids(space, keys)?;
        self.fault_in_prefix(&blocks).await?;
        let mut answer = Prefetched::default();
        let (mut legs, mut ready) = (Vec::new(), Vec::new());
        {
            let mut core = self.shared.lock();
            let mut resident = Vec::new();
            core.catalog.lookup(&blocks, &mut resident);
            for block in &blocks[..resident.len()] {
                match self.shared.ask(&mut core, *block, &mut legs) {
                    Ask::Ready(pin) => {
                        answer.resident += 1;
                        ready.push(pin);
                    }
                    Ask::Wait(_) => answer.started += 1,
                    Ask::Miss(_) => answer.refused += 1,
                }
            }
        }
        self.shared.start_flight(legs);
        Ok(answer)
    }

    /// Names the blocks with these keys; checks the chain's length.
    pub(crate) fn block_ids(&self, space: &SpaceDigest, keys: &[Key]) -> Result<Vec<BlockId>, EngineError> {
        let max = self.shared.settings.chain_keys_max;
        if keys.is_empty() || keys.len() > max {
            let remedy = format!("a chain has 1 to {max} keys");
            return Err(EngineError::invalid("keys", format!("{} keys", keys.len()), remedy));
        }
        let space = {
            let core = self.shared.lock();
            core.spaces.find(space)?.clone()
        };
        Ok(keys.iter().map(|key| space.block_id(key)).collect())
    }

    pub(crate) fn unix_ms_after(&self, pause: Duration) -> u64 {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.shared.ports.clock.unix_ms().saturating_add(pause)
    }

    /// While RAM fills after a restart: brings entries of these blocks from the index. Free afterwards.
    pub(crate) async fn fault_in(&self, blocks: &[BlockId]) -> Result<(), EngineError> {
        let unknown = {
            let core = self.shared.lock();
            if !core.filling {
                return Ok(());
            }
            blocks.iter().copied().filter(|block| core.catalog.peek(*block).is_none()).collect::<Vec<_>>()
        };
        for chunk in unknown.chunks(FAULT_IN_COUNT) {
            self.fault_in_chunk(chunk).await?;
        }
        Ok(())
    }

    /// The same for a chain: stops at the first block that does not exist.
    pub(super) async fn fault_in_prefix(&self, blocks: &[BlockId]) -> Result<(), EngineError> {
        for chunk in blocks.chunks(FAULT_IN_COUNT) {
            {
                let core = self.shared.lock();
                if !core.filling {
                    return Ok(());
                }
            }
            self.fault_in(chunk).await?;
            let core = self.shared.lock();
            if chunk.iter().any(|block| core.catalog.peek(*block).is_none()) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn fault_in_chunk(&self, blocks: &[BlockId]) -> Result<(), EngineError> {
        let found = self.shared.ports.index.get_many(blocks.to_vec()).await;
        let found = found.map_err(|error| EngineError::unavailable("the index", error))?;
        let mut core = self.shared.lock();
        for (block, entry) in blocks.iter().zip(found) {
            if let Some(entry) = entry {
                core.fill(*block, &entry);
            }
        }
        Ok(())
    }
}
