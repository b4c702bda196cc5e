//! Places for connections that are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::{Closed, ConnectionId};
use crate::observe::Metrics;

/// All seats of the daemon, TCP and unix socket together.
pub struct Seats {
    max: usize,
    taken: AtomicUsize,
    next: AtomicU64,
    freed: Arc<Notify>,
    metrics: Arc<Metrics>,
    closed: Closed,
}

impl std::fmt::Debug for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seats").field("max", &self.max).field("taken", &self.taken()).finish()
    }
}

impl Seats {
    /// `closed` is told of every connection that had a seat and is gone.
    pub fn new(max: usize, metrics: Arc<Metrics>, closed: Closed) -> Arc<Self> {
        let (taken, next) = (AtomicUsize::new(0), AtomicU64::new(1));
        Arc::new(Self { max, taken, next, freed: Arc::default(), metrics, closed })
    }

    /// Connections being served.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Told whenever a seat becomes free.
    pub(crate) fn freed(&self) -> Arc<Notify> {
        self.freed.clone()
    }

    /// A seat, or nothing when all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Seat> {
        let raise = |taken: usize| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise).ok()?;
        self.metrics.connection_opened();
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
        Some(Seat { id, seats: self.clone() })
    }
}

/// One taken seat; dropping it tells who waits for that.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: ConnectionId,
    seats: Arc<Seats>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.fetch_sub(1, Ordering::Relaxed);
        self.seats.metrics.connection_closed();
        self.seats.freed.notify_one();
        (self.seats.closed)(self.id);
    }
}
