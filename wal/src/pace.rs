//! How long a group that somebody waits for is held back for company.
//!
//! Callers that were released by one group usually come back at once: each writes the next block. If the group were
//! written for the first of them, the others would wait for two syncs, and half of all syncs would carry one record.
//! So after a group the writer lingers until as many wait as the last group released or left waiting, but no longer than
//! an eighth of what that group took. A caller alone never waits for company.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use kvtier_engine::port::Moment;

use crate::settings::Settings;

/// Part of a group's time that may be spent lingering.
const LINGER_SHARE: u32 = 8;
/// Most times the writer goes round in place of a timer, which is too coarse for a fast disk. Ends the lingering also where
/// the clock stands still.
const ROUNDS_MAX: u32 = 64;

/// What the last group took.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    ended: Moment,
    linger: Duration,
    rounds: u32,
}

impl Pace {
    /// A group was written from `begun` to `ended`.
    pub(crate) fn took(&mut self, begun: Moment, ended: Moment, settings: &Settings) {
        let longest = Duration::from_millis(settings.group_commit_ms_max);
        self.linger = (ended.since(begun) / LINGER_SHARE).min(longest);
        self.ended = ended;
        self.rounds = 0;
    }

    /// How much longer to linger.
    pub(crate) fn left(&self, now: Moment) -> Duration {
        if self.rounds >= ROUNDS_MAX { Duration::ZERO } else { self.linger.saturating_sub(now.since(self.ended)) }
    }

    /// Lets others run once.
    pub(crate) async fn linger(&mut self) {
        self.rounds += 1;
        let mut yielded = false;
        poll_fn(|context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Moment {
        Moment(Duration::from_micros(us))
    }

    #[test]
    fn the_writer_lingers_an_eighth_of_the_last_group_and_no_longer_than_set() {
        let mut pace = Pace::default();
        assert_eq!(pace.left(at(0)), Duration::ZERO, "nothing is known yet");
        pace.took(at(1000), at(9000), &Settings::default());
        assert_eq!(pace.left(at(9000)), Duration::from_micros(1000));
        assert_eq!(pace.left(at(9900)), Duration::from_micros(100));
        assert_eq!(pace.left(at(10_000)), Duration::ZERO);
        pace.took(at(0), at(900_000), &Settings::default());
        assert_eq!(pace.left(at(900_000)), Duration::from_millis(5));
    }

    #[test]
    fn lingering_ends_where_the_clock_stands_still() {
        let mut pace = Pace::default();
        pace.took(at(0), at(8000), &Settings::default());
        for _ in 0..ROUNDS_MAX {
            assert_eq!(pace.left(at(8000)), Duration::from_millis(1));
            futures::executor::block_on(pace.linger());
        }
        assert_eq!(pace.left(at(8000)), Duration::ZERO);
    }
}
