//! Deleting blocks and dropping spaces.

use kvtier_proto::v1::{self, Durability, MissReason};
use kvtier_tests::{Block, World, block};
use tonic::Code;

#[tokio::test]
async fn deleted_blocks_are_gone_at_once_and_after_a_crash() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let chain = Block::chain("deleted", 10, 20_000);
    world.store(&chain, Durability::Durable).await;
    let keys: Vec<Vec<u8>> = chain[5..].iter().map(|block| block.key.to_vec()).collect();
    let request = v1::DeleteRequest { space: space.clone(), keys };
    assert_eq!(world.wire.client.delete(request.clone()).await.expect("a delete").into_inner().deleted, 5);
    assert_eq!(world.wire.client.delete(request).await.expect("a delete").into_inner().deleted, 0, "they are gone");
    let found = world.wire.lookup(&space, &block::keys(&chain), None).await.expect("a lookup");
    assert_eq!(found.prefix.len(), 5);
    assert_eq!(found.miss.expect("a reason").reason(), MissReason::Deleted);
    let mut world = world.crash_and_restart().await;
    assert_eq!(world.wire.resident(&space, &block::keys(&chain)).await, 5);
    world.wire.expect_blocks(&space, &chain[..5]).await;
}

#[tokio::test]
async fn a_dropped_space_is_gone_with_its_blocks_and_may_be_opened_again_empty() {
    let mut world = World::new().await;
    let space = world.wire.open_space("dropped", 100_000).await;
    let chain = Block::chain("k", 40, 50_000);
    world.wire.store(&space, &chain, Durability::Durable).await;
    let request = v1::DropSpaceRequest { space: space.clone() };
    assert_eq!(world.wire.client.drop_space(request).await.expect("a drop").into_inner().blocks, 40);
    let answer = world.wire.lookup(&space, &block::keys(&chain), None).await;
    assert_eq!(answer.expect_err("the space is gone").code(), Code::NotFound);
    let mut world = world.crash_and_restart().await;
    let status = world.wire.status_until("recovery", |status| status.state == "serving").await;
    assert_eq!(status.tiers.iter().map(|tier| tier.blocks).sum::<u64>(), 0, "its slots are free: {status:?}");
    let again = world.wire.open_space("dropped", 100_000).await;
    assert_eq!(again, space, "the digest follows from the description");
    assert_eq!(world.wire.resident(&again, &block::keys(&chain)).await, 0, "nothing of it comes back");
    world.wire.store(&again, &chain, Durability::Durable).await;
    world.wire.expect_blocks(&again, &chain).await;
}
