//! A disk on a few threads that block, for machines where io_uring is forbidden. Same guarantees, more CPU.
//!
//! All threads share one queue. Each takes the next thing to do: a sync if one may begin, else the next transfer. The
//! queue's depth is the number of threads. When the handle is dropped the threads empty the queue and end.

use std::io;
use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use futures::channel::oneshot;

use crate::answer::{answers_of, refuse_all, sync_answer_of};
use crate::backing::Backing;
use crate::backlog::{Backlog, FlightLimits};
use crate::ledger::{Ledger, Refused};
use crate::port::{BoxFuture, Disk, DiskCounters, DiskError, DiskOp, Priority};
use crate::settings::DiskSettings;
use crate::sync_line::{SyncLine, answer_all};
use crate::transfer::{Direction, Progress, Transfer};

/// A disk driven by blocking threads.
///
/// Dropping it blocks until everything submitted before has been done.
pub struct PoolDisk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    mode: String,
}

struct Shared {
    ledger: Ledger,
    backing: Arc<Backing>,
    work: Mutex<Work>,
    changed: Condvar,
}

struct Work {
    backlog: Backlog,
    syncs: SyncLine,
    closing: bool,
}

/// What a thread does next.
enum Task {
    Move(Transfer),
    Sync,
    End,
}

impl PoolDisk {
    /// Starts the threads over an open file or device. `reason` says why this driver was taken.
    pub fn start(backing: Arc<Backing>, settings: &DiskSettings, reason: &str) -> io::Result<Self> {
        let count = settings.pool_thread_count;
        let limits = FlightLimits { depth: count, store_bytes_max: settings.store_bytes_in_flight_max };
        let ledger = Ledger::new(backing.bytes(), settings.transfer_bytes_max, settings.queue_count_max);
        let work = Work { backlog: Backlog::new(limits), syncs: SyncLine::default(), closing: false };
        let shared = Arc::new(Shared { ledger, backing, work: Mutex::new(work), changed: Condvar::new() });
        let mode = format!("pool of {count} threads ({reason})");
        // Built first, so that threads already started end if a later one does not.
        let mut disk = Self { shared, threads: Vec::new(), mode };
        for number in 0..count {
            let shared = Arc::clone(&disk.shared);
            let thread = Builder::new().name(format!("kvtier-disk{number}")).spawn(move || shared.run())?;
            disk.threads.push(thread);
        }
        Ok(disk)
    }

    /// The file or device.
    pub fn backing(&self) -> &Backing {
        &self.shared.backing
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let task = self.take();
            if matches!(task, Task::End) {
                return;
            }
            // A caller's waker or memory that panics must not take the thread down.
            if std::panic::catch_unwind(AssertUnwindSafe(|| self.perform(task))).is_err() {
                tracing::error!("a waker or a buffer panicked on a disk thread: going on");
            }
        }
    }

    fn perform(&self, task: Task) {
        match task {
            Task::Move(transfer) => self.carry_out(transfer),
            Task::Sync => self.sync(),
            Task::End => {}
        }
    }

    fn take(&self) -> Task {
        let mut work = self.work();
        loop {
            if work.syncs.begin() {
                return Task::Sync;
            }
            if let Some(transfer) = work.backlog.next() {
                if !work.backlog.is_empty() {
                    // Each that finds more than it takes wakes another.
                    self.changed.notify_one();
                }
                return Task::Move(transfer);
            }
            if work.closing && work.syncs.is_idle() && work.backlog.is_empty() {
                self.changed.notify_all();
                return Task::End;
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn carry_out(&self, mut transfer: Transfer) {
        let (priority, bytes) = (transfer.priority, transfer.bytes);
        self.ledger.dequeued(priority);
        let refused = if transfer.direction == Direction::Write { self.ledger.poison_error() } else { None };
        let result = match refused {
            Some(error) => Err(error),
            None => self.move_bytes(&mut transfer).map_err(DiskError::Io),
        };
        let mut work = self.work();
        work.backlog.landed(priority, bytes);
        if transfer.is_joined() && matches!(result, Err(DiskError::Io(_))) {
            let pieces = transfer.scatter();
            self.ledger.requeued(priority, pieces.len());
            for piece in pieces.into_iter().rev() {
                work.backlog.push_front(piece);
            }
            drop(work);
        } else {
            drop(work);
            transfer.finish(result);
        }
        // Nobody need be woken: this thread looks at the queue next.
    }

    fn move_bytes(&self, transfer: &mut Transfer) -> Result<(), String> {
        self.ledger.launched();
        let result = loop {
            match transfer.advance(self.move_some(transfer)) {
                Progress::Resume => {}
                Progress::Whole => {
                    self.ledger.moved(transfer);
                    break Ok(());
                }
                Progress::Failed(reason) => break Err(reason),
            }
        };
        self.ledger.landed();
        result
    }

    fn move_some(&self, transfer: &Transfer) -> io::Result<u32> {
        let file = self.backing.file.as_raw_fd();
        let memory: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(transfer.rest_address());
        let bytes = transfer.rest_bytes() as usize;
        let offset = transfer.position() as libc::off_t;
        let moved = match transfer.direction {
            // SAFETY: the transfer's batch keeps the memory, and its maker promised that it is mapped.
            Direction::Read => unsafe { libc::pread(file, memory, bytes, offset) },
            // SAFETY: as above.
            Direction::Write => unsafe { libc::pwrite(file, memory, bytes, offset) },
        };
        u32::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    fn sync(&self) {
        let result = match self.ledger.poison_error() {
            Some(error) => Err(error),
            None => self.ledger.synced(self.backing.file.sync_data()),
        };
        let answers = self.work().syncs.end();
        answer_all(answers, &result);
    }
}

impl Disk for PoolDisk {
    fn bytes(&self) -> u64 {
        self.shared.ledger.disk_bytes()
    }

    fn submit(&self, batch: Vec<DiskOp>, priority: Priority) -> BoxFuture<Vec<Result<(), DiskError>>> {
        let count = batch.len();
        let plan = match self.shared.ledger.admit(batch, priority) {
            Ok(plan) => plan,
            Err(Refused(error)) => return refuse_all(count, error),
        };
        let mut work = self.shared.work();
        let alone = plan.transfers.len() == 1;
        for transfer in plan.transfers {
            work.backlog.push(transfer);
        }
        drop(work);
        if alone {
            self.shared.changed.notify_one();
        } else {
            self.shared.changed.notify_all();
        }
        answers_of(plan.answers, count)
    }

    fn sync(&self) -> BoxFuture<Result<(), DiskError>> {
        let (answer, heard) = oneshot::channel();
        self.shared.work().syncs.join(answer);
        self.shared.changed.notify_one();
        sync_answer_of(heard)
    }

    fn poisoned(&self) -> Option<String> {
        self.shared.ledger.poisoned().map(str::to_owned)
    }

    fn mode(&self) -> String {
        self.mode.clone()
    }

    fn counters(&self) -> DiskCounters {
        self.shared.ledger.counters()
    }
}

impl Drop for PoolDisk {
    fn drop(&mut self) {
        self.shared.work().closing = true;
        self.shared.changed.notify_all();
        let here = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last handle may go away inside a waker, on one of these threads: it cannot wait for itself.
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
