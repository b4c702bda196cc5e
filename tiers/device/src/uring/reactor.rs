//! The thread that owns the ring.
//!
//! One round:
//!
//! ```text
//!   reap      completions -> resume, scatter or finish transfers; answer syncs
//!   collect   inbox -> backlog, sync line, arenas           (and from here on callers ring the bell)
//!   start     backlog -> submission queue, while the depth allows; a sync; the bell's read
//!   wait      one system call: submits, runs deferred work, sleeps until something completes
//! ```
//!
//! The bell is a read of an eventfd that is always under way, so the thread sleeps in one place only. It ends when the
//! inbox is closing, nothing waits, nothing is at the device, and the bell's read has come back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use super::arenas::Arenas;
use super::flights::Flights;
use super::inbox::{Inbox, Mail};
use crate::backlog::{Backlog, FlightLimits};
use crate::ledger::Ledger;
use crate::port::DiskError;
use crate::sync_line::{SyncLine, answer_all};
use crate::transfer::{Direction, Progress, Transfer};

/// Numbers on the ring that are no transfer's.
const BELL: u64 = u64::MAX;
const SYNC: u64 = u64::MAX - 1;
const TICK: u64 = u64::MAX - 2;

/// Entries beside transfers: bell, sync, tick.
pub(crate) const EXTRA_ENTRY_COUNT: u32 = 4;

/// The disk's file is the ring's only registered file.
const DISK_FILE: types::Fixed = types::Fixed(0);

/// What the thread shows to callers.
pub(crate) type Mode = Arc<std::sync::Mutex<String>>;

/// The ring and everything on it. Fields are dropped in this order: the ring goes before the memory registered with it.
pub(crate) struct Reactor {
    ring: IoUring,
    flights: Flights,
    arenas: Arenas,
    backlog: Backlog,
    syncs: SyncLine,
    ledger: Arc<Ledger>,
    inbox: Arc<Inbox>,
    mode: Mode,
    flavour: String,
    /// Where the bell's count goes.
    bell_count: Box<[u8; 8]>,
    bell_is_read: bool,
    tick_is_set: bool,
    closing: bool,
    spare: Box<Mail>,
    /// Taken from the ring and not yet dealt with: kept here so that a panic in a caller's waker loses none.
    completions: VecDeque<(u64, i32)>,
}

impl Reactor {
    /// A reactor for a ring whose file 0 is the disk.
    pub(crate) fn new(
        ring: IoUring,
        arenas: Arenas,
        limits: FlightLimits,
        ledger: Arc<Ledger>,
        inbox: Arc<Inbox>,
        mode: Mode,
    ) -> Self {
        let flavour = mode.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Self {
            ring,
            flights: Flights::default(),
            arenas,
            backlog: Backlog::new(limits),
            syncs: SyncLine::default(),
            ledger,
            inbox,
            mode,
            flavour,
            bell_count: Box::default(),
            bell_is_read: false,
            tick_is_set: false,
            closing: false,
            spare: Box::default(),
            completions: VecDeque::new(),
        }
    }

