//! Loading a chain into a worker's memory: what is in the pool and in host memory at once, what is on NVMe as it arrives.
//!
//! ```text
//!   NVMe ─► host memory    │ flight 1 │ flight 2 │ flight 3 │
//!   host memory ─► worker             │ window 1 │ window 2 │ window 3 │
//! ```
//!
//! The answer comes when the last block is in host memory, because only then it is known how long the prefix is. The blocks
//! before it are on their way, or there. A window that was loaded lets go of its host slots, so that a chain may be longer
//! than host memory.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use kvtier_engine::catalog::plan::{Miss, MissReason};
use kvtier_engine::flow::hold::{HeldBlock, KnownBlock, PartRange};
use kvtier_engine::header::SlotHeader;
use kvtier_identity::{Key, KeyRun};
use kvtier_proto::v1;
use tonic::Status;

use super::windows::Windows;
use super::{
    GpuRefusal, HotBlock, KvBlock, KvMemory, KvMove, KvProgress, KvWay, MOVES_MAX, MoveFailure, TURN_KEYS,
    check_numbers,
};
use crate::local::session::Session;
use crate::requests;
use crate::service::answer::{self, BadField};
use crate::service::ask;

/// Why a load does not go on.
enum Broken {
    /// The GPU does not take it.
    Refused(GpuRefusal),
    /// A block is not what the chain was said to be.
    Field(BadField),
}

impl From<GpuRefusal> for Broken {
    fn from(refusal: GpuRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BadField> for Broken {
    fn from(field: BadField) -> Self {
        Self::Field(field)
    }
}

impl Session {
    /// Loads the longest resident prefix; answers when it is known how long that is.
    pub(crate) async fn load(&self, request: v1::LoadRequest) -> Result<v1::LoadResponse, Status> {
        let Some(name) = requests::name_of(&request.request)? else { return self.load_chain(&request, &mut 0).await };
        let space = self.space(&request.space)?;
        let asked = ask::key_run(&request.keys, request.key_bytes, &request.key_lengths)?.len();
        let mut staged = 0;
        let answer = self.load_chain(&request, &mut staged).await;
        self.desk.request_log.note(&self.tenant, name, requests::loaded(space, asked, staged, &answer));
        answer
    }

    /// The same; counts the blocks that had to be brought up.
    async fn load_chain(&self, request: &v1::LoadRequest, staged: &mut u32) -> Result<v1::LoadResponse, Status> {
        let memory = self.shelf.memory(request.memory)?;
        let space = self.space(&request.space)?;
        let keys = ask::key_run(&request.keys, request.key_bytes, &request.key_lengths)?;
        check_numbers(&request.blocks, keys.len(), &*memory)?;
        let layers = ranges(&request.layer_ends, memory.layer_count())?;
        let engine = &self.desk.engine;
        let part = engine.part_range(&space, request.part).map_err(answer::status)?;
        if !self.shelf.has_room() {
            let detail = format!("{MOVES_MAX} loads of this connection are under way: wait for the end of one");
            return Ok(refused(v1::MoveOutcome::Busy, detail));
        }
        if keys.len() > TURN_KEYS {
            tokio::task::yield_now().await;
        }
        let prospect = engine.prospect(&space, &keys).await.map_err(answer::status)?;
        let (numbers, verify, space) = (&request.blocks[..], !request.unverified, prospect.space);
        let mut chain = Chain {
            session: self,
            memory,
            numbers,
            part,
            layers,
            verify,
            space,
            staged: 0,
            windows: Windows::default(),
        };
        match chain.load(prospect.blocks, &keys).await {
            Ok(Loaded { blocks, from_pool, miss }) => {
                *staged = chain.staged;
                let miss = miss.or(prospect.miss).as_ref().map(answer::miss);
                if blocks == 0 {
                    return Ok(v1::LoadResponse { miss, ..v1::LoadResponse::default() });
                }
                let load = self.desk.next_reservation();
                self.shelf.put_load(load, chain.windows);
                let (blocks, from_pool) = (blocks as u32, from_pool as u32);
                Ok(v1::LoadResponse { load, blocks, from_pool, miss, ..v1::LoadResponse::default() })
            }
            Err(why) => {
                // Whoever is refused may use the blocks for something else at once: nothing may still be written there.
                chain.windows.wait(None).await.ok();
                match why {
                    Broken::Field(field) => Err(field.into()),
                    Broken::Refused(refusal) => {
                        let (outcome, detail) = refusal.told()?;
                        Ok(refused(outcome, detail))
                    }
                }
            }
        }
    }
}

/// What became of a load.
struct Loaded {
    blocks: usize,
    from_pool: usize,
    miss: Option<Miss>,
}

/// A load of a chain.
struct Chain<'a> {
    session: &'a Session,
    memory: Arc<dyn KvMemory>,
    numbers: &'a [u64],
    part: PartRange,
    layers: Vec<Range<u32>>,
    verify: bool,
    space: u32,
    /// Blocks that had to be brought up.
    staged: u32,
    windows: Windows,
}

impl Chain<'_> {
    /// Begins all of it, window by window. After an error some windows may be under way.
    async fn load(&mut self, mut known: Vec<KnownBlock>, keys: &KeyRun<'_>) -> Result<Loaded, Broken> {
        self.check_lengths(&known)?;
        let hot = self.memory.hold_hot(self.part.offset, &known);
        let from_pool = hot.len();
        let rest = known.split_off(from_pool);
        if from_pool > 0 {
            self.begin_hot(known, hot).await?;
        }
        let mut holding = self.session.desk.engine.hold_chain(rest);
        let mut at = from_pool;
        let miss = loop {
            match holding.next().await {
                Ok(window) if window.is_empty() => break None,
                Ok(window) => {
                    let count = window.len();
                    self.begin_held(at, window, keys).await?;
                    at += count;
                }
                // What is on its way to the worker comes back into host memory's room.
                Err(miss) if miss.reason == MissReason::Throttled && self.windows.wait_for_one().await => {}
                Err(miss) => break Some(miss),
            }
        };
        Ok(Loaded { blocks: at, from_pool, miss })
    }

