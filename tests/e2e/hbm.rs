//! The HBM tier where there may be no GPU.

use kvtier_proto::v1;
use kvtier_tests::{Block, Setup, World};

async fn hbm_tier(world: &mut World) -> Option<v1::TierStatus> {
    let status = world.wire.client.status(v1::StatusRequest {}).await.expect("a status").into_inner();
    status.tiers.into_iter().find(|tier| tier.tier() == v1::Tier::Hbm)
}

/// The same daemon with and without a GPU: where there is none it says so and does everything else.
#[tokio::test]
async fn a_daemon_that_is_asked_for_gpu_memory_serves_and_says_what_it_found() {
    let mut world = World::with(&[("hbm.bytes", "10%")]).await;
    let mut tier = hbm_tier(&mut world).await.expect("the tier is on");
    for _ in 0..100_000 {
        if tier.detail != "still opening" {
            break;
        }
        tier = hbm_tier(&mut world).await.expect("the tier is on");
    }
    assert!(!tier.detail.is_empty());
    match tier.state.as_str() {
        "absent" => assert_eq!((tier.capacity_bytes, tier.blocks), (0, 0)),
        state => assert!(state == "up" && tier.capacity_bytes > 0, "{tier:?}"),
    }
    let chain = Block::chain("with a gpu or without", 5, 100_000);
    world.store(&chain, v1::Durability::Durable).await;
    let mut world = world.crash_and_restart().await;
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn a_daemon_that_is_not_asked_shows_no_such_tier() {
    let mut world = World::new().await;
    assert_eq!(hbm_tier(&mut world).await, None);
}

#[test]
fn a_pool_that_cannot_be_is_refused_with_what_would_do() {
    for (text, expected) in
        [("99%", "is not between 1% and 95%"), ("1KiB", "one extent, \"32MiB\""), ("lots", "write a size")]
    {
        let stopped = Setup::with(&[("hbm.bytes", text)]).try_start().err().expect("it does not start");
        assert!(stopped.log.contains("hbm.bytes") && stopped.log.contains(expected), "{text}: {}", stopped.log);
    }
}
