//! Holding a chain for a device that reads it: by block, not by lease, so that it lasts as long as the device needs.
//!
//! ```text
//!   prospect ── what is resident, with length and checksum ──► the caller may have some of it elsewhere (GPU memory)
//!   hold_chain ── the rest, window by window ──► what is in host memory at once, what is on NVMe as it arrives
//! ```
//!
//! What is on NVMe is asked for a bounded way ahead, in small flights, so that whoever takes the windows works on one while
//! the next is read. A held block stays in host memory until dropped (INV-8). A block that cannot be brought up ends the
//! prefix; those before it are held. Whoever asked may go away at any point: what was held until then is let go of, flights
//! land by themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use kvtier_identity::{BlockId, Key, KeyRun, SpaceDigest};

use super::error::EngineError;
use super::get::settle;
use super::load::{Ask, HostPin};
use super::{Engine, Shared};
use crate::catalog::plan::{Miss, MissReason};
use crate::place::Slot;

/// Blocks of one flight. They arrive together, so what follows the last flight is short beside a chain; enough for a device
/// to have several transfers at a time of each.
const FLIGHT_COUNT: usize = 4;

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
    /// The domain of its tenant.
    pub domain: u8,
}

/// A block that stays in its host slot until this is dropped.
pub struct HeldBlock {
    /// Which.
    pub known: KnownBlock,
    /// Where.
    pub slot: Slot,
    /// It had to be brought up.
    pub staged: bool,
    _pin: HostPin,
}

/// A chain on its way into host memory, in its order.
pub struct Holding {
    shared: Arc<Shared>,
    blocks: Vec<KnownBlock>,
    /// Next block to hand out.
    cursor: usize,
    /// Asked for: `blocks[cursor..cursor + ahead.len()]`.
    ahead: VecDeque<Ahead>,
    /// Of those, payload bytes that are not in host memory yet.
    coming_bytes: u64,
}

struct Ahead {
    ask: Ask,
    /// Payload bytes it was asked to bring up.
    coming: u64,
}

/// A chain by its blocks' names.
#[derive(Debug, Clone)]
pub struct NamedChain {
    /// Number of its space.
    pub space: u32,
    /// The block before the first.
    pub parent: Option<BlockId>,
    /// In its order.
    pub blocks: Vec<BlockId>,
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
        let home = core.spaces.find(space)?;
        let (number, domain) = (home.record.number, home.domain);
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
        Ok(Prospect { blocks, miss, space: number, domain })
    }

    /// Begins to hold a chain in host memory, bringing up what is not there.
    pub fn hold_chain(&self, blocks: Vec<KnownBlock>) -> Holding {
        Holding { shared: Arc::clone(&self.shared), blocks, cursor: 0, ahead: VecDeque::new(), coming_bytes: 0 }
    }

    /// Whether a block is in any tier.
    pub fn is_resident(&self, block: BlockId) -> bool {
        self.shared.lock().catalog.peek(block).is_some()
    }

    /// The host copy of a block does not verify: nobody finds it any more (INV-1).
    pub fn discard_host_copy(&self, known: &KnownBlock) {
        let mut core = self.shared.lock();
        let records = core.catalog.condemn_host(self.shared.now(), known.block, known.crc);
        if !records.is_empty() {
            self.shared.meter.host.corrupt.add(1);
        }
        self.shared.journal(&mut core, records);
    }

    /// The names of a chain's blocks, and of the one before the first.
    pub fn name_chain(
        &self,
        space: &SpaceDigest,
        keys: &KeyRun<'_>,
        parent: Option<&Key>,
    ) -> Result<NamedChain, EngineError> {
        let blocks = self.chain_ids(space, keys)?;
        let core = self.shared.lock();
        let space = core.spaces.find(space)?;
        Ok(NamedChain { space: space.record.number, parent: parent.map(|key| space.block_id(key)), blocks })
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

impl Holding {
    /// The next blocks: waits for the first one, and adds what is there behind it. Empty: all were handed out. A miss ends
    /// the prefix; asking again asks for that block again.
    pub async fn next(&mut self) -> Result<Vec<HeldBlock>, Miss> {
        let mut window = Vec::new();
        loop {
            self.look_ahead();
            let Some(Ahead { ask, coming }) = self.ahead.pop_front() else { break };
            let ask = if window.is_empty() { ask } else { self.without_waiting(ask) };
            if !window.is_empty() && !matches!(ask, Ask::Ready(_)) {
                self.ahead.push_front(Ahead { ask, coming });
                break;
            }
            self.coming_bytes -= coming;
            let block = self.blocks[self.cursor];
            match settle(&self.shared, block.block, ask).await {
                Ok(pin) => window.push(held(block, pin, coming > 0)),
                Err(miss) => {
                    // What was asked for behind it is let go of; flights go on.
                    self.ahead.clear();
                    self.coming_bytes = 0;
                    return Err(miss);
                }
            }
            self.cursor += 1;
        }
        let meter = &self.shared.meter;
        meter.acquired_blocks.add(window.len() as u64);
        meter.acquired_bytes.add(window.iter().map(|block| u64::from(block.known.length)).sum());
        Ok(window)
    }

    /// The hold on a block whose flight has landed meanwhile.
    fn without_waiting(&self, ask: Ask) -> Ask {
        let Ask::Wait(mut landing) = ask else { return ask };
        match landing.try_recv() {
            Ok(None) => Ask::Wait(landing),
            Ok(Some(Err(miss))) => Ask::Miss(miss),
            // A flight that vanished leaves the block where it was.
            Ok(Some(Ok(()))) | Err(_) => {
                let mut legs = Vec::new();
                let again = self.shared.ask(&mut self.shared.lock(), self.blocks[self.cursor].block, &mut legs);
                self.shared.start_flight(legs);
                again
            }
        }
    }

    /// Asks for what comes next, up to a bound of bytes that are on their way.
    fn look_ahead(&mut self) {
        let asked = self.cursor + self.ahead.len();
        let bytes_max = self.shared.settings.read_ahead_bytes;
        let ended = self.ahead.back().is_some_and(|last| matches!(last.ask, Ask::Miss(_)));
        if asked == self.blocks.len() || ended || self.coming_bytes > bytes_max / 2 {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut legs = Vec::new();
        let mut core = shared.lock();
        for known in &self.blocks[asked..] {
            let bytes = u64::from(known.length);
            if self.coming_bytes > 0 && self.coming_bytes + bytes > bytes_max {
                break;
            }
            let ask = shared.ask(&mut core, known.block, &mut legs);
            let is_throttled = matches!(&ask, Ask::Miss(miss) if miss.reason == MissReason::Throttled);
            // Room may be short only because of what was asked for before: it comes back when that is let go of.
            if is_throttled && !self.ahead.is_empty() {
                break;
            }
            let coming = if matches!(ask, Ask::Wait(_)) { bytes } else { 0 };
            let is_miss = matches!(ask, Ask::Miss(_));
            self.coming_bytes += coming;
            self.ahead.push_back(Ahead { ask, coming });
            if is_miss {
                break;
            }
        }
        shared.write_back_admitted(&mut core);
        drop(core);
        while !legs.is_empty() {
            let rest = legs.split_off(legs.len().min(FLIGHT_COUNT));
            shared.start_flight(std::mem::replace(&mut legs, rest));
        }
    }
}

fn held(block: KnownBlock, pin: HostPin, staged: bool) -> HeldBlock {
    let copy = pin.copy();
    let known = KnownBlock { length: copy.length, crc: copy.crc, ..block };
    HeldBlock { known, slot: copy.slot, staged, _pin: pin }
}
