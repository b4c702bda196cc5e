//! Reading blocks in order, with read-ahead.
//!
//! The reader asks for a window of blocks at once, so that one batch per window goes to the device, and delivers them
//! in the order they were asked for. It holds a block only while that block's bytes are in somebody's hands.

use std::collections::VecDeque;
use std::sync::Arc;

use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::ask::Got;
use super::error::EngineError;
use super::load::{Ask, HostPin};
use super::put::ROOM_PATIENCE;
use super::{Engine, Shared};
use crate::catalog::plan::{LeaseId, Miss, MissReason, OwnerId};
use crate::place::TierKind;

/// Blocks asked for under one hold of the core.
const WINDOW_COUNT_MAX: usize = 32;
/// How often a block that went away between landing and reading is asked for again.
const TRIES_MAX: usize = 3;

/// Delivers blocks in order.
pub struct BlockReader {
    shared: Arc<Shared>,
    blocks: Vec<BlockId>,
    /// Next block to deliver.
    cursor: usize,
    /// Asked for and not delivered yet: `blocks[cursor..cursor + ahead.len()]`.
    ahead: VecDeque<Ahead>,
    ahead_bytes: u64,
}

struct Ahead {
    ask: Ask,
    tier: TierKind,
    bytes: u64,
}

impl Engine {
    /// Reads blocks of a lease: `count` from `first`, 0 = to the end.
    pub fn get_lease(
        &self,
        lease: LeaseId,
        owner: OwnerId,
        first: u32,
        count: u32,
    ) -> Result<BlockReader, EngineError> {
        let core = self.shared.lock();
        let blocks = core.catalog.leased(self.shared.now(), lease, owner)?;
        let range = range_of(blocks.len(), first, count)?;
        Ok(self.reader(blocks[range].iter().map(|index| core.catalog.block_of(*index)).collect()))
    }

    /// Reads blocks by key, resident or not.
    pub async fn get_keys(
        &self,
        space: &SpaceDigest,
        keys: &[Key],
        first: u32,
        count: u32,
    ) -> Result<BlockReader, EngineError> {
        let range = range_of(keys.len(), first, count)?;
        let blocks = self.block_ids(space, &keys[range])?;
        self.fault_in(&blocks).await?;
        Ok(self.reader(blocks))
    }

    fn reader(&self, blocks: Vec<BlockId>) -> BlockReader {
        BlockReader { shared: Arc::clone(&self.shared), blocks, cursor: 0, ahead: VecDeque::new(), ahead_bytes: 0 }
    }
}

impl BlockReader {
    /// The next block, or none at the end.
    pub async fn next(&mut self) -> Option<Got> {
        self.look_ahead();
        let Ahead { ask, tier, bytes } = self.ahead.pop_front()?;
        let block = self.blocks[self.cursor];
        self.cursor += 1;
        self.ahead_bytes -= bytes;
        let shared = Arc::clone(&self.shared);
        shared.meter.get_blocks.add(1);
        let got = match settle(&shared, block, ask).await {
            Ok(pin) => {
                let (bytes, crc) = pin.into_view();
                shared.meter.got(tier, bytes.len() as u64);
                Got::Block { bytes, crc, tier }
            }
            Err(miss) => {
                shared.meter.missed(miss.reason);
                Got::Miss(miss)
            }
        };
        Some(got)
    }

    /// Asks for the next window once half of the last one is delivered.
    fn look_ahead(&mut self) {
        let asked = self.cursor + self.ahead.len();
        if asked == self.blocks.len() || self.ahead.len() > WINDOW_COUNT_MAX / 2 {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut legs = Vec::new();
        let mut core = shared.lock();
        for block in &self.blocks[asked..] {
            let resident = core.catalog.peek(*block);
            let bytes = resident.map_or(0, |resident| u64::from(resident.length));
            let full = self.ahead_bytes + bytes > shared.settings.read_ahead_bytes;
            if self.ahead.len() >= WINDOW_COUNT_MAX || (full && !self.ahead.is_empty()) {
                break;
            }
            let tier = resident.map_or(TierKind::Host, |resident| resident.tier);
            let ask = shared.ask(&mut core, *block, &mut legs);
            // Room may be short only because of what was asked for before: it comes back when that is delivered.
            if !self.ahead.is_empty() && matches!(&ask, Ask::Miss(miss) if miss.reason == MissReason::Throttled) {
                break;
            }
            self.ahead_bytes += bytes;
            self.ahead.push_back(Ahead { ask, tier, bytes });
        }
        drop(core);
        shared.start_flight(legs);
    }
}

/// Waits until the block is in host memory and holds it. While the host tier is full of blocks on their way to NVMe, it
/// waits for them, at most [`ROOM_PATIENCE`].
pub(super) async fn settle(shared: &Arc<Shared>, block: BlockId, mut ask: Ask) -> Result<HostPin, Miss> {
    let throttled = Miss { reason: MissReason::Throttled, age: None, tier: Some(TierKind::Nvme) };
    let deadline = shared.now().after(ROOM_PATIENCE);
    let mut tries = 0;
    loop {
        match ask {
            Ask::Ready(pin) => return Ok(pin),
            Ask::Miss(miss) if miss.reason == MissReason::Throttled && shared.room(deadline).await => {}
            Ask::Miss(miss) => return Err(miss),
            Ask::Wait(_) if tries == TRIES_MAX => return Err(throttled),
            // A flight that vanished (shutdown) leaves the block where it was.
            Ask::Wait(landing) => {
                tries += 1;
                landing.await.unwrap_or(Err(throttled))?;
            }
        }
        let mut legs = Vec::new();
        let mut core = shared.lock();
        ask = shared.ask(&mut core, block, &mut legs);
        drop(core);
        shared.start_flight(legs);
    }
}

fn range_of(length: usize, first: u32, count: u32) -> Result<std::ops::Range<usize>, EngineError> {
    let first = first as usize;
    if first > length {
        return Err(EngineError::invalid("first", first, format!("there are {length} blocks, numbered from 0")));
    }
    let end = match count {
        0 => length,
        count => first.saturating_add(count as usize),
    };
    if end > length {
        let remedy = format!("there are {length} blocks: ask for at most {}", length - first);
        return Err(EngineError::invalid("count", count, remedy));
    }
    Ok(first..end)
}