    /// Begins the window that is in the pool: the first one.
    async fn begin_hot(&mut self, known: Vec<KnownBlock>, hot: Vec<HotBlock>) -> Result<(), Broken> {
        let block = |(hot, number): (&HotBlock, &u64)| KvBlock { number: *number, slot: hot.slot, crc: Some(hot.crc) };
        let blocks = hot.iter().zip(self.numbers).map(block).collect();
        let hot = Arc::new(hot);
        let progress = self.begin(0, true, blocks, || Box::new(Arc::clone(&hot))).await?;
        let (memory, offset) = (Arc::downgrade(&self.memory), self.part.offset);
        self.watch(&progress, move |at| {
            if let Some(memory) = memory.upgrade() {
                memory.forget_corrupt(offset, &known[at]);
            }
        });
        Ok(())
    }

    /// Begins a window that is in host memory, and keeps what of it is used often, or pinned, in the pool.
    async fn begin_held(&mut self, first: usize, window: Vec<HeldBlock>, keys: &KeyRun<'_>) -> Result<(), Broken> {
        let held: Vec<Arc<HeldBlock>> = window.into_iter().map(Arc::new).collect();
        for (at, block) in held.iter().enumerate() {
            self.check_length(first + at, block.known.length)?;
            self.staged += u32::from(block.staged);
        }
        let block = |(held, number): (&Arc<HeldBlock>, &u64)| KvBlock {
            number: *number,
            slot: held.slot,
            crc: self.verify.then_some(held.known.crc),
        };
        let blocks = held.iter().zip(&self.numbers[first..]).map(block).collect();
        let progress = self.begin(first, false, blocks, || Box::new(held.clone())).await?;
        if self.verify {
            let engine = self.session.desk.engine.clone();
            let known: Vec<_> = held.iter().map(|held| held.known).collect();
            self.watch(&progress, move |at| engine.discard_host_copy(&known[at]));
        }
        for (held, at) in held.into_iter().zip(first..) {
            let KnownBlock { block, length, crc, parent } = held.known;
            if !self.memory.wants(self.part.offset, &held.known) {
                continue;
            }
            let Some(digest) = self.session.desk.engine.space_digest(self.space) else { break };
            let key = Key::new(keys.get(at)).expect("a run has only good keys");
            let header = SlotHeader { block, space: digest, key, parent, length, crc, generation: 0 };
            let (known, engine) = (held.known, self.session.desk.engine.clone());
            let promoted = self.memory.promote(self.part.offset, header, self.space, held.slot, Box::new(held));
            if !engine.is_resident(block) {
                // Removed after it was held: nobody told the pool, which did not know it yet.
                self.memory.forget_hot(block);
            }
            let watch = async move {
                if !promoted.await {
                    engine.discard_host_copy(&known);
                }
            };
            self.session.desk.spawn.spawn("gpu corrupt", Box::pin(watch));
        }
        Ok(())
    }

