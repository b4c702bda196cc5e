//! A clock that moves when told to.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvtier_engine::port::{BoxFuture, Clock, Moment};

#[derive(Default)]
struct State {
    now: Moment,
    sleepers: BTreeMap<(Moment, u64), Option<Waker>>,
    next_sleeper: u64,
}

/// Stands still until advanced.
#[derive(Clone, Default)]
pub struct HandClock {
    state: Arc<Mutex<State>>,
}

impl HandClock {
    /// Moves on and wakes whoever slept till then.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = state.now.after(by);
        let now = state.now;
        let due: Vec<_> = state.sleepers.range_mut(..=(now, u64::MAX)).filter_map(|(_, waker)| waker.take()).collect();
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    /// Moves on to the earliest sleeper's moment; false if nobody sleeps.
    pub fn advance_to_next(&self) -> bool {
        let mut state = self.state();
        let now = state.now;
        state.sleepers.retain(|(until, _), _| *until > now);
        let Some(&(until, _)) = state.sleepers.keys().next() else { return false };
        drop(state);
        self.advance(until.since(now));
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sleep {
    clock: HandClock,
    key: (Moment, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.now >= self.key.0 {
            state.sleepers.remove(&self.key);
            return Poll::Ready(());
        }
        state.sleepers.insert(self.key, Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.state().sleepers.remove(&self.key);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Moment {
        self.state().now
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(self.now().0.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        let mut state = self.state();
        let key = (state.now.after(pause), state.next_sleeper);
        state.next_sleeper += 1;
        drop(state);
        Box::pin(Sleep { clock: self.clone(), key })
    }
}
