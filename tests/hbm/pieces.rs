//! Blocks that are in several GPUs' pools, whole or in pieces.

use std::sync::Arc;

use kvtier_engine::place::PAGE_BYTES;
use kvtier_hbm::conformance::Shuttle;
use kvtier_hbm::gpu::{Gpu, Place};
use kvtier_hbm::pool::{Piece, PoolNews, Promotion};
use kvtier_identity::BlockId;

use super::pool::{Hot, LENGTH};
use super::rig::slot;

/// What each of two ranks has of a block: no whole pages.
const FIRST: u32 = 20_001;
const RANKS: [Piece; 2] =
    [Piece { gpu: 0, offset: 0, bytes: FIRST }, Piece { gpu: 1, offset: FIRST, bytes: LENGTH - FIRST }];

impl Hot {
    fn promote_piece(&self, piece: Piece, number: u64, parent: Option<u64>) -> Promotion {
        self.rig.run(self.begin(piece, number, parent))
    }

    fn held(&self, piece: Piece, numbers: impl IntoIterator<Item = u64>) -> usize {
        let chain: Vec<_> = numbers.into_iter().map(Self::known).collect();
        self.pool.hold(piece, &chain).len()
    }
}

fn part(number: u64, piece: Piece) -> Vec<u8> {
    Hot::bytes(number)[piece.offset as usize..(piece.offset + piece.bytes) as usize].to_vec()
}

#[test]
fn each_gpu_keeps_the_piece_of_its_rank_and_nothing_else() {
    let hot = Hot::on_gpus(2);
    for piece in RANKS {
        assert_eq!(hot.promote_piece(piece, 1, None), Promotion::Stored);
        assert_eq!(hot.promote_piece(piece, 2, Some(1)), Promotion::Stored);
        assert_eq!(hot.promote_piece(piece, 2, Some(1)), Promotion::Duplicate);
    }
    for piece in RANKS {
        let held = hot.pool.hold(piece, &[Hot::known(1), Hot::known(2)]);
        assert_eq!(held.len(), 2);
        for (number, held) in (1..).zip(held) {
            let wanted = part(number, piece);
            assert_eq!((held.slot.device, held.expect.length), (piece.gpu.into(), piece.bytes));
            assert_eq!(held.expect.crc, crc32fast::hash(&wanted));
            let memory = hot.rig.tier.pool_memory(held.slot.device).expect("the GPU has a pool");
            let place = Place { memory, offset: held.slot.offset + PAGE_BYTES };
            let gpu = Arc::clone(&hot.rig.gpus[usize::from(piece.gpu)]) as Arc<dyn Gpu>;
            let shuttle = Shuttle::new(&gpu).expect("pinned memory");
            let found = shuttle.download(place, wanted.len()).expect("read");
            assert!(found == wanted, "block {number} on GPU {}", piece.gpu);
        }
    }
    let other_way_round = Piece { gpu: 1, ..RANKS[0] };
    assert_eq!((hot.held(other_way_round, [1]), hot.held(Piece::whole(0, LENGTH), [1])), (0, 0));
}

#[test]
fn a_child_goes_where_its_parents_piece_is() {
    let hot = Hot::on_gpus(2);
    assert_eq!(hot.promote_piece(RANKS[0], 1, None), Promotion::Stored);
    assert!(matches!(hot.promote_piece(RANKS[1], 2, Some(1)), Promotion::Declined(_)), "its parent is not there");
    assert_eq!(hot.promote_piece(RANKS[0], 2, Some(1)), Promotion::Stored);
}

#[test]
fn engines_that_are_copies_of_each_other_have_one_block_on_each_gpu() {
    let hot = Hot::on_gpus(3);
    let on = |gpu| Piece::whole(gpu, LENGTH);
    (0..3).for_each(|gpu| assert_eq!(hot.promote_piece(on(gpu), 1, None), Promotion::Stored));
    (0..3).for_each(|gpu| assert_eq!(hot.held(on(gpu), [1]), 1));
    // Twenty others push it out of two of them; it is brought back from the third.
    for gpu in [0, 2] {
        (10..30).for_each(|number| assert_eq!(hot.promote_piece(on(gpu), number, None), Promotion::Stored));
        assert_eq!(hot.held(on(gpu), [1]), 0);
    }
    let (block, length, crc) = Hot::known(1);
    let expect = kvtier_engine::port::tier::Expect { block, length, crc, generation: 7 };
    let fetched = hot.pool.fetch(&expect, slot(3, LENGTH)).expect("GPU 1 has it");
    assert_eq!(hot.rig.run(fetched), kvtier_engine::flow::annex::Fetched::Verified);
}

