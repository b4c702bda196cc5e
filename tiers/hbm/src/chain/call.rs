//! One call for one chain, as a job.

use std::ops::Range;
use std::sync::Arc;

use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::{Memory, TierError};

use super::Keep;
use super::progress::{MoveError, MoveProgress, Progress};
use super::worker::WorkerMemory;
use crate::checksum::{SPANS_MAX, Span, finish};
use crate::gpu::{Gpu, GpuError, Lane, Place, Run};
use crate::layout::{BLOCKS_MAX, Direction, SURFACES_MAX, Shuffle, ShuffleBlock};
use crate::queue::{Alarm, Job, SCRATCH_BYTES, Work};
use crate::tier::HbmTier;

/// Canonical bytes of one kernel call at most; a call counts them in 31 bits.
const CALL_BYTES_MAX: u64 = 1 << 30;
/// Blocks of one chain at most.
const CHAIN_BLOCKS_MAX: usize = 65_536;
/// Blocks of a chain whose checksums the GPU has room to answer.
pub const CHECKED_BLOCKS_MAX: usize = (SCRATCH_BYTES / 4) as usize;

/// Where a block's canonical bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockPlace {
    /// In a slot of a host arena.
    Host(Slot),
    /// In a slot of the pool of the worker's GPU.
    Pool(Slot),
}

/// One block of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainBlock {
    /// Its number in the worker's memory.
    pub number: u64,
    /// Its canonical bytes. The caller owns the slot, or holds it for reading, until the move ends.
    pub place: BlockPlace,
    /// CRC32 of the whole block's canonical bytes; a load verifies it. Not looked at by a save.
    pub expect_crc: Option<u32>,
}

/// Which part of each block a worker has, when its blocks are shared between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOf {
    /// First byte of the part in the block's payload.
    pub offset: u32,
    /// Bytes of the whole payload: what a load's checksum covers.
    pub block_bytes: u32,
}

/// A move of a chain.
pub struct ChainMove {
    /// Gather: from the worker. Scatter: to it.
    pub direction: Direction,
    /// The chain; all in the pool or all in host memory.
    pub blocks: Vec<ChainBlock>,
    /// Ranges of layers, in the order in which they shall arrive; empty: all at once.
    pub layers: Vec<Range<u32>>,
    /// The worker's part of each block; none: the whole.
    pub part: Option<PartOf>,
    /// Slots in host memory that a save of whole blocks into the pool is copied on to, one per block; empty: none.
    pub onward: Vec<Slot>,
    /// Let go of when the move ends: what keeps slots and arenas.
    pub keep: Keep,
}

impl ChainMove {
    /// Of whole blocks, all layers at once.
    pub fn new(direction: Direction, blocks: Vec<ChainBlock>, keep: Keep) -> Self {
        Self { direction, blocks, layers: Vec::new(), part: None, onward: Vec::new(), keep }
    }
}

/// Why a move was not begun. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveRefused {
    /// The call makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Busy, poisoned or closed.
    #[error("{0}")]
    Tier(TierError),
}

struct MoveJob {
    worker: Arc<WorkerMemory>,
    memory: Arc<dyn Memory>,
    lane: Lane,
    direction: Direction,
    in_pool: bool,
    blocks: Vec<ChainBlock>,
    /// First byte of each block's payload.
    payloads: Vec<Place>,
    /// The same in host memory, where they are copied on to.
    onward: Vec<Place>,
    part: PartOf,
    layers: Vec<Range<u32>>,
    progress: Arc<Progress>,
    scratch: Option<Place>,
    /// The first block that did not verify.
    corrupt: Option<usize>,
    _keep: Keep,
}

