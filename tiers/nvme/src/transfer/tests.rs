use std::any::Any;

use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;

fn piece(keep: &Arc<dyn Any + Send + Sync>, disk_page: u64, host_page: u64, pages: u32, tag: usize) -> Piece<usize> {
    let region = Region {
        address: (host_page * PAGE) as usize,
        arena_offset: host_page * PAGE,
        bytes: pages * PAGE as u32,
        keep: keep.clone(),
    };
    Piece { offset: disk_page * PAGE, bytes: pages * PAGE as u32, region, tag }
}

/// Tags of each transfer, chunks joined.
fn shape(chunks: &[Vec<Transfer<usize>>]) -> Vec<Vec<usize>> {
    chunks.iter().flatten().map(|transfer| transfer.pieces.iter().map(|piece| piece.tag).collect()).collect()
}

#[test]
fn neighbours_on_both_sides_become_one_transfer_whatever_their_order() {
    let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
    let pieces = vec![piece(&keep, 12, 7, 2, 2), piece(&keep, 10, 5, 2, 1), piece(&keep, 14, 9, 3, 3)];
    let chunks = plan(pieces, 1 << 20);
    assert_eq!(shape(&chunks), [[1, 2, 3]]);
    let DiskOp::Write { offset, from } = chunks[0][0].operation(Way::ToDevice) else { panic!("a write") };
    assert_eq!((offset, from.bytes, from.arena_offset), (10 * PAGE, 7 * 4096, Some(5 * PAGE)));
}

#[test]
fn neighbours_on_one_side_only_stay_apart() {
    let (keep, other): (Arc<dyn Any + Send + Sync>, Arc<dyn Any + Send + Sync>) = (Arc::new(()), Arc::new(0));
    let gap_on_disk = vec![piece(&keep, 10, 5, 2, 1), piece(&keep, 13, 7, 2, 2)];
    let gap_in_memory = vec![piece(&keep, 10, 5, 2, 1), piece(&keep, 12, 8, 2, 2)];
    let two_arenas = vec![piece(&keep, 10, 5, 2, 1), piece(&other, 12, 7, 2, 2)];
    let same_place = vec![piece(&keep, 10, 5, 2, 1), piece(&keep, 10, 5, 2, 2)];
    for pieces in [gap_on_disk, gap_in_memory, two_arenas, same_place] {
        assert_eq!(shape(&plan(pieces, 1 << 20)), [[1], [2]]);
    }
}

#[test]
fn a_transfer_grows_to_the_bound_and_no_further() {
    let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
    let run = || (0..5).map(|at| piece(&keep, at * 2, at * 2, 2, at as usize)).collect::<Vec<_>>();
    assert_eq!(shape(&plan(run(), 4 * 4096)), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(shape(&plan(run(), 0)), [[0], [1], [2], [3], [4]]);
}

#[test]
fn large_batches_are_cut_so_that_verifying_overlaps_reading() {
    let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
    let large: Vec<_> = (0..10).map(|at| piece(&keep, at * 600, at * 600, 512, at as usize)).collect();
    let sizes: Vec<_> = plan(large, 0).iter().map(Vec::len).collect();
    assert_eq!(sizes, [2; 5]);
    let small: Vec<_> = (0..600).map(|at| piece(&keep, at * 3, at * 3, 2, at as usize)).collect();
    let sizes: Vec<_> = plan(small, 1 << 20).iter().map(Vec::len).collect();
    assert_eq!(sizes, [256, 256, 88]);
}

proptest! {
    #[test]
    fn every_piece_is_moved_exactly_once_and_from_its_own_place(
        places in proptest::collection::btree_map(0u64..200, (0u64..200, 1u32..3), 0..60),
        coalesce_pages in 0u32..8,
    ) {
        let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
        let pieces: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(tag, (&disk, &(host, pages)))| piece(&keep, disk * 2, host * 2, pages, tag))
            .collect();
        let count = pieces.len();
        let chunks = plan(pieces, coalesce_pages * 4096);
        let mut seen = vec![0; count];
        for transfer in chunks.iter().flatten() {
            let DiskOp::Read { offset, into } = transfer.operation(Way::FromDevice) else { panic!("a read") };
            let mut at = 0;
            for piece in &transfer.pieces {
                seen[piece.tag] += 1;
                prop_assert_eq!(piece.offset, offset + at);
                prop_assert_eq!(piece.region.address as u64, into.address as u64 + at);
                at += u64::from(piece.bytes);
            }
            prop_assert_eq!(at, u64::from(into.bytes));
            prop_assert!(transfer.pieces.len() == 1 || into.bytes <= coalesce_pages * 4096);
        }
        prop_assert!(seen.iter().all(|&times| times == 1));
    }
}
