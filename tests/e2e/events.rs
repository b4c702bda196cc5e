//! The event stream: everything that happens, in order, without holes.

use std::collections::BTreeSet;

use kvtier_proto::v1::{self, Durability, Tier};
use kvtier_tests::wire::within;
use kvtier_tests::{Block, World, block};
use v1::event::Kind;
use v1::subscribe_request::From;

/// Follows the log and remembers what is where.
struct Follower {
    answers: tonic::Streaming<v1::SubscribeResponse>,
    resident: BTreeSet<(Vec<u8>, i32)>,
    position: v1::Position,
    resets: usize,
    listed: bool,
}

impl Follower {
    async fn new(world: &mut World, from: From, spaces: Vec<Vec<u8>>) -> Self {
        let request = v1::SubscribeRequest { from: Some(from), spaces };
        let answers = world.wire.client.subscribe(request).await.expect("a subscription").into_inner();
        let position = v1::Position::default();
        Self { answers, resident: BTreeSet::new(), position, resets: 0, listed: false }
    }

    async fn read_until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        within(what, async {
            while !wanted(self) {
                let batch = self.answers.message().await.expect("the stream goes on").expect("it does not end");
                let position = batch.position.expect("a batch has a position");
                assert!(position.seq >= self.position.seq, "positions do not go back");
                self.position = position;
                batch.events.into_iter().for_each(|event| self.apply(event.kind.expect("an event has a kind")));
            }
        })
        .await;
    }

    fn apply(&mut self, kind: Kind) {
        match kind {
            Kind::Reset(_) => {
                self.resident.clear();
                self.resets += 1;
            }
            Kind::Stored(stored) => drop(self.resident.insert((stored.block, stored.tier))),
            Kind::Removed(removed) => drop(self.resident.remove(&(removed.block, removed.tier))),
            Kind::SnapshotEnd(_) => self.listed = true,
            Kind::SpaceOpened(_) | Kind::SpaceDropped(_) | Kind::EngineReset(_) => {}
        }
    }

    fn count(&self, tier: Tier) -> usize {
        self.resident.iter().filter(|(_, at)| *at == i32::from(tier)).count()
    }
}

#[tokio::test]
async fn a_tail_tells_of_every_block_that_is_stored_and_deleted() {
    let mut world = World::new().await;
    let mut follower = Follower::new(&mut world, From::Tail(true), Vec::new()).await;
    let chain = Block::chain("told", 20, 10_000);
    world.store(&chain, Durability::Durable).await;
    let both = |follower: &Follower| follower.count(Tier::Host) == 20 && follower.count(Tier::Nvme) == 20;
    follower.read_until("all copies", both).await;
    let keys = chain[10..].iter().map(|block| block.key.to_vec()).collect();
    world.wire.client.delete(v1::DeleteRequest { space: world.space.clone(), keys }).await.expect("a delete");
    follower.read_until("their end", |follower| follower.resident.len() == 20).await;
    assert_eq!(follower.resets, 0);
}

#[tokio::test]
async fn a_snapshot_lists_what_is_there_and_goes_on_with_the_tail() {
    let mut world = World::new().await;
    let chain = Block::chain("listed", 30, 10_000);
    world.store(&chain, Durability::Durable).await;
    let mut follower = Follower::new(&mut world, From::Snapshot(true), Vec::new()).await;
    follower.read_until("the snapshot", |follower| follower.listed).await;
    assert_eq!((follower.resets, follower.count(Tier::Nvme)), (1, 30));
    world.store(&Block::chain("later", 5, 10_000), Durability::Durable).await;
    follower.read_until("the tail", |follower| follower.count(Tier::Nvme) == 35).await;
}

#[tokio::test]
async fn a_subscriber_goes_on_from_its_position_without_missing_or_repeating_anything() {
    let mut world = World::new().await;
    let mut follower = Follower::new(&mut world, From::Tail(true), Vec::new()).await;
    world.store(&Block::chain("a", 10, 10_000), Durability::Volatile).await;
    follower.read_until("the first", |follower| follower.count(Tier::Host) == 10).await;
    let after = follower.position;
    drop(follower);
    world.store(&Block::chain("b", 10, 10_000), Durability::Volatile).await;
    let mut follower = Follower::new(&mut world, From::After(after), Vec::new()).await;
    follower.read_until("the second", |follower| follower.count(Tier::Host) >= 10).await;
    assert_eq!((follower.count(Tier::Host), follower.resets), (10, 0), "only what came after");
}

#[tokio::test]
async fn a_position_of_an_older_epoch_is_answered_with_a_reset_and_what_survived() {
    let mut world = World::new().await;
    let mut follower = Follower::new(&mut world, From::Tail(true), Vec::new()).await;
    let chain = Block::chain("survives", 10, 10_000);
    world.store(&chain, Durability::Durable).await;
    follower.read_until("the copies", |follower| follower.count(Tier::Nvme) == 10).await;
    let after = follower.position;
    let mut world = world.crash_and_restart().await;
    let mut follower = Follower::new(&mut world, From::After(after), Vec::new()).await;
    follower.read_until("the snapshot", |follower| follower.listed).await;
    assert_eq!((follower.resets, follower.count(Tier::Host), follower.count(Tier::Nvme)), (1, 0, 10));
    assert!(follower.position.epoch > after.epoch);
}

#[tokio::test]
async fn a_filter_tells_of_the_named_spaces_only() {
    let mut world = World::new().await;
    let other = world.wire.open_space("other", 1 << 20).await;
    let mut follower = Follower::new(&mut world, From::Tail(true), vec![other.clone()]).await;
    world.store(&Block::chain("unwanted", 10, 10_000), Durability::Volatile).await;
    let wanted = Block::chain("wanted", 3, 10_000);
    world.wire.store(&other, &wanted, Durability::Volatile).await;
    follower.read_until("the wanted ones", |follower| follower.count(Tier::Host) >= 3).await;
    assert_eq!(follower.count(Tier::Host), 3);
    assert_eq!(world.wire.resident(&other, &block::keys(&wanted)).await, 3);
}
