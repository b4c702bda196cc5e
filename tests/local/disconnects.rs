//! Clients that vanish: what they held is free again, and not a moment too early.

use kvtier_proto::local::Method;
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::puppet::Puppet;
use super::raw::Raw;
use super::{acquire, digest, expect, local_until, reader, store, wait_until_free, writer};

#[tokio::test]
async fn what_a_killed_client_held_is_free_whatever_it_was_doing() {
    let mut world = World::new().await;
    store(&writer(&world), digest(&world), &Block::chain("there", 3, 5000));
    let steps: [&[&str]; 6] = [
        &[],
        &["reserve a 3 5000"],
        &["reserve b 3 5000", "write"],
        &["reserve c 3 5000", "write", "commit"],
        &["acquire there 3 5000 60000"],
        &["acquire there 3 5000 60000", "reserve d 3 5000"],
    ];
    for orders in steps {
        let mut puppet = Puppet::start(&world);
        for order in orders {
            puppet.ask(order);
        }
        puppet.kill();
        wait_until_free(&mut world).await;
    }
    let chain = Block::chain("c", 3, 5000);
    expect(&acquire(&reader(&world), digest(&world), &keys(&chain)), &chain);
    for name in ["a", "b", "d"] {
        let space = world.space.clone();
        assert_eq!(
            world.wire.resident(&space, &keys(&Block::chain(name, 1, 5000))).await,
            0,
            "{name} was never committed"
        );
    }
}

#[tokio::test]
async fn a_client_killed_in_the_middle_of_a_call_leaves_nothing_behind() {
    let mut world = World::new().await;
    for round in 0..10 {
        let mut puppet = Puppet::start(&world);
        puppet.tell(&format!("reserve mid{round} 200 5000"));
        puppet.tell("write");
        puppet.tell("commit");
        if round % 2 == 0 {
            puppet.answer();
        }
        puppet.kill();
        wait_until_free(&mut world).await;
    }
}

/// The connection is gone, the process is not: somebody in it may still write the slots.
#[tokio::test]
async fn slots_of_a_lost_connection_are_kept_until_they_are_fenced() {
    let mut world = World::with(&[("nvme.enabled", "false"), ("limits.part_deadline", "200ms")]).await;
    let mut lost = Raw::writer(&world);
    let slots = lost.reserve(&world, &Block::chain("lost", 4, 1 << 20));
    let (attachment, offsets) = (lost.attachment.clone(), slots.offsets);
    drop(lost);
    let kept = local_until(&mut world, "the quarantine", |local| local.quarantined_slots == 4).await;
    assert_eq!(kept.quarantined_bytes, 4 << 20);
    world.wire.status_until("the put to be given up", |status| status.pending_puts <= 4 && status.leases == 0).await;

    // Nobody else is ever given those slots, however much is put.
    let client = writer(&world);
    for round in 0..40 {
        let chain = Block::chain(&format!("flood{round}"), 4, 1 << 20);
        let mut raw = Raw::writer(&world);
        let given = raw.reserve(&world, &chain);
        let clash = given.offsets.iter().any(|offset| *offset != 0 && offsets.contains(offset));
        assert!(!clash, "a slot was reused while its writer may write");
        raw.commit(&given.reservations);
    }
    assert_eq!(local_until(&mut world, "figures", |_| true).await.quarantined_slots, 4);

    let mut fencer = Raw::writer(&world);
    let fenced: v1::FenceResponse = fencer.ask(Method::Fence, &v1::FenceRequest { attachment }).expect("answered");
    assert_eq!(fenced.freed, 4);
    drop((client, fencer));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn what_is_quarantined_counts_against_its_process() {
    let mut world = World::with(&[("local.client_blocks_max", "3")]).await;
    let mut lost = Raw::writer(&world);
    lost.reserve(&world, &Block::chain("lost", 3, 5000));
    drop(lost);
    local_until(&mut world, "the quarantine", |local| local.quarantined_slots == 3).await;
    let answer = Raw::writer(&world).reserve(&world, &[Block::root(b"more", 100)]);
    assert_eq!(answer.outcomes, [i32::from(v1::ReserveOutcome::Declined)]);
}

#[tokio::test]
async fn a_client_that_drops_everything_leaves_at_once() {
    let mut world = World::new().await;
    let client = writer(&world);
    let slots = super::write(&client, digest(&world), &Block::chain("dropped", 5, 5000));
    drop(client);
    let local = local_until(&mut world, "figures", |local| local.clients == 1).await;
    assert_eq!(local.reservations, 5, "reservations keep their client attached");
    drop(slots);
    wait_until_free(&mut world).await;
    local_until(&mut world, "the client to be gone", |local| local.clients == 0).await;
}
