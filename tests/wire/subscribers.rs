//! Subscriptions that cannot begin.

use kvtier_proto::v1;
use kvtier_tests::wire::within;
use kvtier_tests::{Blame, World};
use tonic::{Code, Status};
use v1::subscribe_request::From;

async fn subscribe(world: &mut World, from: Option<From>) -> Result<(), Status> {
    let request = v1::SubscribeRequest { from, spaces: Vec::new() };
    within("subscribe", world.wire.client.subscribe(request)).await.map(|_| ())
}

#[tokio::test]
async fn a_future_position_is_out_of_range_and_the_newest_is_told() {
    let mut world = World::new().await;
    let newest = world.wire.status().await.position.expect("a status has a position");
    for (epoch, seq) in [(newest.epoch, newest.seq + 1_000_000_000), (newest.epoch + 1, 0)] {
        let answer = subscribe(&mut world, Some(From::After(v1::Position { epoch, seq }))).await;
        let told = format!("{}:", newest.epoch);
        Blame::expect(answer, Code::OutOfRange, "after", &told, "subscribe with a snapshot");
    }
}

#[tokio::test]
async fn a_forgotten_position_is_out_of_range_and_the_oldest_is_told() {
    // Room for two segments only, so that the first is soon forgotten.
    let settings = [
        ("wal.segment_bytes", "1MiB"),
        ("wal.group_commit_max_bytes", "64KiB"),
        ("wal.retain_bytes", "0"),
        ("wal.bytes_max", "8MiB"),
        ("index.flush_interval", "100ms"),
    ];
    let mut world = World::with(&settings).await;
    let oldest = world.wire.status().await.position.expect("a status has a position");
    for round in 0..40 {
        let chain = kvtier_tests::Block::chain(&format!("round {round}"), 500, 64);
        world.store(&chain, v1::Durability::Volatile).await;
        let journal = world.wire.status().await.journal.expect("a status has a journal");
        if journal.first_seq > oldest.seq + 1 {
            let answer = subscribe(&mut world, Some(From::After(oldest))).await;
            Blame::expect(answer, Code::OutOfRange, "after", "forgotten", "subscribe with a snapshot");
            return;
        }
    }
    panic!("the log never forgot its first segment: {:?}", world.wire.status().await.journal);
}

#[tokio::test]
async fn a_subscription_says_where_it_starts() {
    let mut world = World::new().await;
    Blame::expect(subscribe(&mut world, None).await, Code::InvalidArgument, "from", "absent", "choose after");
    let answer = subscribe(&mut world, Some(From::Tail(false))).await;
    Blame::expect(answer, Code::InvalidArgument, "tail", "false", "set it to true");
    let request = v1::SubscribeRequest { from: Some(From::Tail(true)), spaces: vec![vec![1; 32], vec![1; 5]] };
    let answer = world.wire.client.subscribe(request).await;
    Blame::expect(answer, Code::InvalidArgument, "spaces[1]", "5 bytes long", "32 bytes");
}

#[tokio::test]
async fn one_subscriber_too_many_is_told_when_to_come_back() {
    let mut world = World::with(&[("limits.subscribers_max", "2")]).await;
    let request = || v1::SubscribeRequest { from: Some(From::Snapshot(true)), spaces: Vec::new() };
    let first = world.wire.client.subscribe(request()).await.expect("there is room");
    let _second = world.wire.client.subscribe(request()).await.expect("there is room");
    let status = world.wire.client.subscribe(request()).await.expect_err("there is none");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limits.subscribers_max"), "{status:?}");
    assert!(Blame::of(&status).retry.is_some(), "{status:?}");
    drop(first);
    within("a seat that was given up", async {
        while world.wire.client.subscribe(request()).await.is_err() {
            kvtier_tests::wire::breathe().await;
        }
    })
    .await;
}
