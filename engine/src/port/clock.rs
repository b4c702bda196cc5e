//! Time, as the engine sees it. The simulator's clock only moves when it says so.

use std::time::Duration;

use super::BoxFuture;

/// A point on the node's monotonic clock: time since the clock was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// The moment `later` after this one.
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Monotonic and wall time, and waiting.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic now.
    fn now(&self) -> Moment;
    /// Wall time in milliseconds since 1970, for people and for the wire; never for decisions.
    fn unix_ms(&self) -> u64;
    /// Resolves once `pause` has passed.
    fn sleep(&self, pause: Duration) -> BoxFuture<()>;
}
