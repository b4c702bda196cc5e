//! Time of a run: from its start, real or made up by a test.

use std::time::{Duration, Instant};

/// Time since the run began.
pub trait Clock: Sync {
    /// Now.
    fn now(&self) -> Duration;
    /// Returns at that time, or at once if it has passed.
    fn wait_until(&self, moment: Duration);
}

/// The real one.
#[derive(Debug)]
pub struct RealClock(Instant);

impl RealClock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait_until(&self, moment: Duration) {
        // Sleeping to the end is late by a wake-up, which counts: nobody would be served earlier either.
        while let Some(left) = moment.checked_sub(self.now()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left);
        }
    }
}
