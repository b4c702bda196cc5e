//! Throughput that means something under concurrency: bytes over the time in which at least one operation ran.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Stopwatch;

/// Adds up bytes and busy time over all workers.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: u32,
    since: Option<Stopwatch>,
    busy: Duration,
    bytes: u64,
}

/// One operation that runs. It ends when this is dropped, so an abandoned operation ends too.
#[derive(Debug)]
pub(crate) struct Running<'r>(&'r Rate);

impl Rate {
    pub(crate) fn begin(&self) -> Running<'_> {
        let mut state = self.lock();
        state.running += 1;
        state.since.get_or_insert_with(Stopwatch::start);
        Running(self)
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.lock().bytes += bytes;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Bytes per second of busy time, if there was any.
    pub(crate) fn bytes_per_second(&self) -> Option<f64> {
        let state = self.lock();
        let busy = state.busy + state.since.map_or(Duration::ZERO, Stopwatch::elapsed);
        (!busy.is_zero()).then(|| state.bytes as f64 / busy.as_secs_f64())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        if state.running == 0 {
            let since = state.since.take().expect("set while something runs");
            state.busy += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_operations_count_their_time_once() {
        let rate = Rate::default();
        let (one, two) = (rate.begin(), rate.begin());
        rate.add_bytes(10);
        drop(one);
        assert!(rate.lock().since.is_some(), "one still runs");
        drop(two);
        let state = rate.lock();
        assert!(state.since.is_none() && state.busy > Duration::ZERO);
        assert_eq!(state.bytes, 10);
    }

    #[test]
    fn nothing_has_no_rate() {
        assert_eq!(Rate::default().bytes_per_second(), None);
    }
}
