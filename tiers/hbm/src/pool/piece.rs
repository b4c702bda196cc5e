//! What a GPU keeps of a block, and where it is known to be kept.
//!
//! A block may be in several GPUs' pools: whole where engines are copies of each other, in pieces where its ranks share it, each
//! GPU with the piece that its rank loads. The catalog knows each of these copies by an id of its own, so that each GPU has
//! chains, evictions and pins that are its own; [`Places`] knows which copies a block has.

use std::collections::{BTreeMap, BTreeSet};

use kvtier_identity::BlockId;

/// Spreads a piece's place over an id. Odd, so that no two pieces of a block have one.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Some bytes of a block, on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Number of the GPU.
    pub gpu: u8,
    /// First byte in the block's payload.
    pub offset: u32,
    /// How many.
    pub bytes: u32,
}

impl Piece {
    /// All of a block of that length.
    pub fn whole(gpu: u8, length: u32) -> Self {
        Self { gpu, offset: 0, bytes: length }
    }

    /// Whether that is all of a block of that length.
    pub(crate) fn is_whole(self, length: u32) -> bool {
        self.offset == 0 && self.bytes == length
    }

    /// How the catalog knows this piece of a block of that length. Ids of blocks are uniform over 128 bits, and so are these.
    pub(crate) fn id_in(self, block: BlockId, length: u32) -> BlockId {
        let (offset, bytes) = if self.is_whole(length) { (0, 0) } else { (self.offset, self.bytes) };
        // The lowest bits decide where tables look for an id: each part of the place reaches them.
        let place = u128::from(bytes) << 40 | u128::from(offset) << 8 | u128::from(self.gpu);
        BlockId(block.0 ^ place.wrapping_mul(SPREAD))
    }
}

/// Of which block a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) gpu: u8,
    pub(crate) block: BlockId,
    pub(crate) parent: Option<BlockId>,
}

/// A copy, on its way or there.
#[derive(Debug)]
struct Copy {
    origin: Origin,
    /// Number of the put it came with: a later one may have its id while this one is given up.
    put: u64,
    /// Length and checksum of the whole block, once it is there.
    whole: Option<(u32, u32)>,
}

/// Copies in the pools by their ids, and by their blocks. Changes with the catalog, under its lock.
#[derive(Debug, Default)]
pub(crate) struct Places {
    copies: BTreeMap<BlockId, Copy>,
    /// Block, then copy.
    of_blocks: BTreeSet<(BlockId, BlockId)>,
}

impl Places {
    /// A copy is on its way.
    pub(crate) fn begin(&mut self, id: BlockId, put: u64, origin: Origin) {
        self.of_blocks.insert((origin.block, id));
        self.copies.insert(id, Copy { origin, put, whole: None });
    }

    /// It is there, of a block of this length and checksum: its origin, if it is the first one of its block on its GPU.
    pub(crate) fn arrive(&mut self, id: BlockId, whole: (u32, u32)) -> Option<Origin> {
        let origin = self.copies.get(&id)?.origin;
        let is_first = !self.is_on(origin.block, origin.gpu);
        self.copies.get_mut(&id)?.whole = Some(whole);
        is_first.then_some(origin)
    }

    /// It does not come.
    pub(crate) fn give_up(&mut self, id: BlockId, put: u64) {
        if self.copies.get(&id).is_some_and(|copy| copy.put == put) {
            self.remove(id);
        }
    }

    /// It has gone: its origin, if it was the last one of its block on its GPU.
    pub(crate) fn leave(&mut self, id: BlockId) -> Option<Origin> {
        self.whole_of(id)?;
        let origin = self.remove(id)?;
        (!self.is_on(origin.block, origin.gpu)).then_some(origin)
    }

    /// A GPU has gone: the copies that were there.
    pub(crate) fn leave_gpu(&mut self, gpu: u8) -> Vec<BlockId> {
        let there = self.copies.iter().filter(|(_, copy)| copy.origin.gpu == gpu && copy.whole.is_some());
        let there: Vec<_> = there.map(|(id, _)| *id).collect();
        there.iter().for_each(|id| _ = self.remove(*id));
        there
    }