impl WorkerMemory {
    /// Begins a move. It goes on whoever goes away.
    pub fn begin(self: &Arc<Self>, tier: &HbmTier, call: ChainMove) -> Result<MoveProgress, MoveRefused> {
        let layers = self.check_layers(call.layers)?;
        let part = self.check_part(call.part)?;
        let (payloads, in_pool) = self.check_blocks(&call.blocks, part)?;
        let saved = in_pool && call.direction == Direction::Gather;
        let onward = self.check_onward(&call.onward, if saved { payloads.len() } else { 0 }, part)?;
        let progress = Progress::new(layers.len());
        let lane = match call.direction {
            Direction::Scatter => Lane::LoadIn,
            Direction::Gather => Lane::SaveOut,
        };
        let job = MoveJob {
            worker: Arc::clone(self),
            memory: Arc::clone(tier.memory()),
            lane,
            direction: call.direction,
            in_pool,
            blocks: call.blocks,
            payloads,
            onward,
            part,
            layers,
            progress: Arc::clone(&progress),
            scratch: None,
            corrupt: None,
            _keep: call.keep,
        };
        let pushed = self.device.queue.push(Box::new(job));
        pushed.map_err(|(refused, _)| MoveRefused::Tier(self.device.refusal_of(&refused)))?;
        Ok(MoveProgress { progress })
    }

    fn check_layers(&self, asked: Vec<Range<u32>>) -> Result<Vec<Range<u32>>, MoveRefused> {
        let count = self.layout.layer_count();
        if asked.is_empty() {
            return Ok(std::iter::once(0..count).collect());
        }
        if asked.len() > count as usize {
            let text = format!("{} ranges of layers were asked for, there are {count} layers", asked.len());
            return Err(MoveRefused::Invalid(text));
        }
        match asked.iter().find(|range| range.start >= range.end || range.end > count) {
            Some(range) => {
                let text = format!("layers {}..{} are not a range of 0..{count}", range.start, range.end);
                Err(MoveRefused::Invalid(text))
            }
            None => Ok(asked),
        }
    }

    fn check_part(&self, part: Option<PartOf>) -> Result<PartOf, MoveRefused> {
        let own = u32::try_from(self.layout.block_bytes()).expect("the layout was validated");
        let part = part.unwrap_or(PartOf { offset: 0, block_bytes: own });
        match part.offset.checked_add(own).is_some_and(|end| end <= part.block_bytes) {
            true => Ok(part),
            false => {
                let PartOf { offset, block_bytes } = part;
                let text =
                    format!("a part of {own} bytes from {offset} does not lie in a block of {block_bytes} bytes");
                Err(MoveRefused::Invalid(text))
            }
        }
    }

    /// First payload byte of each block, and whether they are in the pool.
    fn check_blocks(&self, blocks: &[ChainBlock], part: PartOf) -> Result<(Vec<Place>, bool), MoveRefused> {
        let refuse = |text: String| Err(MoveRefused::Invalid(text));
        if !(1..=CHAIN_BLOCKS_MAX).contains(&blocks.len()) {
            return refuse(format!("a chain of {} blocks cannot move; 1 to {CHAIN_BLOCKS_MAX} can", blocks.len()));
        }
        let length = part.block_bytes;
        let mut pools = 0;
        let mut payloads = Vec::with_capacity(blocks.len());
        for (at, block) in blocks.iter().enumerate() {
            if block.number >= self.layout.block_count {
                let (number, count) = (block.number, self.layout.block_count);
                return refuse(format!("block {at} is to be number {number} of a worker's memory of {count} blocks"));
            }
            let header = match block.place {
                BlockPlace::Pool(slot) => {
                    pools += 1;
                    self.device
                        .pool_place(slot, length)
                        .map_err(|why| MoveRefused::Invalid(format!("block {at}: {why}")))?
                }
                BlockPlace::Host(slot) => self.check_host_slot(at, slot, length)?,
            };
            payloads.push(header.after(PAGE_BYTES));
        }
        if pools != 0 && pools != blocks.len() {
            return refuse(format!("{pools} of {} blocks are in the pool; move them in two calls", blocks.len()));
        }
        Ok((payloads, pools > 0))
    }

