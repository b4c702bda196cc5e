use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn piece(disk_page: u64, pages: u32, tag: usize) -> Piece<usize> {
    let bytes = pages * 4096;
    let region = Region { address: tag << 24, arena_offset: (tag as u64) << 24, bytes, keep: Arc::new(()) };
    Piece { offset: disk_page * 4096, bytes, region, tag }
}

#[test]
fn large_batches_are_cut_so_that_verifying_overlaps_reading() {
    let large = (0..10).map(|at| piece(at * 600, 512, at as usize)).collect();
    assert_eq!(cut(large).iter().map(Vec::len).collect::<Vec<_>>(), [2; 5]);
    let small = (0..1200).map(|at| piece(at * 3, 1, at as usize)).collect();
    assert_eq!(cut(small).iter().map(Vec::len).collect::<Vec<_>>(), [512, 512, 176]);
    assert!(cut(Vec::<Piece<()>>::new()).is_empty());
}

#[test]
fn a_part_of_a_region_is_found_in_the_registered_arena() {
    let page = part(&piece(0, 3, 1).region, 4096, 8192);
    assert_eq!((page.address, page.bytes, page.arena_offset), ((1 << 24) + 4096, 8192, Some((1 << 24) + 4096)));
}

#[test]
#[should_panic(expected = "a transfer stays in its region")]
fn a_part_larger_than_its_region_is_refused() {
    part(&piece(0, 3, 1).region, 4096, 12288);
}

proptest! {
    #[test]
    fn every_piece_is_in_exactly_one_chunk_and_all_are_in_order(
        places in proptest::collection::vec((0u64..1_000_000, 1u32..2000), 0..100),
    ) {
        let pieces = places.iter().enumerate().map(|(tag, &(page, pages))| piece(page, pages, tag)).collect();
        let chunks = cut(pieces);
        let flat: Vec<_> = chunks.iter().flatten().collect();
        prop_assert!(flat.is_sorted_by_key(|piece| piece.offset));
        let mut tags: Vec<_> = flat.iter().map(|piece| piece.tag).collect();
        tags.sort_unstable();
        prop_assert!(tags.into_iter().eq(0..places.len()));
        for chunk in &chunks {
            let without_last: u64 = chunk[..chunk.len() - 1].iter().map(|piece| u64::from(piece.bytes)).sum();
            prop_assert!(without_last < CHUNK_BYTES);
        }
        for piece in flat {
            prop_assert_eq!(piece.offset, places[piece.tag].0 * 4096);
            let DiskOp::Read { offset, into } = piece.read() else { panic!("a read") };
            prop_assert_eq!((offset, into.bytes, into.address), (piece.offset, piece.bytes, piece.tag << 24));
        }
    }
}
