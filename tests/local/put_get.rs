//! Blocks written and read in place, mixed with gRPC.

use kvtier_client::LocalOptions;
use kvtier_client::local::{AcquireChain, AsyncLocalClient, Committed, ReserveChain, Slot};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::{acquire, digest, expect, local_until, reader, store, wait_until_free, write, writer};

#[tokio::test]
async fn what_is_put_in_place_is_got_over_grpc() {
    let mut world = World::new().await;
    let chain = Block::chain("local", 5, 200_000);
    store(&writer(&world), digest(&world), &chain);
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn what_is_put_over_grpc_is_read_in_place() {
    let mut world = World::new().await;
    let chain = Block::chain("grpc", 5, 200_000);
    world.store(&chain, v1::Durability::Volatile).await;
    let acquired = acquire(&reader(&world), digest(&world), &keys(&chain));
    expect(&acquired, &chain);
}

#[tokio::test]
async fn a_thousand_blocks_take_one_round_trip_each_way() {
    let mut world = World::new().await;
    let chain = Block::chain("long", 1000, 4000);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let acquired = acquire(&client, digest(&world), &keys(&chain));
    expect(&acquired, &chain);
    let local = local_until(&mut world, "figures", |_| true).await;
    assert_eq!(local.requests, 3, "reserve, commit, acquire");
    drop(acquired);
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn the_next_slots_are_written_while_a_commit_goes_on_and_a_dropped_one_ends_too() {
    let mut world = World::new().await;
    let chain = Block::chain("ahead", 4, 200_000);
    let client = writer(&world);
    let begin = |chain: &[Block]| {
        let written = write(&client, digest(&world), chain).into_iter().map(|slot| match slot {
            Slot::Write(reservation) => reservation,
            other => panic!("no slot was given: {other:?}"),
        });
        client.begin_commit(written).expect("a commit is sent")
    };
    let (first, second) = (begin(&chain[..2]), begin(&chain[2..]));
    drop(second);
    let stored: Vec<_> = chain[..2].iter().map(|block| Committed::Stored { crc: block.crc() }).collect();
    assert_eq!(first.wait(), Ok(stored));
    expect(&acquire(&client, digest(&world), &keys(&chain)), &chain);
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn the_next_chain_is_leased_while_one_is_read_and_a_dropped_one_ends_its_lease() {
    let mut world = World::new().await;
    let (chain, next) = (Block::chain("read", 4, 9000), Block::chain("next", 4, 9000));
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    store(&client, digest(&world), &next);
    let begin = |chain: &[Block]| {
        let keys = keys(chain);
        client.begin_acquire(&AcquireChain::new(digest(&world), &keys)).expect("it is asked for")
    };
    let (now, ahead, dropped) = (begin(&chain), begin(&next), begin(&next));
    drop(dropped);
    let ahead = ahead.wait().expect("leased");
    let now = now.wait().expect("leased");
    expect(&now, &chain);
    expect(&ahead, &next);
    world.wire.status_until("two leases, not three", |status| status.leases == 2).await;
    drop((now, ahead));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_chain_ends_at_its_first_missing_block_and_says_why() {
    let world = World::new().await;
    let chain = Block::chain("short", 4, 5000);
    let client = writer(&world);
    store(&client, digest(&world), &chain[..2]);
    let acquired = acquire(&client, digest(&world), &keys(&chain));
    expect(&acquired, &chain[..2]);
    assert_eq!(acquired.miss.as_ref().map(v1::Miss::reason), Some(v1::MissReason::NeverStored));
    let nothing = acquire(&client, digest(&world), &keys(&chain[3..]));
    assert!(nothing.is_empty() && nothing.miss.is_some());
}

#[tokio::test]
async fn a_block_that_is_there_is_a_duplicate() {
    let world = World::new().await;
    let chain = Block::chain("twice", 2, 5000);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    let slots = super::write(&client, digest(&world), &chain);
    assert!(slots.iter().all(|slot| matches!(slot, Slot::Duplicate(None))), "{slots:?}");
}

#[tokio::test]
async fn a_durable_commit_waits_and_a_cold_chain_comes_back_after_a_crash() {
    let world = World::new().await;
    let chain = Block::chain("durable", 8, 100_000);
    let space = digest(&world);
    let client = writer(&world);
    let names = keys(&chain);
    let wanted = ReserveChain { durability: v1::Durability::Durable, ..ReserveChain::new(space, &names, 100_000) };
    let slots = client.reserve(&wanted).expect("answered");
    let written = slots.into_iter().zip(&chain).map(|(slot, block)| {
        let Slot::Write(mut reservation) = slot else { panic!("{slot:?}") };
        reservation.copy_from_slice(&block.payload);
        reservation
    });
    let committed = client.commit(written).expect("answered");
    assert!(committed.iter().all(|one| matches!(one, Committed::Stored { .. })), "{committed:?}");
    // A durable put of a block that is durable waits for nothing.
    let again = client.reserve(&wanted).expect("answered");
    let waits = again.into_iter().map(|slot| {
        let Slot::Duplicate(Some(existing)) = slot else { panic!("{slot:?}") };
        existing
    });
    let committed = client.commit(waits).expect("answered");
    assert!(committed.iter().all(|one| *one == Committed::Duplicate), "{committed:?}");
    drop(client);

    let mut world = world.crash_and_restart().await;
    let client = reader(&world);
    expect(&acquire(&client, space, &names), &chain);
    let polled = client.acquire(&AcquireChain { poll: true, ..AcquireChain::new(space, &names) }).expect("answered");
    expect(&client.poll(polled, true).expect("answered"), &chain);
    drop(client);
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_lease_without_staging_brings_nothing_up() {
    let mut world = World::new().await;
    let chain = Block::chain("cold", 4, 100_000);
    world.store(&chain, v1::Durability::Durable).await;
    let world = world.restart().await;
    let client = reader(&world);
    let names = keys(&chain);
    let wanted = AcquireChain { stage: false, ..AcquireChain::new(digest(&world), &names) };
    let leased = client.acquire(&wanted).expect("answered");
    assert_eq!(leased.len(), 4);
    assert!((0..4).all(|index| leased.bytes(index).is_none()), "nothing was in host memory");
    expect(&client.poll(leased, true).expect("answered"), &chain);
}

#[tokio::test]
async fn the_async_client_does_the_same() {
    let world = World::new().await;
    let path = world.daemon.endpoints().local.clone().expect("on");
    let client = AsyncLocalClient::connect(path, LocalOptions::writer("async", "test")).await.expect("attached");
    let chain = Block::chain("async", 3, 50_000);
    let names = keys(&chain);
    let slots = client.reserve(&ReserveChain::new(digest(&world), &names, 50_000)).await.expect("answered");
    let written: Vec<_> = slots
        .into_iter()
        .zip(&chain)
        .map(|(slot, block)| {
            let Slot::Write(mut reservation) = slot else { panic!("{slot:?}") };
            reservation.copy_from_slice(&block.payload);
            reservation
        })
        .collect();
    client.commit(written).await.expect("answered");
    let acquired = client.acquire(&AcquireChain::new(digest(&world), &names)).await.expect("answered");
    expect(&acquired, &chain);
}

#[tokio::test]
async fn no_byte_of_a_local_block_is_copied_and_each_of_a_grpc_block_is_once() {
    let mut world = World::new().await;
    let chain = Block::chain("counted", 4, 65_536);
    let client = writer(&world);
    store(&client, digest(&world), &chain);
    expect(&acquire(&client, digest(&world), &keys(&chain)), &chain);
    let local = local_until(&mut world, "figures", |_| true).await;
    assert_eq!((local.put_in_place_bytes, local.put_copied_bytes), (262_144, 0));
    assert_eq!((local.acquired_bytes, local.get_copied_bytes), (262_144, 0));
    let copied = Block::chain("copied", 2, 65_536);
    world.store(&copied, v1::Durability::Volatile).await;
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &copied[..1]).await;
    let local = local_until(&mut world, "figures", |_| true).await;
    assert_eq!((local.put_in_place_bytes, local.put_copied_bytes), (262_144, 131_072));
    assert_eq!((local.acquired_bytes, local.get_copied_bytes), (262_144, 65_536));
}

#[tokio::test]
async fn many_threads_share_one_client() {
    let world = World::new().await;
    let client = writer(&world);
    let space = digest(&world);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..20 {
                    let chain = Block::chain(&format!("{thread}/{round}"), 4, 3000 + thread * 16);
                    store(client, space, &chain);
                    expect(&acquire(client, space, &keys(&chain)), &chain);
                }
            });
        }
    });
}