    /// Runs until the disk is closed. An error means that the ring itself failed. After a panic, which only a caller's
    /// waker or memory can cause, it may be called again.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        loop {
            self.reap();
            self.collect();
            self.start();
            if self.is_done() {
                return Ok(());
            }
            self.wait()?;
            self.inbox.awake();
        }
    }

    /// Nothing is at the device: its memory can be let go.
    pub(crate) fn is_grounded(&self) -> bool {
        self.flights.is_empty()
    }

    fn collect(&mut self) {
        let mut mail = self.inbox.take(std::mem::take(&mut self.spare), true);
        for transfer in mail.transfers.drain(..) {
            self.backlog.push(transfer);
        }
        for answer in mail.syncs.drain(..) {
            self.syncs.join(answer);
        }
        for (arena, ready_bytes) in mail.arenas.drain(..) {
            self.arenas.add(arena, ready_bytes);
        }
        self.closing |= mail.closing;
        mail.closing = false;
        self.spare = mail;
    }

    fn start(&mut self) {
        while let Some(transfer) = self.backlog.next() {
            self.ledger.dequeued(transfer.priority);
            if transfer.direction == Direction::Write
                && let Some(error) = self.ledger.poison_error()
            {
                self.backlog.landed(transfer.priority, transfer.bytes);
                transfer.finish(Err(error));
                continue;
            }
            self.ledger.launched();
            self.launch(transfer);
        }
        self.start_sync();
        if !self.bell_is_read && !self.closing {
            self.bell_is_read = true;
            let count = self.bell_count.as_mut_ptr();
            let read = opcode::Read::new(types::Fd(self.inbox.bell_fd()), count, 8).build().user_data(BELL);
            self.push(&read);
        }
        if !self.tick_is_set && self.arenas.is_pending() {
            self.tick_is_set = true;
            self.push(&opcode::Nop::new().build().user_data(TICK));
        }
    }

    fn start_sync(&mut self) {
        if let Some(error) = self.ledger.poison_error() {
            answer_all(self.syncs.give_up(), &Err(error));
        }
        if self.syncs.begin() {
            let sync = opcode::Fsync::new(DISK_FILE).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC);
            self.push(&sync);
        }
    }

    /// Puts what is left of a transfer on the ring.
    fn launch(&mut self, transfer: Transfer) {
        let (offset, bytes) = (transfer.position(), transfer.rest_bytes());
        let slot = self.arenas.slot_of(transfer.rest_address(), bytes);
        let memory: *mut u8 = std::ptr::with_exposed_provenance_mut(transfer.rest_address());
        let entry = match (transfer.direction, slot) {
            (Direction::Read, Some(slot)) => {
                opcode::ReadFixed::new(DISK_FILE, memory, bytes, slot).offset(offset).build()
            }
            (Direction::Read, None) => opcode::Read::new(DISK_FILE, memory, bytes).offset(offset).build(),
            (Direction::Write, Some(slot)) => {
                opcode::WriteFixed::new(DISK_FILE, memory, bytes, slot).offset(offset).build()
            }
            (Direction::Write, None) => opcode::Write::new(DISK_FILE, memory, bytes).offset(offset).build(),
        };
        let number = self.flights.depart(transfer);
        self.push(&entry.user_data(u64::from(number)));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry's memory is held until its completion: a transfer's by `flights`, the bell's by
        // `bell_count`; files are registered or held by `inbox`.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the queue has an entry for each transfer of the depth and the extra ones");
    }

    fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            // Interrupted, or the kernel wants completions taken first: the next round tries again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn reap(&mut self) {
        self.completions.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        while let Some((number, result)) = self.completions.pop_front() {
            match number {
                BELL => self.bell_is_read = false,
                SYNC => self.end_sync(result),
                TICK => self.register_memory(),
                number => self.land(number as u32, result),
            }
        }
    }

    fn land(&mut self, number: u32, result: i32) {
        let mut transfer = self.flights.arrive(number);
        match transfer.advance(moved(result)) {
            Progress::Resume => self.launch(transfer),
            Progress::Whole => {
                self.ledger.landed();
                self.backlog.landed(transfer.priority, transfer.bytes);
                self.ledger.moved(&transfer);
                transfer.finish(Ok(()));
            }
            Progress::Failed(reason) => {
                self.ledger.landed();
                self.backlog.landed(transfer.priority, transfer.bytes);
                self.fail(transfer, reason);
            }
        }
    }

    fn fail(&mut self, transfer: Transfer, reason: String) {
        if !transfer.is_joined() {
            transfer.finish(Err(DiskError::Io(reason)));
            return;
        }
        let pieces = transfer.scatter();
        self.ledger.requeued(pieces[0].priority, pieces.len());
        for piece in pieces.into_iter().rev() {
            self.backlog.push_front(piece);
        }
    }

    fn end_sync(&mut self, result: i32) {
        let answers = self.syncs.end();
        answer_all(answers, &self.ledger.synced(moved(result).map(drop)));
    }

    fn register_memory(&mut self) {
        self.tick_is_set = false;
        self.arenas.register_next(&self.ring.submitter());
        self.publish_mode();
    }

    /// Shows callers how the disk is driven.
    pub(crate) fn publish_mode(&self) {
        let text = format!("{}, registered file, {}", self.flavour, self.arenas.describe());
        *self.mode.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = text;
    }

    fn is_done(&self) -> bool {
        self.closing
            && !self.bell_is_read
            && !self.tick_is_set
            && self.flights.is_empty()
            && self.backlog.is_empty()
            && self.syncs.is_idle()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.inbox.shut();
        if self.bell_is_read {
            // The ring failed with the bell's read under way: its 8 bytes stay (INV-8).
            std::mem::forget(std::mem::take(&mut self.bell_count));
        }
    }
}

fn moved(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
