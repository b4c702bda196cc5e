//! Several ranks of one engine fill the parts of one block.

use kvtier_client::local::{Committed, ReserveChain, Slot};
use kvtier_client::{DeclineReason, SpaceDigest};
use kvtier_tests::wire::description;
use kvtier_tests::{Block, World};

use super::{acquire, writer};

#[tokio::test]
async fn a_block_is_there_when_every_rank_has_committed_its_part() {
    let mut world = World::new().await;
    let opened = world.wire.open_space_of("ranks", description("ranks", &[6000, 10_000])).await.expect("a good space");
    let space = SpaceDigest(opened.space[..].try_into().expect("32 bytes"));
    let ranks = [writer(&world), writer(&world)];
    let chain = Block::chain("parts", 3, 16_000);
    let names = kvtier_tests::block::keys(&chain);
    let lengths = [6000_u32, 10_000];
    for (rank, client) in ranks.iter().enumerate() {
        let wanted = ReserveChain { part: rank as u32, ..ReserveChain::new(space, &names, lengths[rank]) };
        let slots = client.reserve(&wanted).expect("answered");
        let taken = ranks[1 - rank].reserve(&wanted).expect("answered");
        let under_way = |slot: &Slot| matches!(slot, Slot::Declined { reason: DeclineReason::UnderWay, .. });
        assert!(taken.iter().all(under_way), "a part has one writer: {taken:?}");
        let written = slots.into_iter().zip(&chain).map(|(slot, block)| {
            let Slot::Write(mut reservation) = slot else { panic!("{slot:?}") };
            let first = if rank == 0 { 0 } else { 6000 };
            reservation.copy_from_slice(&block.payload[first..first + lengths[rank] as usize]);
            reservation
        });
        let committed = client.commit(written).expect("answered");
        for (committed, block) in committed.into_iter().zip(&chain) {
            match rank {
                0 => assert_eq!(committed, Committed::PartAccepted),
                _ => assert_eq!(committed, Committed::Stored { crc: block.crc() }),
            }
        }
        assert_eq!(acquire(client, space, &names).len(), if rank == 0 { 0 } else { 3 });
    }
    super::expect(&acquire(&ranks[0], space, &names), &chain);
}
