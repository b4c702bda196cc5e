//! What the callers' side and the device's side of a disk both know: limits, counters, poison.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backlog::CLASS_COUNT;
use crate::port::{DiskCounters, DiskError, DiskOp, Priority};
use crate::transfer::{Direction, Limits, Plan, Transfer, plan};

/// Shared by the handle of a disk and its threads.
pub(crate) struct Ledger {
    disk_bytes: u64,
    transfer_bytes_max: u32,
    queue_count_max: u64,
    poison: OnceLock<String>,
    /// Transfers that wait, by priority: each has its own room, so that stores cannot keep loads out.
    waiting: [AtomicU64; CLASS_COUNT],
    in_flight: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    sync_count: AtomicU64,
}

/// A batch that did not get in: every operation's answer is this.
pub(crate) struct Refused(pub(crate) DiskError);

impl Ledger {
    /// A ledger with nothing in it.
    pub(crate) fn new(disk_bytes: u64, transfer_bytes_max: u32, queue_count_max: u32) -> Self {
        Self {
            disk_bytes,
            transfer_bytes_max,
            queue_count_max: u64::from(queue_count_max),
            poison: OnceLock::new(),
            waiting: Default::default(),
            in_flight: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            sync_count: AtomicU64::new(0),
        }
    }

    /// Size of the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Plans a batch and takes room in the queue for its transfers, or refuses all of it.
    pub(crate) fn admit(&self, ops: Vec<DiskOp>, priority: Priority) -> Result<Plan, Refused> {
        let poisoned = self.poisoned();
        let limits = Limits { disk_bytes: self.disk_bytes, transfer_bytes_max: self.transfer_bytes_max, poisoned };
        let plan = plan(ops, priority, limits);
        let count = plan.transfers.len() as u64;
        if count > self.queue_count_max {
            let bound = self.queue_count_max;
            return Err(Refused(DiskError::Io(format!(
                "a batch of {count} transfers can never fit a queue of {bound}: split it"
            ))));
        }
        let room = |waiting: u64| waiting.checked_add(count).filter(|sum| *sum <= self.queue_count_max);
        let taken = self.waiting[priority as usize].fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        if taken.is_err() {
            return Err(Refused(DiskError::Busy));
        }
        Ok(plan)
    }

    /// A transfer has left the queue for good.
    pub(crate) fn dequeued(&self, priority: Priority) {
        self.waiting[priority as usize].fetch_sub(1, Ordering::AcqRel);
    }

    /// A failed joined transfer waits again, as this many.
    pub(crate) fn requeued(&self, priority: Priority, count: usize) {
        self.waiting[priority as usize].fetch_add(count as u64, Ordering::AcqRel);
    }

    /// A transfer is at the device.
    pub(crate) fn launched(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A transfer is back.
    pub(crate) fn landed(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A transfer moved all its bytes.
    pub(crate) fn moved(&self, transfer: &Transfer) {
        let counter = match transfer.direction {
            Direction::Read => &self.read_bytes,
            Direction::Write => &self.written_bytes,
        };
        counter.fetch_add(u64::from(transfer.bytes), Ordering::Relaxed);
    }

    /// Ends a sync: counts it, or poisons the disk for good (INV-7).
    pub(crate) fn synced(&self, result: std::io::Result<()>) -> Result<(), DiskError> {
        match result {
            Ok(()) => {
                self.sync_count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(self.poison(format!("fdatasync failed: {error}"))),
        }
    }

    /// Poisons the disk. The first reason stays.
    pub(crate) fn poison(&self, reason: String) -> DiskError {
        let reason = self.poison.get_or_init(|| {
            tracing::error!(%reason, "the disk is poisoned: it is read only from here on");
            reason
        });
        DiskError::Poisoned(reason.clone())
    }

    /// Why the disk is poisoned, if it is.
    pub(crate) fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// The error a write or sync gets now, if the disk is poisoned.
    pub(crate) fn poison_error(&self) -> Option<DiskError> {
        self.poisoned().map(|reason| DiskError::Poisoned(reason.to_owned()))
    }

    /// For people.
    pub(crate) fn counters(&self) -> DiskCounters {
        DiskCounters {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            in_flight_count: self.in_flight.load(Ordering::Relaxed),
            queued_count: self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum(),
            sync_count: self.sync_count.load(Ordering::Relaxed),
        }
    }
}
