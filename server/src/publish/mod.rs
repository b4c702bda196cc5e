//! The node's events in vLLM's format, so that routers which follow vLLM engines can follow kvtier.
//!
//! ```text
//!   engine's log ─► narrator ─► batch with a number ─┬─► live: every subscriber, PUB
//!                                                    └─► kept for a while ─► who asks for a replay, ROUTER
//! ```
//!
//! Publishing never holds anything up: a subscriber that is slow misses batches, sees it by their numbers, and asks for a
//! replay. Numbers begin with 0 at every start, with a cleared cache and what is resident. Bounds: connections, kept batches
//! and their bytes, and blocks whose keys are remembered (removals name a key, and the log names an id).

mod batch;
mod hub;
mod narrator;
mod peer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvtier_engine::flow::Engine;
use kvtier_engine::flow::ask::SubscribeFrom;
use kvtier_engine::port::Clock;
use tokio::task::JoinSet;

use crate::config::{HashForm, PublishEvents};
use crate::zmtp::{Bound, Endpoint};
use hub::Hub;
use narrator::Narrator;

/// Connections to one endpoint at a time.
const PEERS_MAX: usize = 256;
/// Pause after something failed that may work later.
const RETRY: Duration = Duration::from_secs(1);

/// What the metrics show.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PublishCount {
    /// Batches published.
    pub(crate) batches: u64,
    /// Batches subscribers missed because they were slow.
    pub(crate) missed: u64,
    /// Subscribers now.
    pub(crate) subscribers: u64,
}

/// Publishes until it is dropped.
pub(crate) struct Publisher {
    _tasks: JoinSet<()>,
    hub: Arc<Hub>,
}

impl Publisher {
    /// Binds the endpoints and begins; none if publishing is off. The settings were checked before.
    pub(crate) async fn start(
        settings: &PublishEvents,
        engine: &Engine,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<Option<Self>> {
        let endpoint = |text: &Option<String>| Endpoint::parse(text.as_deref()?).ok();
        let Some(at) = endpoint(&settings.endpoint) else { return Ok(None) };
        let hub = Arc::new(Hub::new(settings.topic.clone().unwrap_or_default(), settings.keep_batches));
        let mut tasks = JoinSet::new();
        let bound = at.bind("publish_events.endpoint").await?;
        tracing::info!(at = %bound.endpoint(&at), "publishing events in vLLM's format");
        tasks.spawn(accept(bound, Kind::Live, Arc::clone(&hub), Arc::clone(clock)));
        if let Some(at) = endpoint(&settings.replay_endpoint) {
            let bound = at.bind("publish_events.replay_endpoint").await?;
            tracing::info!(at = %bound.endpoint(&at), "replaying events in vLLM's format");
            tasks.spawn(accept(bound, Kind::Replay, Arc::clone(&hub), Arc::clone(clock)));
        }
        let blocks_max = usize::try_from(settings.blocks_max).unwrap_or(usize::MAX);
        let narrator = Narrator::new(blocks_max, settings.hashes == HashForm::Int);
        tasks.spawn(narrate(narrator, engine.clone(), Arc::clone(&hub), Arc::clone(clock)));
        Ok(Some(Self { _tasks: tasks, hub }))
    }

    /// Figures of now.
    pub(crate) fn count(&self) -> Arc<dyn Fn() -> PublishCount + Send + Sync> {
        let hub = Arc::clone(&self.hub);
        Arc::new(move || PublishCount {
            batches: hub.published(),
            missed: hub.missed.load(Ordering::Relaxed),
            subscribers: hub.subscribers() as u64,
        })
    }
}

/// Follows the log like any subscriber.
async fn narrate(mut narrator: Narrator, engine: Engine, hub: Arc<Hub>, clock: Arc<dyn Clock>) {
    loop {
        let Ok(mut subscription) = engine.subscribe(SubscribeFrom::Snapshot, &[]) else {
            clock.sleep(RETRY).await;
            continue;
        };
        loop {
            let batch = match subscription.next().await {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!("events are not published for a moment: {error}");
                    clock.sleep(RETRY).await;
                    break;
                }
            };
            if let Some(payload) = narrator.tell(batch.events, &engine, clock.unix_ms()) {
                hub.publish(payload);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Live,
    Replay,
}

async fn accept(bound: Bound, kind: Kind, hub: Arc<Hub>, clock: Arc<dyn Clock>) {
    let mut peers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = bound.accept(), if peers.len() < PEERS_MAX => match (accepted, kind) {
                (Ok(stream), Kind::Live) => drop(peers.spawn(peer::serve_subscriber(stream, Arc::clone(&hub)))),
                (Ok(stream), Kind::Replay) => drop(peers.spawn(peer::serve_replay(stream, Arc::clone(&hub)))),
                (Err(error), _) => {
                    tracing::warn!("a subscriber could not be accepted: {error}");
                    clock.sleep(RETRY).await;
                }
            },
            Some(ended) = peers.join_next(), if !peers.is_empty() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!("a subscriber to vLLM's format has gone: {error}");
                }
            }
        }
    }
}
