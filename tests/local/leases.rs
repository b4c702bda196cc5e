//! Leases keep blocks where they are, and generations tell who has outlived one.

use std::time::Duration;

use kvtier_client::local::AcquireChain;
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::{acquire, digest, expect, store, wait_until_free, writer};

/// More than the arena of a test's daemon.
const FLOOD_COUNT: usize = 100;

fn flood(name: &str) -> Vec<Block> {
    (0..FLOOD_COUNT).map(|index| Block::root(format!("{name}/{index}").as_bytes(), 1 << 20)).collect()
}

#[tokio::test]
async fn a_leased_block_stays_where_it_is_whatever_else_is_put() {
    let mut world = World::with(&[("nvme.enabled", "false")]).await;
    let chain = Block::chain("leased", 4, 1 << 20);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let acquired = acquire(&client, digest(&world), &keys(&chain));
    let space = world.space.clone();
    world.wire.put(&space, &flood("others"), v1::Durability::Volatile).await;
    expect(&acquired, &chain);
    drop(acquired);
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_reader_that_has_outlived_its_lease_can_tell_that_its_slot_was_given_back() {
    let mut world = World::with(&[("nvme.enabled", "false")]).await;
    let chain = Block::chain("late", 4, 1 << 20);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let names = keys(&chain);
    let wanted = AcquireChain { lease: Duration::from_millis(20), ..AcquireChain::new(digest(&world), &names) };
    let acquired = client.acquire(&wanted).expect("answered");
    assert!(acquired.all_intact());
    world.wire.status_until("the lease to end", |status| status.leases == 0).await;
    assert!(acquired.all_intact(), "nobody has needed the room yet");
    expect(&acquired, &chain);

    let space = world.space.clone();
    world.wire.put(&space, &flood("next"), v1::Durability::Volatile).await;
    for (index, block) in chain.iter().enumerate() {
        let is_right = acquired.bytes(index) == Some(&block.payload[..]);
        // Asked after the bytes were used: wrong bytes are never taken for the block's.
        assert!(is_right || !acquired.is_intact(index));
        assert!(!acquired.is_intact(index), "the arena was filled anew: the slot was given back");
    }
}

#[tokio::test]
async fn a_slot_of_another_size_in_the_same_place_is_noticed_too() {
    let mut world = World::with(&[("nvme.enabled", "false")]).await;
    let chain = vec![Block::root(b"large", 1 << 20)];
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let names = keys(&chain);
    let wanted = AcquireChain { lease: Duration::from_millis(20), ..AcquireChain::new(digest(&world), &names) };
    let acquired = client.acquire(&wanted).expect("answered");
    world.wire.status_until("the lease to end", |status| status.leases == 0).await;
    let small = Block::chain("small", 15_000, 4096);
    let space = world.space.clone();
    world.wire.put(&space, &small, v1::Durability::Volatile).await;
    assert!(acquired.bytes(0) == Some(&chain[0].payload[..]) || !acquired.is_intact(0));
    assert_eq!(world.wire.resident(&space, &names).await, 0, "the large block had to go");
    assert!(!acquired.is_intact(0));
}

#[tokio::test]
async fn a_deleted_block_stays_right_for_whoever_has_leased_it() {
    let mut world = World::new().await;
    let chain = Block::chain("deleted", 2, 100_000);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let acquired = acquire(&client, digest(&world), &keys(&chain));
    let request =
        v1::DeleteRequest { space: world.space.clone(), keys: chain.iter().map(|b| b.key.to_vec()).collect() };
    world.wire.client.delete(request).await.expect("deleted");
    store(&client, digest(&world), &chain);
    expect(&acquired, &chain);
}