    fn check_host_slot(&self, at: usize, slot: Slot, length: u32) -> Result<Place, MoveRefused> {
        if u64::from(slot.bytes) < u64::from(length) + PAGE_BYTES {
            let text = format!("block {at} of {length} bytes does not fit a slot of {} bytes", slot.bytes);
            return Err(MoveRefused::Invalid(text));
        }
        self.device.host_place(slot).map_err(MoveRefused::Tier)
    }

    /// First payload byte of each host slot that a save into the pool goes on to.
    fn check_onward(&self, slots: &[Slot], saved: usize, part: PartOf) -> Result<Vec<Place>, MoveRefused> {
        let is_whole = u64::from(part.block_bytes) == self.layout.block_bytes();
        if !slots.is_empty() && (slots.len() != saved || !is_whole) {
            let text = format!("{} slots to copy on to, for {saved} whole blocks saved into the pool", slots.len());
            return Err(MoveRefused::Invalid(text));
        }
        let place = |(at, slot): (usize, &Slot)| self.check_host_slot(at, *slot, part.block_bytes);
        slots.iter().enumerate().map(|slot| Ok(place(slot)?.after(PAGE_BYTES))).collect()
    }
}

impl MoveJob {
    /// The host copies of a load, before the upload.
    fn find_corrupt_host_copy(&self) -> Option<usize> {
        let length = self.part.block_bytes;
        self.blocks.iter().position(|block| match (block.place, block.expect_crc) {
            (BlockPlace::Host(slot), Some(crc)) => self.memory.checksum(slot, 0, length) != crc,
            _ => false,
        })
    }

    fn range_of(&self, layers: &Range<u32>) -> Vec<Work> {
        let per_layer = self.worker.layout.surfaces_per_layer;
        let surfaces = (layers.start * per_layer) as usize..(layers.end * per_layer) as usize;
        let shape = self.worker.shape;
        let mut work = Vec::new();
        for first in surfaces.clone().step_by(SURFACES_MAX) {
            let places = &self.worker.surfaces[first..surfaces.end.min(first + SURFACES_MAX)];
            let room = CALL_BYTES_MAX / (shape.surface_bytes * places.len() as u64);
            let at_once = BLOCKS_MAX.min(usize::try_from(room).unwrap_or(BLOCKS_MAX)).max(1);
            for (blocks, payloads) in self.blocks.chunks(at_once).zip(self.payloads.chunks(at_once)) {
                let canonical = payloads.iter().map(|payload| payload.after(self.part.offset.into()));
                let blocks = blocks.iter().zip(canonical);
                let shuffle = Shuffle {
                    direction: self.direction,
                    shape,
                    surfaces: places.to_vec(),
                    first_surface: first as u32,
                    blocks: blocks.map(|(b, at)| ShuffleBlock { canonical: at, number: b.number }).collect(),
                };
                work.push(self.way_of(shuffle));
            }
        }
        work
    }

    /// Kernel or copy engines.
    fn way_of(&self, shuffle: Shuffle) -> Work {
        let copied_from = self.worker.device.copied_from().of(self.direction);
        if !self.in_pool && shuffle.shape.run_bytes >= copied_from {
            Work::Copy(shuffle.runs().collect())
        } else {
            Work::Shuffle(shuffle)
        }
    }

    /// From the pool to host memory: the bytes of the payload and no other, which may be another tenant's.
    fn copies_onward(&self) -> Vec<Run> {
        let bytes = self.part.block_bytes.into();
        self.payloads.iter().zip(&self.onward).map(|(from, to)| Run { from: *from, to: *to, bytes }).collect()
    }

    /// Checksums of the blocks in the pool, by the GPU, chunk by chunk; answers from the scratch memory's beginning.
    fn checksums(&self, scratch: Place) -> Vec<Work> {
        let bytes = self.part.block_bytes;
        let spans: Vec<_> = self.payloads.iter().map(|at| Span { at: *at, bytes }).collect();
        let chunk = |(number, spans): (usize, &[Span])| Work::Checksum {
            spans: spans.to_vec(),
            into: scratch.after((number * SPANS_MAX * 4) as u64),
        };
        spans.chunks(SPANS_MAX).enumerate().map(chunk).collect()
    }

