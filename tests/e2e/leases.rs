//! Leases and pins keep blocks, and always end.

use kvtier_proto::v1::{self, Durability, MissReason};
use kvtier_tests::wire::Got;
use kvtier_tests::{Block, Wire, World, block};

/// A daemon whose host tier holds 16 blocks of 1 MiB at most, and has nothing below it.
async fn tight() -> World {
    World::with(&[("host.bytes", "16MiB"), ("nvme.enabled", "false")]).await
}

async fn flood(world: &mut World, name: &str) {
    let space = world.space.clone();
    for index in 0..40 {
        let block = Block::root(format!("{name} {index}").as_bytes(), 1_000_000);
        let outcome = world.wire.put(&space, &[block], Durability::Volatile).await.remove(0);
        assert!(matches!(outcome, v1::put_response::Outcome::Stored(_)), "{name} {index}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_leased_prefix_outlives_a_flood_and_goes_when_released() {
    let mut world = tight().await;
    let space = world.space.clone();
    let chain = Block::chain("leased", 4, 1_000_000);
    world.store(&chain, Durability::Volatile).await;
    let found = world.wire.lookup(&space, &block::keys(&chain), Some(60_000)).await.expect("a lease");
    flood(&mut world, "first").await;
    let got = world.wire.get_lease(&found.lease).await.expect("the lease holds");
    let right = |(got, block): (&Got, &Block)| matches!(got, Got::Block(bytes, _) if *bytes == block.payload);
    assert!(got.iter().zip(&chain).all(right), "all four are there, with their bytes");
    let request = world.wire.request(v1::ReleaseRequest { lease: found.lease });
    world.wire.client.release(request).await.expect("it is ours");
    flood(&mut world, "second").await;
    let found = world.wire.lookup(&space, &block::keys(&chain), None).await.expect("a lookup");
    assert!(found.prefix.len() < 4, "some had to go");
    let miss = found.miss.expect("a reason");
    assert_eq!(miss.reason(), MissReason::Evicted, "{miss:?}");
    assert!(miss.detail.contains("evicted from host") && miss.age_ms.is_some(), "{miss:?}");
}

#[tokio::test]
async fn a_host_tier_full_of_leased_blocks_declines_puts() {
    let mut world = tight().await;
    let space = world.space.clone();
    let mut held = Vec::new();
    for index in 0..40 {
        let block = [Block::root(format!("held {index}").as_bytes(), 1_000_000)];
        let outcome = world.wire.put(&space, &block, Durability::Volatile).await.remove(0);
        if let v1::put_response::Outcome::Declined(declined) = outcome {
            assert_eq!(declined.reason(), v1::DeclineReason::HostFull);
            assert!(declined.detail.contains("release leases"), "{declined:?}");
            assert!(held.len() >= 8, "only {} blocks fit", held.len());
            return;
        }
        held.push(world.wire.lookup(&space, &block::keys(&block), Some(60_000)).await.expect("a lease"));
    }
    panic!("40 MB fitted 16 MiB");
}

#[tokio::test]
async fn leases_of_a_client_that_vanishes_are_released() {
    let mut world = tight().await;
    let space = world.space.clone();
    let chain = Block::chain("leased", 4, 100_000);
    world.store(&chain, Durability::Volatile).await;
    for named in [false, true] {
        let mut other = Wire::unix(world.daemon.endpoints()).await;
        if named {
            other = other.named("vanishing");
        }
        other.lookup(&space, &block::keys(&chain), Some(300_000)).await.expect("a lease");
        other.lookup(&space, &block::keys(&chain), Some(300_000)).await.expect("another");
        assert_eq!(world.wire.status().await.leases, 2);
        drop(other);
        let status = world.wire.status_until("the leases' end", |status| status.leases == 0).await;
        assert_eq!(status.leased_blocks, 0, "{status:?}");
    }
}

#[tokio::test]
async fn a_named_client_keeps_its_leases_until_its_last_connection_closes() {
    let mut world = tight().await;
    let space = world.space.clone();
    let chain = Block::chain("leased", 2, 100_000);
    world.store(&chain, Durability::Volatile).await;
    let mut first = Wire::unix(world.daemon.endpoints()).await.named("two-lines");
    let mut second = Wire::tcp(world.daemon.endpoints()).await.named("two-lines");
    let lease = first.lookup(&space, &block::keys(&chain), Some(300_000)).await.expect("a lease").lease;
    assert_eq!(second.get_lease(&lease).await.expect("the same client").len(), 2);
    drop(first);
    world.wire.status_until("the first connection's end", |status| status.connections == 2).await;
    assert_eq!(second.get_lease(&lease).await.expect("still the same client").len(), 2);
    drop(second);
    world.wire.status_until("the leases' end", |status| status.leases == 0).await;
}

#[tokio::test]
async fn a_lease_ends_at_its_deadline() {
    let mut world = tight().await;
    let space = world.space.clone();
    let chain = Block::chain("leased", 4, 100_000);
    world.store(&chain, Durability::Volatile).await;
    world.wire.lookup(&space, &block::keys(&chain), Some(100)).await.expect("a lease");
    world.wire.status_until("the deadline", |status| status.leases == 0 && status.leased_blocks == 0).await;
}

#[tokio::test]
async fn pins_hold_until_unpinned_and_a_second_under_a_name_replaces_the_first() {
    let mut world = tight().await;
    let space = world.space.clone();
    let chain = Block::chain("pinned", 4, 1_000_000);
    world.store(&chain, Durability::Volatile).await;
    let keys: Vec<Vec<u8>> = chain.iter().map(|block| block.key.to_vec()).collect();
    let pin = |count: usize| v1::PinRequest {
        space: world.space.clone(),
        name: "system prompt".into(),
        keys: keys[..count].to_vec(),
        ttl_ms: 600_000,
    };
    let (all, two) = (pin(4), pin(2));
    let pinned = world.wire.client.pin(all).await.expect("a pin").into_inner();
    assert_eq!((pinned.blocks, pinned.bytes), (4, 4_000_000));
    flood(&mut world, "first").await;
    world.wire.expect_blocks(&space, &chain).await;
    world.wire.client.pin(two).await.expect("a shorter pin under the same name");
    assert_eq!(world.wire.status().await.pins, 1);
    flood(&mut world, "second").await;
    assert_eq!(world.wire.resident(&space, &block::keys(&chain)).await, 2, "the other two were let go");
    let unpin = || v1::UnpinRequest { space: space.clone(), name: "system prompt".into() };
    assert!(world.wire.client.unpin(unpin()).await.expect("it is there").into_inner().existed);
    assert!(!world.wire.client.unpin(unpin()).await.expect("it is gone").into_inner().existed);
    flood(&mut world, "third").await;
    assert_eq!(world.wire.resident(&space, &block::keys(&chain)).await, 0, "nothing holds them any more");
}

#[tokio::test]
async fn a_get_that_is_dropped_half_way_lets_go_of_everything() {
    let mut world = World::with(&[("host.bytes", "64MiB")]).await;
    let space = world.space.clone();
    let chain = Block::chain("long", 40, 1_000_000);
    world.store(&chain, Durability::Volatile).await;
    for _ in 0..10 {
        let list = v1::KeyList { space: space.clone(), keys: block::keys(&chain) };
        let request = v1::GetRequest { from: Some(v1::get_request::From::Keys(list)), first: 0, count: 0 };
        let mut answers = world.wire.client.get(request).await.expect("a get begins").into_inner();
        answers.message().await.expect("a first frame").expect("there is one");
        drop(answers);
    }
    world.wire.status_until("no holds", |status| status.leased_blocks == 0).await;
    world.wire.expect_blocks(&space, &chain).await;
}