    /// The copies of a block, those on their way as well.
    pub(crate) fn of(&self, block: BlockId) -> impl Iterator<Item = BlockId> {
        self.of_blocks.range((block, BlockId(0))..=(block, BlockId(u128::MAX))).map(|(_, id)| *id)
    }

    /// Length and checksum of the whole block that a copy, which is there, is of.
    pub(crate) fn whole_of(&self, id: BlockId) -> Option<(u32, u32)> {
        self.copies.get(&id)?.whole
    }

    fn remove(&mut self, id: BlockId) -> Option<Origin> {
        let Copy { origin, .. } = self.copies.remove(&id)?;
        self.of_blocks.remove(&(origin.block, id));
        Some(origin)
    }

    fn is_on(&self, block: BlockId, gpu: u8) -> bool {
        let is_there = |copy: &Copy| copy.origin.gpu == gpu && copy.whole.is_some();
        self.of(block).any(|id| self.copies.get(&id).is_some_and(is_there))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: BlockId = BlockId(0xabcd << 100);
    const WHOLE: (u32, u32) = (100, 7);

    fn origin(gpu: u8) -> Origin {
        Origin { gpu, block: BLOCK, parent: None }
    }

    #[test]
    fn every_piece_and_gpu_has_an_id_of_its_own() {
        let mut ids = BTreeSet::new();
        for gpu in 0..8 {
            ids.insert(Piece::whole(gpu, 100).id_in(BLOCK, 100));
            (0..4).for_each(|rank| _ = ids.insert(Piece { gpu, offset: 25 * rank, bytes: 25 }.id_in(BLOCK, 100)));
        }
        assert_eq!(ids.len(), 8 * 5);
        let low: BTreeSet<u64> = ids.iter().map(|id| id.0 as u64).collect();
        assert_eq!(low.len(), ids.len(), "tables and what was seen lately look at half of it");
        assert_eq!(Piece::whole(0, 100).id_in(BLOCK, 100), BLOCK);
        assert_ne!(Piece { gpu: 0, offset: 0, bytes: 50 }.id_in(BLOCK, 100), BLOCK, "half of it is not all of it");
    }

    #[test]
    fn a_block_is_on_a_gpu_from_its_first_copy_there_to_its_last() {
        let mut places = Places::default();
        let ids = [1, 2, 3].map(BlockId);
        for (id, gpu) in ids.into_iter().zip([0, 0, 1]) {
            places.begin(id, 1, origin(gpu));
        }
        let [one, two, other] = ids;
        let firsts = ids.map(|id| places.arrive(id, WHOLE).is_some());
        assert_eq!(firsts, [true, false, true]);
        assert_eq!(places.of(BLOCK).collect::<Vec<_>>(), ids);
        assert_eq!((places.leave(one), places.leave(one)), (None, None), "its other half is there");
        assert_eq!(places.leave(two), Some(origin(0)));
        assert_eq!(places.leave_gpu(1), [other]);
        assert_eq!(places.of(BLOCK).count(), 0);
    }

    #[test]
    fn a_copy_that_does_not_come_takes_no_later_one_with_it() {
        let mut places = Places::default();
        let id = BlockId(1);
        places.begin(id, 1, origin(0));
        assert_eq!((places.of(BLOCK).count(), places.whole_of(id), places.leave(id)), (1, None, None));
        places.begin(id, 2, origin(0));
        places.give_up(id, 1);
        assert_eq!(places.arrive(id, WHOLE), Some(origin(0)));
        assert_eq!(places.whole_of(id), Some(WHOLE));
        places.begin(BlockId(2), 3, origin(0));
        places.give_up(BlockId(2), 3);
        assert_eq!(places.of(BLOCK).collect::<Vec<_>>(), [id]);
    }
}
