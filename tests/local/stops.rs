//! Clients that are stopped for a while, and do not know that time has passed.

use kvtier_proto::local::Method;
use kvtier_proto::v1;
use kvtier_tests::{Block, World};
use rustix::process::Signal;

use super::puppet::Puppet;
use super::raw::Raw;
use super::{digest, local_until, store, wait_until_free, writer};

#[tokio::test]
async fn a_stopped_writer_keeps_its_slots_from_others_and_its_late_commit_is_refused() {
    let mut world = World::with(&[("nvme.enabled", "false"), ("limits.part_deadline", "200ms")]).await;
    let mut puppet = Puppet::start(&world);
    assert_eq!(puppet.ask("reserve hung 4 1000000"), "4 slots");
    puppet.signal(Signal::STOP);
    local_until(&mut world, "its deadline", |local| local.quarantined_slots == 4).await;
    // The block is free for others, its slots are not.
    for round in 0..40 {
        let mut raw = Raw::writer(&world);
        let given = raw.reserve(&world, &Block::chain(&format!("other{round}"), 4, 1_000_000));
        raw.commit(&given.reservations);
    }
    let chain = Block::chain("hung", 4, 1_000_000);
    // The engine looks at deadlines a few times a second.
    let mut raw = Raw::writer(&world);
    kvtier_tests::wire::within("the puts to be given up", async {
        loop {
            let answer = raw.reserve(&world, &chain[..1]);
            if answer.refusals.iter().all(|refusal| refusal.reason() != v1::DeclineReason::UnderWay) {
                let request = v1::AbortRequest { reservations: answer.reservations };
                let _: v1::AbortResponse = raw.ask(Method::Abort, &request).expect("answered");
                break;
            }
            kvtier_tests::wire::breathe().await;
        }
    })
    .await;
    drop(raw);
    store(&writer(&world), digest(&world), &chain);
    let before = super::acquire(&writer(&world), digest(&world), &kvtier_tests::block::keys(&chain));
    puppet.signal(Signal::CONT);
    assert_eq!(puppet.ask("write"), "written");
    // It wrote where nobody else is.
    super::expect(&before, &chain);
    let told = puppet.ask("commit");
    assert!(told.contains("Declined") && told.contains("part_deadline"), "{told}");
    drop((puppet, before));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_stopped_writer_that_is_killed_gives_everything_back() {
    let mut world = World::with(&[("limits.part_deadline", "200ms")]).await;
    let mut puppet = Puppet::start(&world);
    puppet.ask("reserve killed 4 5000");
    puppet.signal(Signal::STOP);
    local_until(&mut world, "its deadline", |local| local.quarantined_slots == 4).await;
    puppet.kill();
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_stopped_reader_finds_out_that_its_bytes_are_gone() {
    let mut world = World::with(&[("nvme.enabled", "false")]).await;
    store(&writer(&world), digest(&world), &Block::chain("read", 4, 1 << 20));
    let mut puppet = Puppet::start(&world);
    assert_eq!(puppet.ask("acquire read 4 1048576 50"), "4 blocks");
    assert_eq!(puppet.ask("check"), "right true intact true");
    puppet.signal(Signal::STOP);
    world.wire.status_until("its lease to end", |status| status.leases == 0).await;
    let flood: Vec<Block> = (0..100).map(|at| Block::root(format!("f{at}").as_bytes(), 1 << 20)).collect();
    let space = world.space.clone();
    world.wire.put(&space, &flood, v1::Durability::Volatile).await;
    puppet.signal(Signal::CONT);
    assert_eq!(puppet.ask("check"), "right false intact false");
}

#[tokio::test]
async fn a_stopped_client_is_told_in_time_that_its_call_has_ended() {
    let mut world = World::new().await;
    let mut puppet = Puppet::start(&world);
    puppet.signal(Signal::STOP);
    puppet.tell("reserve late 3 5000");
    puppet.signal(Signal::CONT);
    assert_eq!(puppet.answer(), "3 slots");
    puppet.signal(Signal::STOP);
    puppet.signal(Signal::CONT);
    puppet.ask("write");
    assert!(puppet.ask("commit").contains("Stored"));
    drop(puppet);
    wait_until_free(&mut world).await;
}
