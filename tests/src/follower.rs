//! What a subscriber of the node's events believes of copies that the node does not decide about: engines' own, and its pools.

use std::collections::BTreeSet;

use kvtier_proto::v1::{self, event::Kind, subscribe_request::From};

use crate::World;
use crate::wire::within;

/// Follows the node's events and remembers what engines hold.
pub struct Follower {
    answers: tonic::Streaming<v1::SubscribeResponse>,
    /// Engine, tier and block.
    pub held: BTreeSet<(String, i32, Vec<u8>)>,
    /// How often a block was told of as stored.
    pub stored: usize,
    /// Keys that were told of.
    pub keys: BTreeSet<Vec<u8>>,
    /// Why engines were reset.
    pub resets: Vec<String>,
    /// Whether the snapshot has ended.
    pub listed: bool,
}

impl Follower {
    /// Of every space.
    pub async fn new(world: &mut World, from: From) -> Self {
        let request = v1::SubscribeRequest { from: Some(from), spaces: Vec::new() };
        let answers = world.wire.client.subscribe(request).await.expect("a subscription").into_inner();
        Self { answers, held: BTreeSet::new(), stored: 0, keys: BTreeSet::new(), resets: Vec::new(), listed: false }
    }

    /// Reads on until it is as wanted.
    pub async fn read_until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        within(what, async {
            while !wanted(self) {
                let batch = self.answers.message().await.expect("the stream goes on").expect("it does not end");
                batch.events.into_iter().for_each(|event| self.apply(event.kind.expect("an event has a kind")));
            }
        })
        .await;
    }

    fn apply(&mut self, kind: Kind) {
        match kind {
            Kind::Stored(stored) if !stored.engine.is_empty() => {
                self.keys.insert(stored.key);
                let news = self.held.insert((stored.engine, stored.tier, stored.block));
                assert!(news, "a place is told of once");
                self.stored += 1;
            }
            Kind::Removed(removed) if !removed.engine.is_empty() => {
                assert!(self.held.remove(&(removed.engine, removed.tier, removed.block)), "only what was there goes");
            }
            Kind::EngineReset(reset) => {
                self.held.retain(|(engine, ..)| *engine != reset.engine);
                self.resets.push(reset.reason);
            }
            Kind::Reset(_) => self.held.clear(),
            Kind::SnapshotEnd(_) => self.listed = true,
            Kind::Stored(_) | Kind::Removed(_) | Kind::SpaceOpened(_) | Kind::SpaceDropped(_) => {}
        }
    }

    /// Blocks of an engine in a tier.
    pub fn count_of(&self, engine: &str, tier: v1::Tier) -> usize {
        self.held.iter().filter(|(of, at, _)| of == engine && *at == i32::from(tier)).count()
    }
}
