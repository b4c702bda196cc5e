//! Every number a client could drive up has a bound.

use kvtier_client::local::Slot;
use kvtier_tests::wire::breathe;
use kvtier_tests::{Block, World};

use super::raw::{Raw, connect};
use super::{acquire, digest, expect, local_until, store, wait_until_free, write, writer};

#[tokio::test]
async fn a_process_reserves_no_more_than_its_share() {
    let mut world = World::with(&[("local.client_blocks_max", "4")]).await;
    let client = writer(&world);
    let slots = write(&client, digest(&world), &Block::chain("many", 6, 5000));
    let told: Vec<&str> = slots
        .iter()
        .map(|slot| match slot {
            Slot::Write(_) => "write",
            Slot::Declined { detail, .. } if detail.contains("client_blocks_max") => "share",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["write", "write", "write", "write", "share", "share"]);
    // Another connection of the same process has the same share.
    let other = write(&writer(&world), digest(&world), &[Block::root(b"other", 100)]);
    assert!(matches!(other[..], [Slot::Declined { .. }]), "{other:?}");
    drop(slots);
    wait_until_free(&mut world).await;
    let chain = Block::chain("again", 4, 5000);
    store(&client, digest(&world), &chain);
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let world = World::with(&[("local.client_bytes_max", "1MiB")]).await;
    let slots = write(&writer(&world), digest(&world), &Block::chain("large", 2, 600_000));
    assert!(matches!(&slots[..], [Slot::Write(_), Slot::Declined { .. }]), "{slots:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let mut world = World::with(&[("local.clients_max", "2")]).await;
    let clients = [writer(&world), writer(&world)];
    let refused = Raw::attach(&world, kvtier_proto::v1::LocalRole::Reader, "test").err().expect("the third");
    assert!(refused.message.contains("local.clients_max"), "{refused:?}");
    drop(clients);
    local_until(&mut world, "the clients to be gone", |local| local.clients == 0).await;
    writer(&world);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    use std::io::Read;
    let world = World::with(&[("listen.handshake_timeout", "100ms")]).await;
    let client = writer(&world);
    let mut silent = connect(&world);
    assert_eq!(silent.read(&mut [0; 8]).expect("closed, not reset"), 0);
    let chain = vec![Block::root(b"x", 100)];
    store(&client, digest(&world), &chain);
    expect(&acquire(&client, digest(&world), &kvtier_tests::block::keys(&chain)), &chain);
}

#[tokio::test]
async fn a_thousand_idle_clients_keep_nobody_from_working() {
    let mut world = World::new().await;
    let idle: Vec<Raw> = (0..1000).map(|_| Raw::writer(&world)).collect();
    local_until(&mut world, "all to be attached", |local| local.clients == 1000).await;
    let chain = Block::chain("busy", 10, 5000);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    expect(&acquire(&client, digest(&world), &kvtier_tests::block::keys(&chain)), &chain);
    drop(idle);
    breathe().await;
    local_until(&mut world, "the idle ones to be gone", |local| local.clients == 1).await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_no_longer_heard_and_harms_nobody() {
    use kvtier_proto::local::{Kind, Method, frame};
    use std::io::Write;
    let mut world = World::new().await;
    let chain = Block::chain("deaf", 500, 4000);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let mut stream = connect(&world);
    let attach = kvtier_proto::v1::AttachRequest { client: "deaf".into(), role: 1, tenant: "test".into(), ring: false };
    let request = kvtier_proto::v1::AcquireRequest {
        space: world.space.clone(),
        keys: chain.iter().flat_map(|block| block.key.to_vec()).collect(),
        key_lengths: chain.iter().map(|block| block.key.len() as u32).collect(),
        lease_ms: 60_000,
        ..Default::default()
    };
    stream.write_all(&frame(Method::Attach, Kind::Request, 1, &attach)).expect("sent");
    let asked = frame(Method::Acquire, Kind::Request, 2, &request);
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).expect("a timeout can be set");
    // Until the daemon stops reading.
    let heard = (0..20_000).take_while(|_| stream.write_all(&asked).is_ok()).count();
    assert!(heard < 20_000, "answers without a bound");
    expect(&acquire(&client, digest(&world), &kvtier_tests::block::keys(&chain)), &chain);
    drop(stream);
    wait_until_free(&mut world).await;
}
