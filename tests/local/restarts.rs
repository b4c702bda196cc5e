//! The daemon goes and comes back.

use kvtier_client::ClientError;
use kvtier_client::local::{AcquireChain, ReserveChain, Slot};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::{acquire, digest, expect, store, wait_until_free, writer};

#[tokio::test]
async fn a_client_finds_a_restarted_daemon_again() {
    let mut world = World::new().await;
    let chain = Block::chain("before", 3, 50_000);
    world.store(&chain, v1::Durability::Durable).await;
    let (client, space, names) = (writer(&world), digest(&world), keys(&chain));
    let held = acquire(&client, space, &names);
    let mut slots = client.reserve(&ReserveChain::new(space, &[b"open"], 4096)).expect("answered");
    let Some(Slot::Write(mut reservation)) = slots.pop() else { panic!("no slot") };

    let setup = world.daemon.kill();
    // Nothing hangs and nothing faults: the memory stays as long as somebody looks at it.
    let gone = client.acquire(&AcquireChain::new(space, &names)).expect_err("nobody is there");
    assert!(matches!(gone, ClientError::Unavailable { .. }), "{gone:?}");
    expect(&held, &chain);
    reservation.fill(7);

    let mut world = World::of(setup.start()).await;
    let lost = client.commit([reservation]).expect_err("it was reserved of another daemon");
    assert!(matches!(lost, ClientError::Unavailable { .. }), "{lost:?}");
    expect(&acquire(&client, space, &names), &chain);
    expect(&held, &chain);
    drop(held);
    store(&client, space, &Block::chain("after", 2, 50_000));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_call_that_waits_ends_with_the_daemon() {
    let world = World::new().await;
    let (client, space) = (writer(&world), digest(&world));
    let chain = Block::chain("waiting", 64, 200_000);
    let names = keys(&chain);
    let waiting = std::thread::Builder::new().spawn(move || {
        let wanted = ReserveChain { durability: v1::Durability::Durable, ..ReserveChain::new(space, &names, 200_000) };
        let slots = client.reserve(&wanted)?;
        let written = slots.into_iter().filter_map(|slot| match slot {
            Slot::Write(reservation) => Some(reservation),
            _ => None,
        });
        client.commit(written)
    });
    let waiting = waiting.expect("a thread can be had");
    drop(world.daemon.kill());
    // Whether it was quick enough or not, it ends.
    let ended = waiting.join().expect("no panic");
    if let Err(error) = ended {
        assert!(matches!(error, ClientError::Unavailable { .. } | ClientError::Indeterminate { .. }), "{error:?}");
    }
}