#[test]
fn a_removed_block_leaves_every_gpu_and_is_told_of_once_for_each() {
    let hot = Hot::on_gpus(2);
    let both = Piece { gpu: 0, offset: FIRST, bytes: LENGTH - FIRST };
    for piece in [RANKS[0], both, RANKS[1]] {
        assert_eq!(hot.promote_piece(piece, 1, None), Promotion::Stored);
    }
    let stored = |news: &PoolNews| match news {
        PoolNews::Stored { gpu, block: BlockId(1), .. } => *gpu,
        other => panic!("{other:?}"),
    };
    assert_eq!(hot.told().iter().map(stored).collect::<Vec<_>>(), [0, 1], "two pieces on a GPU are one block there");
    hot.pool.forget(BlockId(1));
    let removed = |gpu| PoolNews::Removed { gpu, block: BlockId(1) };
    let told = hot.told();
    assert!(told.len() == 2 && told.contains(&removed(0)) && told.contains(&removed(1)), "{told:?}");
    assert_eq!((hot.pool.count().blocks, hot.pool.count().slot_bytes), (0, 0));
}

#[test]
fn a_block_that_is_removed_on_its_way_does_not_come() {
    let hot = Hot::on_gpus(2);
    let promoting = hot.begin(RANKS[1], 1, None);
    hot.pool.forget(BlockId(1));
    // The next one of that name is not taken for it.
    let again = hot.begin(RANKS[1], 1, None);
    assert_eq!(hot.rig.run(promoting), Promotion::GivenUp);
    assert_eq!(hot.rig.run(again), Promotion::Stored);
    assert_eq!((hot.held(RANKS[1], [1]), hot.told().len()), (1, 1));
    hot.pool.forget(BlockId(1));
    assert_eq!(hot.pool.count().slot_bytes, 0);
}

#[test]
fn a_piece_of_a_block_with_other_bytes_is_a_miss() {
    let hot = Hot::on_gpus(2);
    assert_eq!(hot.promote_piece(RANKS[1], 1, None), Promotion::Stored);
    let (block, length, crc) = Hot::known(1);
    assert_eq!(hot.pool.hold(RANKS[1], &[(block, length, crc ^ 1)]).len(), 0);
    assert_eq!(hot.held(RANKS[1], [1]), 0, "and is forgotten");
}

#[test]
fn a_host_copy_that_is_damaged_where_the_piece_is_not_is_not_taken() {
    let hot = Hot::on_gpus(2);
    let promoting = hot.begin(RANKS[1], 1, None);
    kvtier_engine::port::Memory::write(&*hot.rig.memory, slot(0, LENGTH), 5, &[1, 2, 3]);
    assert!(matches!(hot.rig.run(promoting), Promotion::Corrupt(_)));
    assert_eq!(hot.pool.count().slot_bytes, 0);
}

#[test]
fn a_piece_that_does_not_verify_is_forgotten_and_counted_and_its_fellow_stays() {
    let hot = Hot::on_gpus(2);
    RANKS.into_iter().for_each(|piece| assert_eq!(hot.promote_piece(piece, 1, None), Promotion::Stored));
    let (block, length, crc) = Hot::known(1);
    hot.pool.forget_corrupt(RANKS[1], block, (length, crc ^ 1));
    assert_eq!(hot.held(RANKS[1], [1]), 1, "that was another one");
    hot.pool.forget_corrupt(RANKS[1], block, (length, crc));
    assert_eq!((hot.held(RANKS[0], [1]), hot.held(RANKS[1], [1]), hot.pool.count().corrupt), (1, 0, 1));
}

#[test]
fn each_rank_has_to_use_a_piece_twice() {
    let hot = Hot::on_gpus(2);
    let (block, length, _) = Hot::known(1);
    let wants = || RANKS.map(|piece| hot.pool.wants(piece, block, length));
    assert_eq!([wants(), wants()], [[false; 2], [true; 2]]);
}

#[test]
fn a_pin_keeps_every_piece() {
    let hot = Hot::on_gpus(2);
    assert!(hot.pool.wish(1, "agent", &[BlockId(1)], std::time::Duration::from_secs(30)));
    for piece in RANKS {
        assert_eq!(hot.promote_piece(piece, 1, None), Promotion::Stored);
        (10..60).for_each(|number| assert_eq!(hot.promote_piece(piece, number, None), Promotion::Stored));
        assert_eq!(hot.held(piece, [1]), 1);
    }
    assert!(hot.pool.unpin(1, "agent"));
    for piece in RANKS {
        (60..110).for_each(|number| assert_eq!(hot.promote_piece(piece, number, None), Promotion::Stored));
        assert_eq!(hot.held(piece, [1]), 0);
    }
}

#[test]
fn what_a_space_may_pin_is_pinned_on_every_gpu() {
    let hot = Hot::on_gpus(2);
    // 0.9 of what it may pin.
    let pinned: Vec<_> = (0..20).map(BlockId).collect();
    assert!(hot.pool.wish(1, "agent", &pinned, std::time::Duration::from_secs(30)));
    for piece in [0, 1].map(|gpu| Piece::whole(gpu, LENGTH)) {
        (0..20).for_each(|number| assert_eq!(hot.promote_piece(piece, number, None), Promotion::Stored));
        let full = Promotion::Declined(kvtier_engine::catalog::plan::Decline::HostFull);
        assert_eq!(hot.promote_piece(piece, 50, None), full, "every slot is pinned");
    }
}
