//! What the live view knows: the last status, and rates from the one before it.

use std::collections::VecDeque;
use std::time::Duration;

use kvtier_client::wire::{StatusResponse, TierStatus};
use kvtier_client::{ClientError, word};

use crate::clock::Stopwatch;

/// Looks kept for the picture of the past.
const HISTORY: usize = 300;

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) endpoint: String,
    pub(super) interval: Duration,
    pub(super) paused: bool,
    pub(super) status: Option<StatusResponse>,
    pub(super) tiers: Vec<TierRate>,
    /// Bytes moved per second by all tiers, oldest first.
    pub(super) history: VecDeque<u64>,
    /// How long the last status call took.
    pub(super) round_trip: Duration,
    failure: Option<ClientError>,
    seen: Option<Stopwatch>,
}

/// One tier's rates per second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TierRate {
    pub(super) tier: String,
    pub(super) hits: f64,
    pub(super) stores: f64,
    pub(super) evictions: f64,
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
}

impl Model {
    pub(super) fn new(endpoint: String, interval: Duration) -> Self {
        Self {
            endpoint,
            interval,
            paused: false,
            status: None,
            tiers: Vec::new(),
            history: VecDeque::new(),
            round_trip: Duration::ZERO,
            failure: None,
            seen: None,
        }
    }

    /// Takes the answer to one look. Rates need two looks at one incarnation of the daemon.
    pub(super) fn update(&mut self, status: Result<StatusResponse, ClientError>, round_trip: Duration) {
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                self.failure = Some(error);
                self.seen = None;
                return;
            }
        };
        self.failure = None;
        self.round_trip = round_trip;
        let passed = self.seen.replace(Stopwatch::start()).map(Stopwatch::elapsed);
        let before = self.status.replace(status);
        self.count_rates(before.as_ref(), passed.unwrap_or_default());
    }

    /// Why the last look failed, if it did.
    pub(super) fn failure(&self) -> Option<&ClientError> {
        self.failure.as_ref()
    }

    fn count_rates(&mut self, before: Option<&StatusResponse>, passed: Duration) {
        let Some(now) = &self.status else { return };
        let known = before.filter(|before| before.uptime_ms <= now.uptime_ms && !passed.is_zero());
        self.tiers = now.tiers.iter().map(|tier| rates(find(known, tier), tier, passed)).collect();
        let moved: f64 = self.tiers.iter().map(|tier| tier.read_bytes + tier.written_bytes).sum();
        self.history.push_back(moved as u64);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }
}

fn find<'s>(before: Option<&'s StatusResponse>, tier: &TierStatus) -> Option<&'s TierStatus> {
    before?.tiers.iter().find(|earlier| earlier.tier == tier.tier)
}

fn rates(before: Option<&TierStatus>, now: &TierStatus, passed: Duration) -> TierRate {
    let tier = word::tier(now.tier);
    let Some(before) = before else { return TierRate { tier, ..TierRate::default() } };
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / passed.as_secs_f64();
    TierRate {
        tier,
        hits: per_second(before.hits, now.hits),
        stores: per_second(before.stores, now.stores),
        evictions: per_second(before.evictions, now.evictions),
        read_bytes: per_second(before.bytes_read, now.bytes_read),
        written_bytes: per_second(before.bytes_written, now.bytes_written),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::status::tests::busy;

    #[test]
    fn rates_are_differences_per_second() {
        let before = TierStatus { hits: 100, bytes_read: 1000, evictions: 9, ..Default::default() };
        let now = TierStatus { hits: 300, bytes_read: 5000, evictions: 3, ..Default::default() };
        let rate = rates(Some(&before), &now, Duration::from_secs(2));
        assert_eq!((rate.hits, rate.read_bytes, rate.stores), (100.0, 2000.0, 0.0));
        assert_eq!(rate.evictions, 0.0, "a counter that fell is another daemon's");
    }

    #[test]
    fn a_restarted_daemon_has_no_rates_yet() {
        let mut model = Model::new("e".into(), Duration::from_secs(1));
        model.update(Ok(busy()), Duration::ZERO);
        let mut restarted = busy();
        restarted.uptime_ms = 5;
        restarted.tiers[0].hits = u64::MAX;
        model.update(Ok(restarted), Duration::ZERO);
        assert!(model.tiers.iter().all(|tier| tier.hits == 0.0), "{:?}", model.tiers);
    }

    #[test]
    fn a_daemon_that_went_away_leaves_the_last_picture() {
        let mut model = Model::new("e".into(), Duration::from_secs(1));
        model.update(Ok(busy()), Duration::ZERO);
        model.update(Err(ClientError::TimedOut { call: "status", after: Duration::ZERO }), Duration::ZERO);
        assert!(model.failure().is_some() && model.status.is_some());
        model.update(Ok(busy()), Duration::ZERO);
        assert!(model.failure().is_none());
    }

    #[test]
    fn the_past_is_bounded() {
        let mut model = Model::new("e".into(), Duration::from_secs(1));
        for _ in 0..2 * HISTORY {
            model.update(Ok(busy()), Duration::ZERO);
        }
        assert_eq!(model.history.len(), HISTORY);
    }
}
