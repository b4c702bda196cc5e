//! Loading a chain into a worker's memory.

use std::ops::Range;

use kvtier_engine::flow::hold::{HeldBlock, PartRange};
use kvtier_proto::v1;
use tonic::Status;

use super::shelf::Load;
use super::{GpuRefusal, KvBlock, KvMemory, KvMove, KvWay, MOVES_MAX, check_numbers};
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
        let prospect = engine.prospect(&space, &keys).await.map_err(answer::status)?;
        let blocks: Vec<_> = prospect.blocks.iter().map(|known| known.block).collect();
        let (held, miss) = engine.hold(&blocks).await;
        let miss = miss.or(prospect.miss).as_ref().map(answer::miss);
        if held.is_empty() {
            return Ok(v1::LoadResponse { miss, ..v1::LoadResponse::default() });
        }
        let part = check_lengths(&held, part, &*memory)?;
        let block = |(held, number): (&HeldBlock, &u64)| KvBlock {
            number: *number,
            slot: held.slot,
            crc: (!request.unverified).then_some(held.known.crc),
        };
        let blocks: Vec<_> = held.iter().zip(&request.blocks).map(block).collect();
        let count = blocks.len() as u32;
        let call = KvMove { way: KvWay::Load, blocks, part, layers, keep: Box::new(held) };
        let progress = match memory.begin(call).map_err(GpuRefusal::told) {
            Ok(progress) => progress,
            Err(told) => {
                let (outcome, detail) = told?;
                return Ok(refused(outcome, detail));
            }
        };
        self.desk.moves.follow(self, &progress);
        let load = self.desk.next_reservation();
        self.shelf.put_load(load, Load { moves: vec![progress] });
        Ok(v1::LoadResponse { load, blocks: count, miss, ..v1::LoadResponse::default() })
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

/// First byte of the worker's part and bytes of the whole block, if every block is as long as the layout says.
fn check_lengths(held: &[HeldBlock], part: PartRange, memory: &dyn KvMemory) -> Result<(u32, u32), BadField> {
    let own = memory.block_bytes();
    let whole = part.block_bytes.unwrap_or(own);
    if part.offset.checked_add(own).is_none_or(|end| end > whole) {
        let remedy =
            format!("that part begins at byte {} of a block of {whole}: lend a layout that fits it", part.offset);
        return Err(BadField::new("memory", format!("laid out for {own} bytes a block"), remedy));
    }
    match held.iter().position(|block| block.known.length != whole) {
        Some(at) => {
            let remedy = format!("the layout that was lent describes {whole}: load it with its own");
            Err(BadField::new(format!("keys[{at}]"), format!("a block of {} bytes", held[at].known.length), remedy))
        }
        None => Ok((part.offset, whole)),
    }
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
