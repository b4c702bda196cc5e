//! The answer to a call that nobody waits for: asked now and then, or waited for with a bound.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvtier_client::ClientError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::argument::seconds;
use crate::error::{plain, raise};
use crate::process;
use crate::runtime::SIGNALS_EVERY;

/// The longest look for an answer without sleeping.
const SPIN_MAX: Duration = Duration::from_millis(1);

/// Makes the Python object of an answer, once somebody with the GIL wants it.
pub(crate) type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// Where a thread of ours leaves its answer.
#[derive(Default)]
pub(crate) struct Place {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Running,
    Done(Result<Convert, ClientError>),
    Taken,
}

impl Place {
    /// Leaves the answer.
    pub(crate) fn fill(&self, answer: Result<Convert, ClientError>) {
        *self.state() = State::Done(answer);
        self.changed.notify_all();
    }

    fn is_running(&self) -> bool {
        matches!(*self.state(), State::Running)
    }

    /// The answer, if it is there and was not taken yet.
    fn take(&self) -> Option<Result<Convert, ClientError>> {
        let mut state = self.state();
        if matches!(*state, State::Running) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(answer) => Some(answer),
            State::Running | State::Taken => None,
        }
    }

    /// Waits until the answer is there, at most `longest`; whether it is.
    fn wait(&self, longest: Duration) -> bool {
        let running = |state: &mut State| matches!(state, State::Running);
        let waited = self.changed.wait_timeout_while(self.state(), longest, running);
        !waited.expect("nobody panics while filling a place").1.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while filling a place")
    }
}

/// An answer that is on its way. Dropping it gives back whatever the call will have brought.
#[pyclass(frozen, generic, module = "kvtier")]
pub(crate) struct Pending {
    place: Arc<Place>,
    process: u32,
    taken: Mutex<Option<PyResult<Py<PyAny>>>>,
}

impl Pending {
    pub(crate) fn new(place: Arc<Place>) -> Self {
        Self { place, process: std::process::id(), taken: Mutex::new(None) }
    }

    /// The answer as Python sees it: the same object, or the same exception, every time.
    fn answer(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut taken = self.taken.lock_py_attached(py).expect("nobody panics while converting");
        if let Some(answer) = self.place.take() {
            *taken = Some(answer.map_err(raise).and_then(|convert| convert(py)));
        }
        match taken.as_ref().expect("asked only once it is there") {
            Ok(answer) => Ok(answer.clone_ref(py)),
            Err(error) => Err(error.clone_ref(py)),
        }
    }
}

#[pymethods]
impl Pending {
    /// Whether the answer is there. Never waits.
    fn ready(&self) -> PyResult<bool> {
        process::check(self.process)?;
        Ok(!self.place.is_running())
    }

    /// The answer, or None while it is on its way. Looks for it for `spin` seconds, at most 1 ms: awake and with the GIL,
    /// so that this ends in time to the microsecond, and no other thread of Python's takes its turn. Raises what the
    /// call would have raised.
    #[pyo3(signature = (spin=0.0))]
    fn poll(&self, py: Python<'_>, spin: f64) -> PyResult<Option<Py<PyAny>>> {
        if !self.ready()? && spin > 0.0 {
            let until = now() + seconds("spin", spin)?.min(SPIN_MAX);
            while self.place.is_running() && now() < until {
                std::hint::spin_loop();
            }
        }
        match self.ready()? {
            true => self.answer(py).map(Some),
            false => Ok(None),
        }
    }

    /// The answer, waited for at most `timeout` seconds (None: as long as the client's own timeouts say). Raises
    /// TimedOut when it is not there by then; it may be asked for again.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        process::check(self.process)?;
        let deadline = match timeout {
            Some(timeout) => now().checked_add(seconds("timeout", timeout)?),
            None => None,
        };
        loop {
            let left = deadline.map_or(SIGNALS_EVERY, |deadline| deadline.saturating_duration_since(now()));
            let place = &self.place;
            if !place.is_running() || py.detach(|| place.wait(left.min(SIGNALS_EVERY))) {
                return self.answer(py);
            }
            py.check_signals()?;
            if deadline.is_some_and(|deadline| now() >= deadline) {
                return Err(plain("TimedOut", "the answer is still on its way; ask again, or drop it"));
            }
        }
    }

    fn __repr__(&self) -> &'static str {
        if self.place.is_running() { "<kvtier.Pending: on its way>" } else { "<kvtier.Pending: ready>" }
    }
}

/// The clock of callers' timeouts, and of how long loads take.
#[expect(clippy::disallowed_methods, reason = "a caller's timeout is measured on the real clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