    /// Begins one window. While the GPU's queue is full of this load's own windows, it waits for one of them.
    async fn begin(
        &mut self,
        first: usize,
        in_pool: bool,
        blocks: Vec<KvBlock>,
        keep: impl Fn() -> Box<dyn Any + Send>,
    ) -> Result<Arc<dyn KvProgress>, GpuRefusal> {
        self.windows.wait_for_room().await;
        let part = match in_pool {
            // Nothing but the worker's part is there.
            true => (0, self.memory.block_bytes()),
            false => (self.part.offset, self.whole_bytes()),
        };
        loop {
            let (blocks, layers) = (blocks.clone(), self.layers.clone());
            let onward = Vec::new();
            let call = KvMove { way: KvWay::Load, in_pool, blocks, part, onward, layers, keep: keep() };
            match self.memory.begin(call) {
                Ok(progress) => {
                    self.session.desk.moves.follow(self.session, &progress);
                    self.windows.push(first, Arc::clone(&progress));
                    return Ok(progress);
                }
                Err(GpuRefusal::Busy(_)) if self.windows.wait_for_one().await => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// Does something about the block of a window that turns out not to verify.
    fn watch(&self, progress: &Arc<dyn KvProgress>, corrupt: impl FnOnce(usize) + Send + 'static) {
        let end = progress.wait_end();
        let watch = async move {
            if let Err(MoveFailure::Corrupt(at)) = end.await {
                corrupt(at);
            }
        };
        self.session.desk.spawn.spawn("gpu corrupt", Box::pin(watch));
    }

    fn whole_bytes(&self) -> u32 {
        self.part.block_bytes.unwrap_or(self.memory.block_bytes())
    }

    /// Every block is as long as the layout says, and the worker's part lies in it.
    fn check_lengths(&self, known: &[KnownBlock]) -> Result<(), BadField> {
        let (own, whole, offset) = (self.memory.block_bytes(), self.whole_bytes(), self.part.offset);
        if offset.checked_add(own).is_none_or(|end| end > whole) {
            let remedy = format!("that part begins at byte {offset} of a block of {whole}: lend a layout that fits it");
            return Err(BadField::new("memory", format!("laid out for {own} bytes a block"), remedy));
        }
        known.iter().enumerate().try_for_each(|(at, block)| self.check_length(at, block.length))
    }

    fn check_length(&self, at: usize, length: u32) -> Result<(), BadField> {
        let whole = self.whole_bytes();
        if length == whole {
            return Ok(());
        }
        let remedy = format!("the layout that was lent describes {whole}: load it with its own");
        Err(BadField::new(format!("keys[{at}]"), format!("a block of {length} bytes"), remedy))
    }
}

fn refused(outcome: v1::MoveOutcome, detail: String) -> v1::LoadResponse {
    v1::LoadResponse { outcome: outcome.into(), detail, ..v1::LoadResponse::default() }
}

/// Consecutive ranges from their ends.
fn ranges(ends: &[u32], layers: u32) -> Result<Vec<Range<u32>>, BadField> {
    let mut begin = 0;
    let mut ranges = Vec::with_capacity(ends.len().min(layers as usize));
    for (at, end) in ends.iter().enumerate() {
        if *end <= begin || *end > layers {
            let remedy = format!("ends of ranges grow, from more than 0 to the number of layers, {layers}");
            return Err(BadField::new(format!("layer_ends[{at}]"), end, remedy));
        }
        ranges.push(begin..*end);
        begin = *end;
    }
    if !ends.is_empty() && begin != layers {
        return Err(BadField::new("layer_ends", begin, format!("the last one is the number of layers, {layers}")));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_ranges_cut_all_layers_into_pieces() {
        assert_eq!(ranges(&[], 4), Ok(vec![]));
        assert_eq!(ranges(&[1, 3, 4], 4), Ok(vec![0..1, 1..3, 3..4]));
        for bad in [&[0][..], &[2, 2], &[3], &[5], &[3, 1, 4]] {
            assert!(ranges(bad, 4).is_err(), "{bad:?}");
        }
    }
}
