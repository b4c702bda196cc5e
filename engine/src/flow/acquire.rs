//! Acquiring a chain for a reader who shares the host memory: a lease, and where every block is.
//!
//! ```text
//!   lookup + lease (one hold of the core) ── all in host memory? ──► places, at once
//!                                              │ no: flights start
//!                                              └─► wait for the landings, or answer "loading" ──► places
//! ```
//!
//! The lease holds every block, so what a flight has brought up stays until the lease ends: no hold of its own is needed.
//! A block that could not be brought up ends the prefix; those before it stay leased. A reader who outlives the lease can
//! tell by the slot's generation (see [`crate::port::Memory::renew`]).

use std::time::Duration;

use futures::channel::oneshot;
use kvtier_identity::{BlockId, KeyRun, SpaceDigest};

use super::ask::LeaseGrant;
use super::error::EngineError;
use super::load::Ask;
use super::put::ROOM_PATIENCE;
use super::{CoreGuard, Engine};
use crate::catalog::plan::{BlockIndex, HostCopy, LeaseId, Miss, MissReason, OwnerId};
use crate::place::{PAGE_BYTES, TierKind};

/// How often blocks that went away between landing and reading are asked for again.
const TRIES_MAX: usize = 4;

/// What a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// How long to keep it.
    pub lease: Duration,
    /// Bring blocks up that are not in host memory.
    pub stage: bool,
    /// Wait until they are there.
    pub wait: bool,
}

/// Where one block's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlacedBlock {
    /// Offset of the payload in the arena of its space's domain; `None`: not in host memory.
    pub offset: Option<u64>,
    /// Payload bytes.
    pub length: u32,
    /// CRC32 of the payload.
    pub crc: u32,
    /// Generation of the slot.
    pub generation: u64,
}

/// Answer to [`Engine::acquire`].
#[derive(Debug, Clone, Default)]
pub struct Acquired {
    /// None: nothing is resident.
    pub lease: Option<LeaseGrant>,
    /// Blocks still on their way; then `blocks` is empty.
    pub loading: u32,
    /// One per block of the prefix.
    pub blocks: Vec<PlacedBlock>,
    /// Why the block after the prefix is missing.
    pub miss: Option<Miss>,
    /// Blocks of the prefix that were in host memory when it was asked for; 0 in the answer to a poll.
    pub found_host: u32,
    /// Blocks that had to come from NVMe; 0 in the answer to a poll.
    pub found_nvme: u32,
}

type Landing = oneshot::Receiver<Result<(), Miss>>;

impl Engine {
    /// Leases the longest resident prefix of a chain and says where it is in host memory.
    pub async fn acquire(
        &self,
        space: &SpaceDigest,
        keys: &KeyRun<'_>,
        wish: Wish,
        owner: OwnerId,
    ) -> Result<Acquired, EngineError> {
        let started = self.shared.now();
        let chain = self.chain_ids(space, keys)?;
        self.fault_in_prefix(&chain).await?;
        let look = self.look(&chain, wish, owner)?;
        self.shared.meter.lookup_latency.record(self.shared.now().since(started));
        let lease = look.lease.map(|lease| (lease.id, owner));
        let mut acquired = self.settle(&look.leased, look.placing, wish, lease).await?;
        acquired.lease = look.lease;
        acquired.miss = acquired.miss.or(look.miss);
        acquired.found_host = look.leased.len() as u32 - look.found_nvme;
        acquired.found_nvme = look.found_nvme;
        Ok(acquired)
    }

    /// Leases what is resident of a chain, and places it once.
    fn look(&self, chain: &[BlockId], wish: Wish, owner: OwnerId) -> Result<Look, EngineError> {
        let mut core = self.shared.lock();
        let mut resident = Vec::with_capacity(chain.len());
        let count = core.catalog.lookup(chain, &mut resident);
        let miss = chain.get(count).map(|block| core.catalog.miss(self.shared.now(), *block));
        let lease = match count {
            0 => None,
            _ => Some(self.grant(&mut core, &resident, wish.lease, owner)?),
        };
        let found_nvme = self.shared.meter.looked_up(&resident, chain.len(), miss.as_ref());
        let leased: Vec<BlockIndex> = resident.iter().map(|block| block.index).collect();
        let placing = self.place(core, &leased, wish.stage);
        Ok(Look { lease, miss, leased, found_nvme, placing })
    }

    /// Where the blocks of a lease are by now.
    pub async fn acquired(&self, lease: LeaseId, owner: OwnerId, wait: bool) -> Result<Acquired, EngineError> {
        let (leased, first) = {
            let core = self.shared.lock();
            let leased = core.catalog.leased(self.shared.now(), lease, owner)?.to_vec();
            let placing = self.place(core, &leased, true);
            (leased, placing)
        };
        let wish = Wish { lease: Duration::ZERO, stage: true, wait };
        self.settle(&leased, first, wish, Some((lease, owner))).await
    }

