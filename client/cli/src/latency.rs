//! Latencies as percentiles: HDR histograms with three significant digits, in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::amount::show_time;

/// The longest latency kept apart; longer ones count as this.
const US_MAX: u64 = 3_600_000_000;

/// How long many calls of one kind took.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, US_MAX, 3).expect("the bounds are constant and valid"))
    }
}

impl Latency {
    pub(crate) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(US_MAX);
        self.0.saturating_record(us.clamp(1, US_MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds; 0 when nothing was recorded.
    pub(crate) fn percentile_us(&self, percentile: f64) -> u64 {
        self.0.value_at_percentile(percentile)
    }

    pub(crate) fn max_us(&self) -> u64 {
        self.0.max()
    }

    /// For a table; `-` when nothing was recorded.
    pub(crate) fn show(&self, percentile: f64) -> String {
        match self.count() {
            0 => "-".to_owned(),
            _ => show_time(Duration::from_micros(self.percentile_us(percentile))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latency = Latency::default();
        for us in 1..=10_000 {
            latency.record(Duration::from_micros(us));
        }
        let close = |found: u64, expected: u64| found.abs_diff(expected) * 1000 <= expected;
        assert!(close(latency.percentile_us(50.0), 5_000) && close(latency.percentile_us(99.0), 9_900));
        assert!(close(latency.max_us(), 10_000));
    }

    #[test]
    fn nothing_and_too_much_are_shown_too() {
        let mut latency = Latency::default();
        assert_eq!(latency.show(50.0), "-");
        latency.record(Duration::from_secs(1_000_000));
        latency.record(Duration::ZERO);
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.show(1.0), "1 µs");
    }
}
