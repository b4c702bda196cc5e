//! The command line's clock: the one place where it reads time or lets it pass.

use std::time::{Duration, Instant};

/// Measures how long something takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[allow(clippy::disallowed_methods, reason = "a command measures the real daemon in real time")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets time pass: pacing a replay, refreshing a view, backing off from a daemon that asked for it.
#[allow(clippy::disallowed_methods, reason = "what is waited for is time itself")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
