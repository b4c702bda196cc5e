//! The one place where this crate lets time pass: the wait before a lost stream is opened again.

use std::time::Duration;

/// Waits `delay`, and no longer than a minute whatever the daemon advised.
#[allow(clippy::disallowed_methods, reason = "back-off before a reconnect is a wait for time itself")]
pub(crate) async fn pause(delay: Duration) {
    tokio::time::sleep(delay.min(Duration::from_secs(60))).await;
}
