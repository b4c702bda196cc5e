//! The end of a daemon's life: drain, SIGTERM, a second signal.

use std::time::Duration;

use kvtier_proto::v1::{self, Durability};
use kvtier_tests::{Block, Wire, World, wire};
use rustix::process::Signal;
use v1::put_response::Outcome;

#[tokio::test]
async fn a_draining_daemon_declines_puts_and_still_answers_gets() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let chain = Block::chain("before", 20, 50_000);
    world.store(&chain, Durability::Volatile).await;
    let drained = world.wire.client.drain(v1::DrainRequest { timeout_ms: 20_000 }).await.expect("a drain").into_inner();
    assert_eq!(drained.abandoned_blocks, 0, "{drained:?}");
    let outcomes = world.wire.put(&space, &[Block::root(b"late", 5000)], Durability::Volatile).await;
    let Outcome::Declined(declined) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(declined.reason(), v1::DeclineReason::Draining);
    world.wire.expect_blocks(&space, &chain).await;
    assert_eq!(world.wire.status().await.state, "draining");
    let mut world = world.crash_and_restart().await;
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn sigterm_ends_with_exit_code_0_although_clients_hang_on() {
    let mut world = World::with(&[("shutdown.drain_timeout", "2s")]).await;
    let mut idle = Wire::unix(world.daemon.endpoints()).await;
    idle.status().await;
    let request = v1::SubscribeRequest { from: Some(v1::subscribe_request::From::Tail(true)), spaces: Vec::new() };
    let _subscription = world.wire.client.subscribe(request).await.expect("a subscription");
    let (_, stopped) = world.daemon.stop();
    assert_eq!(stopped.code(), Some(0), "{stopped:?}");
    assert!(stopped.log.contains("drain"), "{stopped:?}");
}

#[tokio::test]
async fn a_second_signal_ends_the_daemon_at_once() {
    let mut world = World::with(&[("shutdown.drain_timeout", "1h")]).await;
    // A stream that does not end keeps the drain waiting.
    let request = v1::SubscribeRequest { from: Some(v1::subscribe_request::From::Tail(true)), spaces: Vec::new() };
    let _subscription = world.wire.client.subscribe(request).await.expect("a subscription");
    world.daemon.signal(Signal::TERM);
    assert!(world.daemon.log().wait_for("drain", Duration::from_secs(30)), "the first signal drains");
    world.daemon.signal(Signal::INT);
    let (_, stopped) = world.daemon.wait();
    assert!(stopped.status.is_some(), "it ended: {stopped:?}");
}

#[tokio::test]
async fn a_stopped_daemon_that_goes_on_still_works() {
    let mut world = World::new().await;
    let chain = Block::chain("k", 5, 50_000);
    world.store(&chain, Durability::Durable).await;
    world.daemon.signal(Signal::STOP);
    wire::within("silence", async {
        let patience = Duration::from_millis(300);
        while tokio::time::timeout(patience, world.wire.client.status(v1::StatusRequest {})).await.is_ok() {}
    })
    .await;
    world.daemon.signal(Signal::CONT);
    let space = world.space.clone();
    wire::within("the answer", world.wire.expect_blocks(&space, &chain)).await;
}
