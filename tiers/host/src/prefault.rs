//! Touching the arena's pages before anybody waits for them.
//!
//! Extents are populated one by one with `MADV_POPULATE_WRITE`, which changes no byte and reports a lack of memory as
//! an error instead of killing the process. Nothing waits for it: an untouched page is faulted in by its first use.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use crate::Arena;
use crate::mapping::Mapping;

/// How far prefaulting is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefault {
    /// Some extents are still to be touched.
    Working,
    /// All pages are there.
    Done,
    /// The machine refused; the rest is faulted in on use.
    Stopped(String),
}

/// State and bytes of prefaulting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefaultProgress {
    /// State.
    pub state: Prefault,
    /// Bytes touched.
    pub done_bytes: u64,
    /// Bytes of the arena.
    pub total_bytes: u64,
}

/// Claims extents and counts what is done. Steps may run on several threads.
pub(crate) struct Prefaulting {
    claimed_bytes: AtomicU64,
    done_bytes: AtomicU64,
    stopped: Mutex<Option<String>>,
    extent_bytes: u64,
}

impl Prefaulting {
    pub(crate) fn of_extents(extent_bytes: u64) -> Self {
        Self { claimed_bytes: 0.into(), done_bytes: 0.into(), stopped: Mutex::new(None), extent_bytes }
    }

    /// Touches the next extent. Takes 10 to 30 ms for 64 MiB.
    pub(crate) fn step(&self, mapping: &Mapping) -> PrefaultProgress {
        let total = mapping.bytes() as u64;
        if self.reason().is_none() {
            let at = self.claimed_bytes.fetch_add(self.extent_bytes, Ordering::Relaxed);
            if at < total {
                let bytes = self.extent_bytes.min(total - at);
                self.record(bytes, mapping.populate(at as usize, bytes as usize));
            }
        }
        self.progress(total)
    }

    pub(crate) fn progress(&self, total_bytes: u64) -> PrefaultProgress {
        let done_bytes = self.done_bytes.load(Ordering::Relaxed);
        let state = match self.reason() {
            Some(why) => Prefault::Stopped(why),
            None if done_bytes < total_bytes => Prefault::Working,
            None => Prefault::Done,
        };
        PrefaultProgress { state, done_bytes, total_bytes }
    }

    fn exhausted(&self, total_bytes: u64) -> bool {
        self.claimed_bytes.load(Ordering::Relaxed) >= total_bytes
    }

    fn record(&self, bytes: u64, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) => {
                let why = format!("populating {bytes} bytes: {error}");
                self.stopped.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            }
        }
    }

    fn reason(&self) -> Option<String> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Arena {
    /// Touches the pages of the next extent; returns how far it is. Costs nothing once all are touched.
    pub fn prefault_step(&self) -> PrefaultProgress {
        self.prefaulting().step(self.mapping())
    }

    /// How far prefaulting is, for `status`.
    pub fn prefault_progress(&self) -> PrefaultProgress {
        self.prefaulting().progress(self.mapping().bytes() as u64)
    }

    /// Starts a thread that touches one extent after the other and ends when all are touched, when the machine
    /// refuses, or when the arena is dropped. Fails only if no thread can be had; the arena works without.
    pub fn prefault_in_background(self: &Arc<Self>) -> io::Result<thread::JoinHandle<()>> {
        let arena = Arc::downgrade(self);
        thread::Builder::new().name("kvtier-prefault".into()).spawn(move || touch_all(&arena))
    }
}

fn touch_all(arena: &Weak<Arena>) {
    while let Some(arena) = arena.upgrade() {
        let progress = arena.prefault_step();
        match progress.state {
            Prefault::Working if arena.prefaulting().exhausted(progress.total_bytes) => return,
            Prefault::Working => {}
            Prefault::Done => return tracing::info!(bytes = progress.done_bytes, "host arena is prefaulted"),
            Prefault::Stopped(why) => return tracing::warn!(%why, "host arena is not prefaulted any further"),
        }
    }
}
