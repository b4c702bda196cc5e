//! Loading a chain into a worker's memory.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use kvtier_engine::flow::hold::{HeldBlock, KnownBlock, PartRange, Prospect};
use kvtier_engine::header::SlotHeader;
use kvtier_identity::{Key, KeyRun};
use kvtier_proto::v1;
use tonic::Status;

use super::shelf::Load;
use super::{
    GpuRefusal, HotBlock, KvBlock, KvMemory, KvMove, KvProgress, KvWay, MOVES_MAX, MoveFailure, TURN_KEYS,
    check_numbers,
};
use crate::local::session::Session;
use crate::service::answer::{self, BadField};
use crate::service::ask;

impl Session {
    /// Brings the longest resident prefix up, holds it, and begins to load it.
    pub(crate) async fn load(&self, request: v1::LoadRequest) -> Result<v1::LoadResponse, Status> {
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
        let chain = Chain { memory: &memory, numbers: &request.blocks, part, layers, verify: !request.unverified };
        let hot = memory.hold_hot(&prospect.blocks);
        let from_pool = hot.len();
        let (held, miss) = engine.hold(&prospect.blocks[from_pool..]).await;
        let count = from_pool + held.len();
        let miss = miss.or(prospect.miss).as_ref().map(answer::miss);
        if count == 0 {
            return Ok(v1::LoadResponse { miss, ..v1::LoadResponse::default() });
        }
        chain.check_lengths(&prospect.blocks[..count])?;
        let mut moves = Vec::with_capacity(2);
        if let Err(told) = self.begin_load(&chain, &prospect, hot, held, &keys, &mut moves) {
            // Whoever is refused may use the blocks for something else at once: nothing may still be written there.
            for begun in moves {
                begun.wait_end().await.ok();
            }
            let (outcome, detail) = told.told()?;
            return Ok(refused(outcome, detail));
        }
        moves.iter().for_each(|progress| self.desk.moves.follow(self, progress));
        let load = self.desk.next_reservation();
        self.shelf.put_load(load, Load { moves });
        let (blocks, from_pool) = (count as u32, from_pool as u32);
        Ok(v1::LoadResponse { load, blocks, from_pool, miss, ..v1::LoadResponse::default() })
    }

    /// Begins the moves: what is in the pool, and what is in host memory. After an error those in `moves` are under way.
    fn begin_load(
        &self,
        chain: &Chain<'_>,
        prospect: &Prospect,
        hot: Vec<HotBlock>,
        held: Vec<HeldBlock>,
        keys: &KeyRun<'_>,
        moves: &mut Vec<Arc<dyn KvProgress>>,
    ) -> Result<(), GpuRefusal> {
        let (known, numbers) = (&prospect.blocks, chain.numbers);
        let from_pool = hot.len();
        if from_pool > 0 {
            let block = |((hot, known), number): ((&HotBlock, &KnownBlock), &u64)| KvBlock {
                number: *number,
                slot: hot.slot,
                crc: Some(known.crc),
            };
            let blocks = hot.iter().zip(known).zip(numbers).map(block).collect();
            let progress = chain.begin(true, blocks, Box::new(hot))?;
            self.forget_corrupt(chain.memory, &known[..from_pool], &progress);
            moves.push(progress);
        }
        if !held.is_empty() {
            let block = |(held, number): (&Arc<HeldBlock>, &u64)| KvBlock {
                number: *number,
                slot: held.slot,
                crc: chain.verify.then_some(held.known.crc),
            };
            let held: Vec<_> = held.into_iter().map(Arc::new).collect();
            let blocks = held.iter().zip(&numbers[from_pool..]).map(block).collect();
            moves.push(chain.begin(false, blocks, Box::new(held.clone()))?);
            let names = keys.iter().skip(from_pool).map(|key| Key::new(key).expect("a run has only good keys"));
            self.promote(chain.memory, prospect.space, held.into_iter().zip(names));
        }
        Ok(())
    }

    /// Copies what is used often, or pinned, to the pool of the GPU it was just loaded into.
    fn promote(&self, memory: &Arc<dyn KvMemory>, space: u32, loaded: impl Iterator<Item = (Arc<HeldBlock>, Key)>) {
        for (held, key) in loaded {
            let KnownBlock { block, length, crc, parent } = held.known;
            if memory.wants(block) {
                let Some(digest) = self.desk.engine.space_digest(space) else { return };
                let header = SlotHeader { block, space: digest, key, parent, length, crc, generation: 0 };
                memory.promote(header, space, held.slot, Box::new(held));
            }
        }
    }

    /// A copy in the pool that does not verify is not found again.
    fn forget_corrupt(&self, memory: &Arc<dyn KvMemory>, known: &[KnownBlock], progress: &Arc<dyn KvProgress>) {
        let (memory, end) = (Arc::downgrade(memory), progress.wait_end());
        let blocks: Vec<_> = known.iter().map(|known| known.block).collect();
        let watch = async move {
            if let Err(MoveFailure::Corrupt(at)) = end.await
                && let Some(memory) = memory.upgrade()
            {
                memory.forget_hot(blocks[at]);
            }
        };
        self.desk.spawn.spawn("gpu pool", Box::pin(watch));
    }
}

/// What the moves of a load have in common.
struct Chain<'a> {
    memory: &'a Arc<dyn KvMemory>,
    numbers: &'a [u64],
    part: PartRange,
    layers: Vec<Range<u32>>,
    verify: bool,
}

impl Chain<'_> {
    fn begin(
        &self,
        in_pool: bool,
        blocks: Vec<KvBlock>,
        keep: Box<dyn Any + Send>,
    ) -> Result<Arc<dyn KvProgress>, GpuRefusal> {
        let part = (self.part.offset, self.whole_bytes());
        let layers = self.layers.clone();
        self.memory.begin(KvMove { way: KvWay::Load, in_pool, blocks, part, layers, keep })
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
        match known.iter().position(|block| block.length != whole) {
            Some(at) => {
                let remedy = format!("the layout that was lent describes {whole}: load it with its own");
                Err(BadField::new(format!("keys[{at}]"), format!("a block of {} bytes", known[at].length), remedy))
            }
            None => Ok(()),
        }
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
