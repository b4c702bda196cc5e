//! What was acknowledged as durable is there after any end; what was volatile is a miss, never wrong bytes.

use kvtier_proto::v1::{self, Durability, Tier};
use kvtier_tests::{Block, World, block};
use v1::put_response::Outcome;

#[tokio::test]
async fn durable_blocks_survive_kill_9() {
    let mut world = World::new().await;
    let chain = Block::chain("durable", 50, 60_000);
    world.store(&chain, Durability::Durable).await;
    let mut world = world.crash_and_restart().await;
    let space = world.space.clone();
    let found = world.wire.lookup(&space, &block::keys(&chain), None).await.expect("a lookup is answered");
    assert_eq!(found.prefix.len(), 50);
    assert!(found.prefix.iter().all(|block| block.tier() == Tier::Nvme), "host memory is empty after a restart");
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn durable_blocks_survive_a_clean_stop_and_several_starts() {
    let mut world = World::new().await;
    let mut all = Vec::new();
    for start in 0..4 {
        let chain = Block::chain(&format!("start {start}"), 10, 30_000);
        world.store(&chain, Durability::Durable).await;
        all.push(chain);
        world = if start % 2 == 0 { world.restart().await } else { world.crash_and_restart().await };
        let space = world.space.clone();
        for chain in &all {
            world.wire.expect_blocks(&space, chain).await;
        }
    }
}

#[tokio::test]
async fn a_clean_stop_writes_volatile_blocks_back() {
    let mut world = World::new().await;
    let chain = Block::chain("volatile", 30, 60_000);
    world.store(&chain, Durability::Volatile).await;
    let mut world = world.restart().await;
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn volatile_blocks_after_kill_9_are_right_or_missing() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let chain = Block::chain("volatile", 60, 100_000);
    world.store(&chain, Durability::Volatile).await;
    let mut world = world.crash_and_restart().await;
    let resident = world.wire.resident(&space, &block::keys(&chain)).await;
    // Nothing may have been written back before the kill.
    if resident > 0 {
        world.wire.expect_blocks(&space, &chain[..resident]).await;
    }
}

#[tokio::test]
async fn a_duplicate_put_as_durable_makes_the_volatile_block_durable() {
    let mut world = World::with(&[("nvme.admission", "second-touch")]).await;
    let chain = Block::chain("twice", 5, 20_000);
    world.store(&chain, Durability::Volatile).await;
    let space = world.space.clone();
    let outcomes = world.wire.put(&space, &chain, Durability::Durable).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Duplicate(_))), "{outcomes:?}");
    let mut world = world.crash_and_restart().await;
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn spaces_survive_and_keep_their_descriptions() {
    let mut world = World::new().await;
    world.wire.open_space("another", 4096).await;
    let list = |spaces: v1::ListSpacesResponse| {
        spaces.spaces.into_iter().map(|space| (space.name, space.space, space.description)).collect::<Vec<_>>()
    };
    let before = list(world.wire.client.list_spaces(v1::ListSpacesRequest {}).await.expect("spaces").into_inner());
    assert_eq!(before.len(), 2);
    let mut world = world.crash_and_restart().await;
    let after = list(world.wire.client.list_spaces(v1::ListSpacesRequest {}).await.expect("spaces").into_inner());
    assert_eq!(before, after);
}

#[tokio::test]
async fn an_epoch_begins_with_every_start() {
    let mut world = World::new().await;
    let first = world.wire.status().await.position.expect("a position");
    let mut world = world.crash_and_restart().await;
    let second = world.wire.status().await.position.expect("a position");
    assert!(second.epoch > first.epoch && second.seq > first.seq, "{first:?} then {second:?}");
}

#[tokio::test]
async fn without_an_nvme_tier_durable_puts_are_declined_and_volatile_ones_are_not() {
    let mut world = World::with(&[("nvme.enabled", "false")]).await;
    let space = world.space.clone();
    let block = [Block::root(b"k", 5000)];
    let outcomes = world.wire.put(&space, &block, Durability::Durable).await;
    let Outcome::Declined(declined) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(declined.reason(), v1::DeclineReason::NvmeUnavailable);
    world.wire.store(&space, &block, Durability::Volatile).await;
    world.wire.expect_blocks(&space, &block).await;
}