    /// Waits for what is on its way, if that is wished, and places what is there then.
    async fn settle(
        &self,
        leased: &[BlockIndex],
        first: Placing,
        wish: Wish,
        lease: Option<(LeaseId, OwnerId)>,
    ) -> Result<Acquired, EngineError> {
        let mut placing = first;
        let deadline = self.shared.now().after(ROOM_PATIENCE);
        let mut tries = 0;
        while !placing.landings.is_empty() || placing.is_throttled() {
            let on_their_way = placing.landings.len();
            if !wish.wait && on_their_way > 0 {
                return Ok(Acquired { loading: on_their_way as u32, ..Acquired::default() });
            }
            if on_their_way > 0 {
                if tries == TRIES_MAX {
                    placing.miss = Some(Miss { reason: MissReason::Throttled, age: None, tier: Some(TierKind::Nvme) });
                    break;
                }
                tries += 1;
                for landing in std::mem::take(&mut placing.landings) {
                    // What did not land is seen below, when it is asked for again.
                    landing.await.ok();
                }
            } else if !wish.wait || !self.shared.room(deadline).await {
                break;
            }
            let Some((id, owner)) = lease else { break };
            placing = self.place_again(leased, id, owner)?;
        }
        self.count(&placing.blocks);
        Ok(Acquired { blocks: placing.blocks, miss: placing.miss, ..Acquired::default() })
    }

    fn place_again(&self, leased: &[BlockIndex], id: LeaseId, owner: OwnerId) -> Result<Placing, EngineError> {
        let core = self.shared.lock();
        // Without the lease the indexes are nobody's.
        core.catalog.leased(self.shared.now(), id, owner)?;
        Ok(self.place(core, leased, true))
    }

    /// Places leased blocks that are in host memory, and starts flights for the others.
    fn place(&self, mut core: CoreGuard<'_>, leased: &[BlockIndex], stage: bool) -> Placing {
        let mut placing = Placing { blocks: Vec::with_capacity(leased.len()), landings: Vec::new(), miss: None };
        let (mut legs, mut strays) = (Vec::new(), Vec::new());
        for index in leased {
            let copy = core.catalog.copy_in_host(*index);
            match copy {
                // Only the beginning of the chain counts until what is on its way has landed.
                Some(_) if !placing.landings.is_empty() => {}
                Some(copy) => placing.blocks.push(self.placed(copy)),
                None if !stage => placing.blocks.push(PlacedBlock::default()),
                None => {
                    let block = core.catalog.block_of(*index);
                    match self.shared.ask(&mut core, block, &mut legs) {
                        Ask::Wait(landing) => placing.landings.push(landing),
                        Ask::Miss(miss) => placing.miss = Some(miss),
                        // The leased block was deleted, and another was put under its name: not the one that was leased.
                        Ask::Ready(stray) => {
                            strays.push(stray);
                            placing.miss = Some(core.catalog.miss(self.shared.now(), block));
                        }
                    }
                }
            }
            if placing.miss.is_some() {
                break;
            }
        }
        self.shared.write_back_admitted(&mut core);
        drop(core);
        drop(strays);
        self.shared.start_flight(legs);
        placing
    }

    fn placed(&self, copy: HostCopy) -> PlacedBlock {
        PlacedBlock {
            offset: Some(copy.slot.offset + PAGE_BYTES),
            length: copy.length,
            crc: copy.crc,
            generation: self.shared.ports.memory.generation(copy.slot),
        }
    }

    fn count(&self, blocks: &[PlacedBlock]) {
        let here = blocks.iter().filter(|block| block.offset.is_some());
        let bytes = here.clone().map(|block| u64::from(block.length)).sum();
        let meter = &self.shared.meter;
        meter.acquired_blocks.add(here.count() as u64);
        meter.acquired_bytes.add(bytes);
    }

    /// Names the blocks of a run of keys; checks its length.
    pub(super) fn chain_ids(&self, space: &SpaceDigest, keys: &KeyRun<'_>) -> Result<Vec<BlockId>, EngineError> {
        let max = self.shared.settings.chain_keys_max;
        if keys.is_empty() || keys.len() > max {
            let remedy = format!("a chain has 1 to {max} keys");
            return Err(EngineError::invalid("keys", format!("{} keys", keys.len()), remedy));
        }
        let space = {
            let core = self.shared.lock();
            core.spaces.find(space)?.clone()
        };
        Ok(self.shared.names.lock().expect("nobody panics while naming blocks").block_ids(&space, keys))
    }
}

/// What a first look has found.
struct Look {
    lease: Option<LeaseGrant>,
    miss: Option<Miss>,
    leased: Vec<BlockIndex>,
    found_nvme: u32,
    placing: Placing,
}

/// What came of placing leased blocks once.
struct Placing {
    blocks: Vec<PlacedBlock>,
    landings: Vec<Landing>,
    /// Why the block after the last one cannot be had.
    miss: Option<Miss>,
}

impl Placing {
    /// Whether only room was missing, which write-back may be about to make.
    fn is_throttled(&self) -> bool {
        self.miss.is_some_and(|miss| miss.reason == MissReason::Throttled && miss.tier == Some(TierKind::Nvme))
    }
}
