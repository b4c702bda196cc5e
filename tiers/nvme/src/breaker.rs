//! Stops asking a device that keeps failing to read.
//!
//! ```text
//!            errors_max failed or corrupt reads within the window
//!   closed ---------------------------------------------------------> open
//!      ^                                                                |
//!      +---------------- a probe read its superblock back <-------------+  (first after `pause`, then twice as late)
//! ```
//!
//! While open, loads and stores are answered at once. Nobody's load is used as the probe, so the device comes back
//! even if nobody asks for it. Errors of loads that were under way when it opened are not counted again.

use std::collections::VecDeque;
use std::time::Duration;

use kvtier_engine::port::Moment;

/// How often a pause is doubled.
const DOUBLINGS_MAX: u32 = 6;

/// Recent errors of one device.
#[derive(Debug)]
pub(crate) struct Breaker {
    errors_max: usize,
    window: Duration,
    errors: VecDeque<Moment>,
    open: Option<String>,
    opened_count: u64,
}

impl Breaker {
    pub(crate) fn closed(errors_max: u32, window: Duration) -> Self {
        Self { errors_max: errors_max as usize, window, errors: VecDeque::new(), open: None, opened_count: 0 }
    }

    /// Counts an error; true if this one opened the breaker: then the caller starts probing.
    pub(crate) fn record_error(&mut self, now: Moment, cause: &str) -> bool {
        if self.open.is_some() {
            return false;
        }
        while self.errors.front().is_some_and(|&error| now.since(error) > self.window) {
            self.errors.pop_front();
        }
        self.errors.push_back(now);
        if self.errors.len() < self.errors_max {
            return false;
        }
        self.errors.clear();
        self.opened_count += 1;
        let window = self.window;
        self.open = Some(format!("{} reads failed within {window:?}, the last one: {cause}", self.errors_max));
        true
    }

    /// A probe succeeded.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Why it is open.
    pub(crate) fn open_cause(&self) -> Option<&str> {
        self.open.as_deref()
    }

    /// How often it has opened.
    pub(crate) fn opened_count(&self) -> u64 {
        self.opened_count
    }
}

/// How long to wait before the probe after `failed` failed ones.
pub(crate) fn probe_pause(first: Duration, failed: u32) -> Duration {
    first.saturating_mul(1 << failed.min(DOUBLINGS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn it_opens_at_the_last_allowed_error_and_says_why() {
        let mut breaker = Breaker::closed(3, Duration::from_secs(1));
        assert!(!breaker.record_error(at(0), "EIO"));
        assert!(!breaker.record_error(at(10), "EIO"));
        assert_eq!(breaker.open_cause(), None);
        assert!(breaker.record_error(at(20), "bad checksum"));
        assert!(breaker.open_cause().unwrap().contains("3 reads failed within 1s, the last one: bad checksum"));
    }

    #[test]
    fn errors_older_than_the_window_are_forgiven() {
        let mut breaker = Breaker::closed(2, Duration::from_secs(1));
        for second in 0..100 {
            assert!(!breaker.record_error(at(second * 1001), "EIO"), "{second}");
        }
        assert!(breaker.record_error(at(99 * 1001 + 1000), "EIO"), "exactly one window apart");
    }

    #[test]
    fn an_open_breaker_opens_only_once_until_it_is_closed() {
        let mut breaker = Breaker::closed(1, Duration::from_secs(1));
        assert!(breaker.record_error(at(0), "first"));
        assert!(!breaker.record_error(at(1), "second"));
        assert!(breaker.open_cause().unwrap().ends_with("first"));
        breaker.close();
        assert_eq!(breaker.open_cause(), None);
        assert!(breaker.record_error(at(2), "third"));
        assert_eq!(breaker.opened_count(), 2);
    }

    #[test]
    fn closing_forgets_the_errors_that_opened_it() {
        let mut breaker = Breaker::closed(3, Duration::from_secs(10));
        (0..3).for_each(|ms| _ = breaker.record_error(at(ms), "EIO"));
        breaker.close();
        assert!(!breaker.record_error(at(4), "EIO"));
        assert!(!breaker.record_error(at(5), "EIO"));
        assert!(breaker.record_error(at(6), "EIO"));
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<_> = (0..9).map(|failed| probe_pause(Duration::from_secs(1), failed).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(probe_pause(Duration::MAX, 3), Duration::MAX);
    }
}
