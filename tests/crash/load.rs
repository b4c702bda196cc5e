//! Load that does not mind being cut off, and what it was promised.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kvtier_proto::v1::put_response::Outcome;
use kvtier_proto::v1::{self, Durability};
use kvtier_tests::wire::{Got, whole};
use kvtier_tests::{Block, Wire, World, block};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;

/// Chains put at once, and blocks in each. Every other chain is durable.
const CHAINS: u64 = 6;
const BLOCKS: usize = 24;

/// Names one block: round, chain, place in the chain.
pub(crate) type Name = (u64, u64, usize);

/// Puts under way.
pub(crate) struct Load {
    /// Blocks acknowledged durable since the start.
    pub(crate) acknowledged: Arc<AtomicU64>,
    promised: Arc<Mutex<BTreeSet<Name>>>,
    puts: JoinSet<()>,
}

fn chain(round: u64, number: u64) -> Vec<Block> {
    let bytes = 4000 + (number as usize * 9973 + round as usize * 131) % 60_000;
    Block::chain(&format!("round {round} chain {number}"), BLOCKS, bytes)
}

impl Load {
    pub(crate) fn start(world: &World, round: u64, promised: BTreeSet<Name>) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let promised = Arc::new(Mutex::new(promised));
        let mut puts = JoinSet::new();
        for number in 0..CHAINS {
            let (wire, space) = (world.wire.clone(), world.space.clone());
            let (acknowledged, promised) = (Arc::clone(&acknowledged), Arc::clone(&promised));
            puts.spawn(async move {
                put(wire, space, round, number, |at| {
                    promised.lock().expect("one thread at a time").insert((round, number, at));
                    acknowledged.fetch_add(1, Ordering::Release);
                })
                .await;
            });
        }
        Self { acknowledged, promised, puts }
    }

    /// Waits until every put has noticed that the daemon is gone.
    pub(crate) async fn finish(mut self) -> BTreeSet<Name> {
        while let Some(put) = self.puts.join_next().await {
            put.expect("a put that is cut off ends without a panic");
        }
        std::mem::take(&mut self.promised.lock().expect("nobody puts any more"))
    }
}

/// Puts one chain; `kept` is told which blocks were acknowledged durable. Ends when the daemon does.
async fn put(mut wire: Wire, space: Vec<u8>, round: u64, number: u64, kept: impl Fn(usize)) {
    let durability = if number.is_multiple_of(2) { Durability::Durable } else { Durability::Volatile };
    let blocks = chain(round, number);
    let messages = blocks.iter().enumerate().flat_map(|(tag, block)| whole(&space, tag as u64, block, durability));
    let messages: Vec<_> = messages.collect();
    let Ok(answers) = wire.client.put(tokio_stream::iter(messages)).await else { return };
    let mut answers = answers.into_inner();
    while let Some(Ok(answer)) = answers.next().await {
        if let Some(Outcome::Stored(stored)) = answer.outcome
            && stored.durability() == Durability::Durable
        {
            kept(answer.tag as usize);
        }
    }
}

/// Every promised block is a hit with its bytes.
pub(crate) async fn check_promised(world: &mut World, promised: &BTreeSet<Name>, round: u64) -> usize {
    let space = world.space.clone();
    for (made, number) in promised.iter().map(|name| (name.0, name.1)).collect::<BTreeSet<_>>() {
        let blocks = chain(made, number);
        let kept: Vec<Block> =
            promised.range((made, number, 0)..(made, number, BLOCKS)).map(|name| blocks[name.2].clone()).collect();
        let got = world.wire.get_keys(&space, &block::keys(&kept)).await.expect("a get of good keys is answered");
        for (got, block) in got.into_iter().zip(&kept) {
            match got {
                Got::Block(bytes, _) => {
                    assert!(bytes == block.payload, "round {round}: wrong bytes for {:?}", block.key)
                }
                Got::Miss(miss) => {
                    panic!("round {round}: {:?} of round {made} was acknowledged durable: {miss:?}", block.key)
                }
            }
        }
    }
    promised.len()
}

/// Every volatile block of the rounds before is right or a miss; returns how many are there.
pub(crate) async fn check_volatile(world: &mut World, round: u64) -> usize {
    let space = world.space.clone();
    let mut there = 0;
    for made in round.saturating_sub(2)..round {
        for number in (0..CHAINS).filter(|number| !number.is_multiple_of(2)) {
            let blocks = chain(made, number);
            let got = world.wire.get_keys(&space, &block::keys(&blocks)).await.expect("a get of good keys is answered");
            for (got, block) in got.into_iter().zip(&blocks) {
                if let Got::Block(bytes, tier) = got {
                    assert!(bytes == block.payload, "round {round}: wrong bytes for volatile {:?}", block.key);
                    assert_eq!(tier, v1::Tier::Nvme, "host memory is empty after a restart");
                    there += 1;
                }
            }
        }
    }
    there
}
