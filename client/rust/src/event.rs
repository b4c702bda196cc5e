//! Following the node's event log: one subscription, and a follower that survives lost connections.
//!
//! A position `{epoch, seq}` names an event. Whoever has applied everything up to a position may ask for what came
//! after it; when the daemon no longer knows, the first event is `Reset`, and what is resident follows (INV-6).

use std::time::Duration;

use tonic::Streaming;

use crate::call::Call;
use crate::pause::pause;
use crate::{Client, ClientError, SpaceDigest, wire};

const SUBSCRIBE: Call = Call::reading("subscribe");

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EventStart {
    /// With the events after this position.
    After(wire::Position),
    /// With a Reset and what is resident now.
    Snapshot,
    /// With what happens from now on.
    Tail,
}

/// Some events, and the position after which to ask for the next.
#[derive(Debug, Clone, PartialEq)]
pub struct EventBatch {
    /// Of the last event in the batch.
    pub position: wire::Position,
    /// In the order of the log.
    pub events: Vec<wire::Event>,
}

/// One subscription, over one connection. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    batches: Streaming<wire::SubscribeResponse>,
}

/// A subscription that is opened again where it stopped, for as long as the caller keeps asking.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    spaces: Vec<SpaceDigest>,
    start: EventStart,
    current: Option<Subscription>,
    failures: u32,
}

impl Client {
    /// Subscribes to the events of some spaces, or of all when `spaces` is empty.
    pub async fn subscribe(&self, start: EventStart, spaces: &[SpaceDigest]) -> Result<Subscription, ClientError> {
        let from = match start {
            EventStart::After(position) => wire::subscribe_request::From::After(position),
            EventStart::Snapshot => wire::subscribe_request::From::Snapshot(true),
            EventStart::Tail => wire::subscribe_request::From::Tail(true),
        };
        let spaces = spaces.iter().map(|space| space.0.to_vec()).collect();
        let request = self.open_ended(wire::SubscribeRequest { from: Some(from), spaces });
        let mut wire = self.wire();
        let batches = self.answer(SUBSCRIBE, self.options().stall_timeout, wire.subscribe(request)).await?;
        Ok(Subscription { client: self.clone(), batches })
    }

    /// Follows the log over lost connections and daemon restarts. Nothing is sent before the first `next`.
    pub fn follow(&self, start: EventStart, spaces: &[SpaceDigest]) -> Follower {
        Follower { client: self.clone(), spaces: spaces.to_vec(), start, current: None, failures: 0 }
    }
}

impl Subscription {
    /// The next batch; `None` when the daemon ended the stream. Waits as long as nothing happens on the node: an
    /// idle log is no error, and a dead connection is found by keep-alive within 20 s.
    pub async fn next(&mut self) -> Result<Option<EventBatch>, ClientError> {
        let message =
            self.batches.message().await.map_err(|status| self.client.explain(SUBSCRIBE, Duration::ZERO, &status))?;
        let Some(message) = message else { return Ok(None) };
        let position =
            message.position.ok_or_else(|| ClientError::protocol(SUBSCRIBE.name, "a batch without a position"))?;
        Ok(Some(EventBatch { position, events: message.events }))
    }
}

impl Follower {
    /// The next batch, over as many connections as it takes. Fails only for what a new connection cannot mend.
    pub async fn next(&mut self) -> Result<EventBatch, ClientError> {
        loop {
            match self.advance().await {
                Ok(Some(batch)) => {
                    self.failures = 0;
                    self.start = EventStart::After(batch.position);
                    return Ok(batch);
                }
                Ok(None) => self.lose(Duration::ZERO).await,
                Err(error) => {
                    self.current = None;
                    let mendable = matches!(error, ClientError::Unavailable { .. } | ClientError::TimedOut { .. });
                    let delay = error.retry_after().filter(|_| mendable).ok_or(error)?;
                    self.lose(delay).await;
                }
            }
        }
    }

    /// Where a new follower would have to start to see what this one has not.
    pub fn position(&self) -> EventStart {
        self.start
    }

    async fn advance(&mut self) -> Result<Option<EventBatch>, ClientError> {
        let subscription = match &mut self.current {
            Some(subscription) => subscription,
            None => self.current.insert(self.client.subscribe(self.start, &self.spaces).await?),
        };
        subscription.next().await
    }

    /// Waits for the longer of the daemon's advice and our own back-off: 50 ms, doubled per failure, at most 5 s.
    async fn lose(&mut self, advised: Duration) {
        self.current = None;
        let own = Duration::from_millis(50 << self.failures.min(7)).min(Duration::from_secs(5));
        self.failures = self.failures.saturating_add(1);
        pause(advised.max(own)).await;
    }
}
