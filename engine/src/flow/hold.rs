//! Holding a chain for a device that reads it: by block, not by lease, so that it lasts as long as the device needs.
//!
//! ```text
//!   prospect ── what is resident, with length and checksum ──► the caller may have some of it elsewhere (GPU memory)
//!   hold ── the rest: staged up where it must be ──► held in host memory until dropped (INV-8)
//! ```
//!
//! A block that cannot be brought up ends the prefix; those before it are held. Whoever asked may go away at any point:
//! what was held until then is let go of, flights land by themselves.

use kvtier_identity::{BlockId, KeyRun, SpaceDigest};

use super::Engine;
use super::error::EngineError;
use super::get::settle;
use super::load::{Ask, HostPin};
use crate::catalog::plan::Miss;
use crate::place::Slot;

/// A resident block, as the catalog knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBlock {
    /// Its name.
    pub block: BlockId,
    /// Payload bytes.
    pub length: u32,
    /// CRC32 of the payload.
    pub crc: u32,
    /// The block before it.
    pub parent: Option<BlockId>,
}

/// Answer to [`Engine::prospect`].
#[derive(Debug, Clone, Default)]
pub struct Prospect {
    /// The longest resident prefix.
    pub blocks: Vec<KnownBlock>,
    /// Why the block after it is missing.
    pub miss: Option<Miss>,
    /// The space's number.
    pub space: u32,
}

/// A block that stays in its host slot until this is dropped.
pub struct HeldBlock {
    /// Which.
    pub known: KnownBlock,
    /// Where.
    pub slot: Slot,
    _pin: HostPin,
}

/// Where a part lies in the blocks of its space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRange {
    /// First byte.
    pub offset: u32,
    /// Bytes of the whole block; none: whatever its length is, because it has one part.
    pub block_bytes: Option<u32>,
}

impl Engine {
    /// The longest resident prefix of a chain, which is touched as by a lookup. Nothing is moved or kept.
    pub async fn prospect(&self, space: &SpaceDigest, keys: &KeyRun<'_>) -> Result<Prospect, EngineError> {
        let started = self.shared.now();
        let chain = self.chain_ids(space, keys)?;
        self.fault_in_prefix(&chain).await?;
        let mut core = self.shared.lock();
        let mut resident = Vec::with_capacity(chain.len());
        let count = core.catalog.lookup(&chain, &mut resident);
        let miss = chain.get(count).map(|block| core.catalog.miss(started, *block));
        let number = core.spaces.find(space)?.record.number;
        let known = |(block, resident): (&BlockId, &crate::catalog::plan::Resident)| KnownBlock {
            block: *block,
            length: resident.length,
            crc: core.catalog.crc_of(resident.index),
            parent: core.catalog.parent_of(resident.index),
        };
        let blocks = chain.iter().zip(&resident).map(known).collect();
        self.shared.write_back_admitted(&mut core);
        drop(core);
        self.shared.meter.looked_up(&resident, chain.len(), miss.as_ref());
        self.shared.meter.lookup_latency.record(self.shared.now().since(started));
        Ok(Prospect { blocks, miss, space: number })
    }

    /// Holds blocks in host memory, bringing up those that are not there; fewer than asked for end with the reason.
    pub async fn hold(&self, blocks: &[KnownBlock]) -> (Vec<HeldBlock>, Option<Miss>) {
        let mut legs = Vec::new();
        let asks: Vec<Ask> = {
            let mut core = self.shared.lock();
            let asks = blocks.iter().map(|block| self.shared.ask(&mut core, block.block, &mut legs)).collect();
            self.shared.write_back_admitted(&mut core);
            asks
        };
        self.shared.start_flight(legs);
        let mut held = Vec::with_capacity(blocks.len());
        let mut miss = None;
        for (block, ask) in blocks.iter().zip(asks) {
            if miss.is_some() {
                // Dropped here, in their order; flights go on.
                continue;
            }
            match settle(&self.shared, block.block, ask).await {
                Ok(pin) => {
                    let copy = pin.copy();
                    let known = KnownBlock { length: copy.length, crc: copy.crc, ..*block };
                    held.push(HeldBlock { known, slot: copy.slot, _pin: pin });
                }
                Err(why) => miss = Some(why),
            }
        }
        let meter = &self.shared.meter;
        meter.acquired_blocks.add(held.len() as u64);
        meter.acquired_bytes.add(held.iter().map(|block| u64::from(block.known.length)).sum());
        (held, miss)
    }

    /// The number of a space.
    pub fn space_number(&self, space: &SpaceDigest) -> Result<u32, EngineError> {
        Ok(self.shared.lock().spaces.find(space)?.record.number)
    }

    /// The space of a number.
    pub fn space_digest(&self, number: u32) -> Option<SpaceDigest> {
        self.shared.lock().spaces.digest(number)
    }

    /// Where a part of a space's blocks lies.
    pub fn part_range(&self, space: &SpaceDigest, part: u32) -> Result<PartRange, EngineError> {
        let core = self.shared.lock();
        let parts = &core.spaces.find(space)?.record.description.parts;
        if part as usize >= parts.len() {
            let remedy = format!("blocks of this space have {} parts, numbered from 0", parts.len());
            return Err(EngineError::invalid("part", part, remedy));
        }
        let bytes = |parts: &[kvtier_identity::PartSpec]| parts.iter().map(|part| part.bytes).sum();
        let block_bytes = (parts.len() > 1).then(|| bytes(parts));
        Ok(PartRange { offset: bytes(&parts[..part as usize]), block_bytes })
    }
}
