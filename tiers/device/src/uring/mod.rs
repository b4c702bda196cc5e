//! A disk on io_uring: one thread and one ring, O_DIRECT, registered file and memory.
//!
//! ```text
//!   callers ── submit, sync ──> inbox ──(eventfd if it sleeps)──> the ring's thread ── SQE ──> kernel
//!      ▲                                                                │
//!      └──────────────────────── oneshot per batch <── CQE ────────────┘
//! ```
//!
//! Callers plan their batches themselves ([`crate::transfer`]); the ring's thread only queues, starts and finishes
//! ([`reactor`]). The handle owns the thread: dropping it closes the inbox, and waits until everything handed in
//! before is done.
//!
//! A crash loses what was not synced; nothing of this module is persistent.

mod arenas;
mod flights;
mod inbox;
mod reactor;
mod setup;

use std::io;
use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};

use futures::channel::oneshot;

pub use setup::{UringProbe, probe};

use crate::aligned::Arena;
use crate::answer::{answers_of, refuse_all, sync_answer_of};
use crate::backing::Backing;
use crate::backlog::FlightLimits;
use crate::ledger::{Ledger, Refused};
use crate::port::{BoxFuture, Disk, DiskCounters, DiskError, DiskOp, Priority};
use crate::settings::DiskSettings;
use arenas::Arenas;
use inbox::Inbox;
use reactor::{EXTRA_ENTRY_COUNT, Mode, Reactor};

/// A disk driven by io_uring.
///
/// Dropping it blocks until everything submitted before has been done.
pub struct UringDisk {
    ledger: Arc<Ledger>,
    inbox: Arc<Inbox>,
    mode: Mode,
    thread: Option<JoinHandle<()>>,
    backing: Arc<Backing>,
}

impl UringDisk {
    /// Starts the thread and its ring over an open file or device.
    pub fn start(backing: Arc<Backing>, settings: &DiskSettings) -> io::Result<Self> {
        let queue_count_max = settings.queue_count_max;
        let ledger = Arc::new(Ledger::new(backing.bytes(), settings.transfer_bytes_max, queue_count_max));
        let inbox = Arc::new(Inbox::new()?);
        let mode = Mode::default();
        let (ready, started) = mpsc::sync_channel(1);
        let run = {
            let (backing, ledger, inbox, mode) =
                (Arc::clone(&backing), Arc::clone(&ledger), Arc::clone(&inbox), Arc::clone(&mode));
            let settings = settings.clone();
            move || drive(&backing, &settings, ledger, inbox, mode, &ready)
        };
        let thread = Builder::new().name("kvtier-uring".to_owned()).spawn(run)?;
        let gone = || io::Error::other("the ring's thread ended while starting");
        started.recv().map_err(|_| gone())??;
        Ok(Self { ledger, inbox, mode, thread: Some(thread), backing })
    }

    /// Hands an arena over for registration. Returns at once; [`Disk::mode`] shows how far it has come. The disk holds
    /// the arena until it is dropped.
    pub fn register_arena(&self, arena: Arena) {
        let bytes = arena.bytes;
        self.register_arena_up_to(arena, bytes);
    }

    /// The same for the arena's first `ready_bytes` bytes: its pages behind them may still be moved. Called again with
    /// more, it goes on from there.
    pub fn register_arena_up_to(&self, arena: Arena, ready_bytes: u64) {
        // A closed disk moves nothing, so it needs no memory.
        let _open = self.inbox.put(|mail| mail.arenas.push((arena, ready_bytes)));
    }

    /// The file or device.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }
}

/// Body of the ring's thread.
fn drive(
    backing: &Backing,
    settings: &DiskSettings,
    ledger: Arc<Ledger>,
    inbox: Arc<Inbox>,
    mode: Mode,
    ready: &mpsc::SyncSender<io::Result<()>>,
) {
    let built = setup::build((settings.depth + EXTRA_ENTRY_COUNT).next_power_of_two()).and_then(|setup| {
        setup.ring.submitter().register_files(&[backing.file.as_raw_fd()])?;
        Ok(setup)
    });
    let setup = match built {
        Ok(setup) => setup,
        Err(error) => {
            // Whoever starts the disk waits for this.
            let _nobody = ready.send(Err(error));
            return;
        }
    };
    *mode.lock().unwrap_or_else(PoisonError::into_inner) = setup.flavour.to_owned();
    let overlap_bytes = u64::from(settings.transfer_bytes_max);
    let arenas = Arenas::new(&setup.ring.submitter(), settings.arena_chunk_bytes, overlap_bytes);
    let limits = FlightLimits { depth: settings.depth, store_bytes_max: settings.store_bytes_in_flight_max };
    let mut reactor = Reactor::new(setup.ring, arenas, limits, Arc::clone(&ledger), inbox, mode);
    reactor.publish_mode();
    let _nobody = ready.send(Ok(()));
    if let Err(error) = run_through_panics(&mut reactor) {
        let reason = ledger.poison(format!("the ring failed: {error}"));
        if !reactor.is_grounded() {
            // The device may touch memory for as long as it likes, and nobody will ever hear that it has stopped. To
            // answer would let the memory be reused (INV-8), not to answer would hang callers for ever: the one safe
            // way on is a crash, which loses warmth and no truth (INV-3). The kernel gives no such error to a
            // correct caller.
            tracing::error!(%reason, "transfers are at the device and cannot be awaited: ending the process");
            std::process::abort();
        }
    }
}

/// A caller's waker or memory that panics must not take the disk down: the round goes on behind it.
fn run_through_panics(reactor: &mut Reactor) -> io::Result<()> {
    loop {
        match std::panic::catch_unwind(AssertUnwindSafe(|| reactor.run())) {
            Ok(ended) => return ended,
            Err(_) => tracing::error!("a waker or a buffer panicked on the ring's thread: going on"),
        }
    }
}

impl Disk for UringDisk {
    fn bytes(&self) -> u64 {
        self.ledger.disk_bytes()
    }

    fn submit(&self, batch: Vec<DiskOp>, priority: Priority) -> BoxFuture<Vec<Result<(), DiskError>>> {
        let count = batch.len();
        let plan = match self.ledger.admit(batch, priority) {
            Ok(plan) => plan,
            Err(Refused(error)) => return refuse_all(count, error),
        };
        if !plan.transfers.is_empty() {
            // If the thread has gone, the transfers are dropped here, and that answers `Closed`.
            let _open = self.inbox.put(|mail| mail.transfers.extend(plan.transfers));
        }
        answers_of(plan.answers, count)
    }

    fn sync(&self) -> BoxFuture<Result<(), DiskError>> {
        let (answer, heard) = oneshot::channel();
        let _open = self.inbox.put(|mail| mail.syncs.push(answer));
        sync_answer_of(heard)
    }

    fn poisoned(&self) -> Option<String> {
        self.ledger.poisoned().map(str::to_owned)
    }

    fn mode(&self) -> String {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counters(&self) -> DiskCounters {
        self.ledger.counters()
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        let _open = self.inbox.put(|mail| mail.closing = true);
        self.inbox.ring_bell();
        let Some(thread) = self.thread.take() else { return };
        // The last handle may go away inside a waker, on the ring's own thread: that thread cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the ring's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
