//! Keeps scrubbing at or below its rate.

use std::time::Duration;

use kvtier_engine::port::Moment;

/// When the next bytes may be read.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    free_at: Moment,
}

impl Pace {
    pub(crate) fn of(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Moment::default() }
    }

    /// Books `bytes`; returns how long to wait before reading them. Time that was not used is not saved up.
    pub(crate) fn book(&mut self, now: Moment, bytes: u64) -> Duration {
        let start = self.free_at.max(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.free_at = start.after(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        start.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booked_bytes_take_their_time_and_idleness_is_not_saved_up() {
        let mut pace = Pace::of(1000);
        let at = |ms| Moment(Duration::from_millis(ms));
        assert_eq!(pace.book(at(0), 500), Duration::ZERO);
        assert_eq!(pace.book(at(0), 500), Duration::from_millis(500));
        assert_eq!(pace.book(at(400), 1), Duration::from_millis(600));
        assert_eq!(pace.book(at(60_000), 500), Duration::ZERO);
        assert_eq!(pace.book(at(60_000), 1), Duration::from_millis(500));
        assert_eq!(Pace::of(0).book(at(0), u64::MAX), Duration::ZERO);
    }
}
