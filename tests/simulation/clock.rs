//! A clock that moves only when the simulation says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use kvtier_engine::port::{BoxFuture, Clock, Moment};

/// Virtual time and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct SimClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Moment,
    next_timer: u64,
    timers: BTreeMap<(Moment, u64), Option<Waker>>,
}

impl SimClock {
    /// Jumps to the next timer and wakes it; false if nobody waits for time.
    pub(crate) fn advance(&self) -> bool {
        let mut state = self.state.lock().expect("one thread");
        let Some(((at, _), waker)) = state.timers.pop_first() else { return false };
        state.now = state.now.max(at);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        self.state.lock().expect("one thread").now
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + u64::try_from(self.now().0.as_millis()).expect("a simulation is short")
    }

    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        let timer = {
            let mut state = self.state.lock().expect("one thread");
            state.next_timer += 1;
            let timer = (state.now.after(pause), state.next_timer);
            state.timers.insert(timer, None);
            timer
        };
        let guard = Timer { state: Arc::clone(&self.state), timer };
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = guard.state.lock().expect("one thread");
            match state.timers.get_mut(&guard.timer) {
                None => Poll::Ready(()),
                Some(waker) => {
                    *waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }
}

/// Takes the timer out when its future is dropped.
struct Timer {
    state: Arc<Mutex<State>>,
    timer: (Moment, u64),
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.state.lock().expect("one thread").timers.remove(&self.timer);
    }
}