    /// Whether the GPU computes checksums of this move: of loads that say what to expect, and of saves of whole blocks. A
    /// chain whose answers do not fit the scratch memory goes without.
    fn is_checked_on_gpu(&self) -> bool {
        let fits = self.blocks.len() <= CHECKED_BLOCKS_MAX;
        let moved: u32 = self.layers.iter().map(|layers| layers.end - layers.start).sum();
        let asked = match self.direction {
            Direction::Gather => moved >= self.worker.layout.layer_count() && self.is_whole(),
            Direction::Scatter => self.blocks.iter().any(|block| block.expect_crc.is_some()),
        };
        self.in_pool && asked && fits
    }

    fn is_whole(&self) -> bool {
        u64::from(self.part.block_bytes) == self.worker.layout.block_bytes()
    }

    fn read_checksums(&self, gpu: &dyn Gpu) -> Result<Vec<u32>, GpuError> {
        let Some(scratch) = self.scratch else { return Ok(Vec::new()) };
        let bytes = self.part.block_bytes;
        let mut raw = vec![0; self.blocks.len() * 4];
        gpu.read(scratch, &mut raw)?;
        let words = raw.as_chunks::<4>().0.iter().map(|word| finish(u32::from_le_bytes(*word), bytes));
        Ok(words.collect())
    }

    /// Compares what a load found in the pool.
    fn judge(&mut self, gpu: &dyn Gpu) {
        let found = self.read_checksums(gpu).unwrap_or_default();
        let wrong = |(block, found): (&ChainBlock, &u32)| block.expect_crc.is_some_and(|crc| crc != *found);
        self.corrupt = self.blocks.iter().zip(&found).position(wrong);
    }
}

impl Job for MoveJob {
    fn lane(&self) -> Lane {
        self.lane
    }

    fn operations(&self) -> usize {
        self.blocks.len()
    }

    fn stages(&mut self, scratch: Place) -> Vec<Vec<Work>> {
        if self.direction == Direction::Scatter {
            self.corrupt = self.find_corrupt_host_copy();
            if self.corrupt.is_some() {
                return Vec::new();
            }
        }
        let mut stages: Vec<Vec<Work>> = self.layers.iter().map(|layers| self.range_of(layers)).collect();
        if !self.onward.is_empty() {
            stages.last_mut().expect("a move has a range").push(Work::Copy(self.copies_onward()));
        }
        if self.is_checked_on_gpu() {
            self.scratch = Some(scratch);
            let checksums = self.checksums(scratch);
            match self.direction {
                Direction::Scatter => _ = stages[0].splice(..0, checksums),
                Direction::Gather => stages.last_mut().expect("a move has a range").extend(checksums),
            }
        }
        stages
    }

    fn alarm(&self) -> Alarm {
        let progress = Arc::clone(&self.progress);
        Box::new(move |error| progress.end(Err(MoveError::Failed(error.clone())), Vec::new()))
    }

    fn reached(&mut self, gpu: &dyn Gpu, stage: usize) {
        if stage == 0 && self.direction == Direction::Scatter && self.scratch.is_some() {
            self.judge(gpu);
        }
        if self.corrupt.is_none() {
            self.progress.reach(stage + 1);
        }
    }

    fn finish(self: Box<Self>, gpu: &dyn Gpu, result: Result<(), GpuError>) {
        let saved = self.direction == Direction::Gather && result.is_ok();
        let checksums = if saved { self.read_checksums(gpu) } else { Ok(Vec::new()) };
        let result = match self.corrupt {
            Some(place) => Err(MoveError::Corrupt { place }),
            None => result.and(checksums.as_ref().map(|_| ()).map_err(Clone::clone)).map_err(MoveError::Failed),
        };
        let progress = Arc::clone(&self.progress);
        // The slots are let go of before anybody hears of the end.
        drop(self);
        progress.end(result, checksums.unwrap_or_default());
    }
}
