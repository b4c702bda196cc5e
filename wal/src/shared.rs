//! What the handle and the writer share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvtier_engine::port::Clock;

use crate::settings::Settings;
use crate::signal::Signal;
use crate::state::State;

/// The state and the two signals that wake the writer's halves.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    /// Something for the half that writes.
    pub(crate) commit: Signal,
    /// Something for the half that reads.
    pub(crate) serve: Signal,
}

impl Shared {
    pub(crate) fn new(state: State, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::new(state), settings, clock, commit: Signal::default(), serve: Signal::default() }
    }

    /// The state. Held for short, synchronous steps only. A thread that panicked while holding it left it consistent
    /// enough to say that the journal is poisoned, which the writer's guard then does.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the writer to write what is queued and to end.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.commit.raise();
        self.serve.raise();
    }

    /// Ends the journal for good and tells everybody who waits.
    pub(crate) fn poison(&self, reason: &str) {
        let told = self.lock().poison(reason);
        told.tell();
    }
}
