//! What vLLM engines hold in their own memory, followed over ZMQ and told as events of this node.
//!
//! ```text
//!   engine's PUB ─► SUB ── number as expected ─► batch ─► changes ─► engine log (flow::external) ─► subscribers
//!                    │  └─ number beyond it ─► ROUTER: replay from the missing one ── all there? ─► on it goes
//!                    │                                                             └─ no ─► EngineReset, on it goes
//!                    └─ connection ends, silence at the other end ─► EngineReset, connect again
//! ```
//!
//! One task per engine and data-parallel rank. It owns its connection and the next number it expects, nothing else: what
//! the engine holds is in the node's engine, so a task that ends leaves nothing behind but what it then resets. An engine
//! that dies ends its connection, and its blocks are forgotten at once; one that comes back, or is there when the daemon
//! starts, is asked to replay all it remembers. When in doubt a block is not told of (docs/decisions/0008-engine-events.md).

mod event;
mod follower;
mod msgpack;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvtier_engine::flow::Engine;
use kvtier_engine::port::Clock;
use tokio::task::JoinSet;

use crate::config::EngineEvents;
use crate::zmtp::Endpoint;
use follower::Follower;

/// Counters of one follower.
#[derive(Debug, Default)]
pub(crate) struct FollowerCount {
    /// 1 while it is connected.
    pub(crate) connected: AtomicU64,
    /// Batches that were taken in.
    pub(crate) batches: AtomicU64,
    /// Times a number was missing.
    pub(crate) gaps: AtomicU64,
    /// Batches that came by replay.
    pub(crate) replayed: AtomicU64,
    /// Times everything known of the engine had to be forgotten.
    pub(crate) resets: AtomicU64,
    /// Batches that could not be read.
    pub(crate) malformed: AtomicU64,
}

impl FollowerCount {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The followers of all engines. Dropping them ends them.
pub(crate) struct Followers {
    _tasks: JoinSet<()>,
    /// By engine, ranks apart.
    pub(crate) counts: BTreeMap<String, Arc<FollowerCount>>,
}

/// Starts following every engine of the settings, which were checked before.
pub(crate) async fn follow(
    settings: &BTreeMap<String, EngineEvents>,
    engine: &Engine,
    clock: &Arc<dyn Clock>,
) -> io::Result<Followers> {
    let (mut tasks, mut counts) = (JoinSet::new(), BTreeMap::new());
    for (name, section) in settings {
        for rank in 0..u16::try_from(section.ranks).unwrap_or(u16::MAX) {
            let endpoint = |text: &Option<String>| Endpoint::parse(text.as_deref()?).ok()?.of_rank(rank);
            let Some(at) = endpoint(&section.endpoint) else { continue };
            let listener = match section.bind {
                true => Some(at.bind("engine_events.NAME.endpoint").await?),
                false => None,
            };
            let name = if section.ranks == 1 { name.clone() } else { format!("{name}/{rank}") };
            let count = Arc::new(FollowerCount::default());
            counts.insert(name.clone(), Arc::clone(&count));
            let follower = Follower {
                name,
                space: section.space.clone().unwrap_or_default(),
                replay: endpoint(&section.replay_endpoint),
                topic: section.topic.clone().unwrap_or_default().into_bytes(),
                blocks_max: usize::try_from(section.blocks_max).unwrap_or(usize::MAX),
                at,
                listener,
                newer: None,
                expected: None,
                engine: engine.clone(),
                clock: Arc::clone(clock),
                count,
            };
            tasks.spawn(follower.run());
        }
    }
    Ok(Followers { _tasks: tasks, counts })
}

/// What a batch says, in words, for the publisher's tests.
#[cfg(test)]
pub(crate) fn read_batch_for_tests(payload: &[u8]) -> Vec<String> {
    use event::Told;
    use kvtier_engine::flow::external::EngineChange;
    let words = |told| match told {
        Told::Cleared => "cleared".to_owned(),
        Told::Change(EngineChange::Stored { key, .. }) => format!("stored {}", key.as_bytes().len()),
        Told::Change(EngineChange::Removed { key, .. }) => format!("removed {}", key.as_bytes().len()),
    };
    event::read_batch(payload).expect("sound").into_iter().map(words).collect()
}
