//! What the journal knows, behind one lock: the queue, the numbers, who waits, what is on disk. No I/O and no clock.
//!
//! ```text
//!             append                take_group              commit
//!   numbers ----------> queue ------------------> in flight --------> durable, readable
//!                         |                           |
//!                         +------ suspend: lost ------+        (numbers are not used again)
//!
//!            disk full, log full, queue over its hard bound
//!   Open ---------------------------------------------------> Suspended --- reset record durable, epoch + 1 ---> Open
//!     \________________ a sync or an unknown write failed ________|______________________________> Poisoned
//! ```

use std::collections::VecDeque;

use futures::channel::oneshot;
use kvtier_engine::port::{
    AppendRefused, JournalError, JournalState, JournalStatus, Moment, Position, ReadRefused, Record,
};

use crate::lost::Lost;
use crate::recent::{Recent, Run};
use crate::settings::{QUEUE_RECORDS_HARD, QUEUE_RECORDS_SOFT, Settings};
use crate::table::Table;
use crate::waiters::{Told, Waiters};

/// Reads that may wait for the disk.
pub(crate) const READS_QUEUED_MAX: usize = 1024;

/// What a durable waiter hears.
pub(crate) type Durability = Result<(), JournalError>;
/// What a reader hears.
pub(crate) type ReadAnswer = Result<Vec<(Position, Record)>, ReadRefused>;

/// Records of one `append`.
#[derive(Debug)]
struct Batch {
    records: Vec<Record>,
    bytes: usize,
}

/// A read that needs the disk.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub(crate) after: u64,
    pub(crate) count_max: usize,
    pub(crate) reply: oneshot::Sender<ReadAnswer>,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) epoch: u64,
    /// Last number before the epoch's own.
    epoch_base_seq: u64,
    /// The next number to give out.
    pub(crate) next_seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) condition: JournalState,
    pub(crate) closing: bool,
    /// The index holds everything up to here.
    pub(crate) covered_seq: u64,
    pub(crate) table: Table,
    pub(crate) recent: Recent,
    pub(crate) lost: Lost,
    pub(crate) durable: Waiters<Durability>,
    pub(crate) grown: Waiters<()>,
    /// How many are likely to wait together: those the last group released, and those it left waiting.
    expected_waiters: usize,
    pub(crate) reads: VecDeque<ReadRequest>,
    queue: VecDeque<Batch>,
    queue_bytes: usize,
    /// First number in the queue; `next_seq` when it is empty.
    queue_first_seq: u64,
    /// When the oldest record in the queue came.
    queue_since: Moment,
    /// Queued and in flight.
    outstanding_bytes: usize,
    outstanding_records: usize,
}

/// What an append did besides queueing.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) position: Position,
    /// The writer should look: a timer is to be started, or a group is complete.
    pub(crate) wake: bool,
}

/// Why an append was refused, and who has to hear of it.
#[derive(Debug)]
pub(crate) struct Overflow {
    pub(crate) refused: AppendRefused,
    pub(crate) told: Option<Told<Durability>>,
}

impl State {
    /// A journal whose last durable record is `last_seq` and whose next will be `next_seq` in `epoch`.
    pub(crate) fn new(settings: &Settings, table: Table, last_seq: u64, next_seq: u64, epoch: u64) -> Self {
        let mut lost = Lost::default();
        lost.add(last_seq + 1, next_seq - 1);
        Self {
            epoch,
            epoch_base_seq: 0,
            next_seq,
            durable_seq: last_seq,
            condition: JournalState::Open,
            closing: false,
            covered_seq: 0,
            table,
            recent: Recent::new(last_seq, usize::try_from(settings.recent_bytes_max).unwrap_or(usize::MAX)),
            lost,
            durable: Waiters::default(),
            grown: Waiters::default(),
            expected_waiters: 0,
            reads: VecDeque::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            queue_first_seq: next_seq,
            queue_since: Moment::default(),
            outstanding_bytes: 0,
            outstanding_records: 0,
        }
    }

    /// From now on records belong to `epoch`, whose first one has the next number.
    pub(crate) fn enter(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.epoch_base_seq = self.next_seq - 1;
    }

    /// Whether the condition allows an append at all.
    fn check_condition(&self) -> Result<(), AppendRefused> {
        match &self.condition {
            JournalState::Open if self.closing => Err(AppendRefused::Suspended("the journal is closing".into())),
            JournalState::Open => Ok(()),
            JournalState::Suspended(reason) => Err(AppendRefused::Suspended(reason.clone())),
            JournalState::Poisoned(reason) => Err(AppendRefused::Poisoned(reason.clone())),
        }
    }

    /// The soft bound (INV-5).
    pub(crate) fn ready(&self, queue_bytes_max: usize) -> Result<(), AppendRefused> {
        self.check_condition()?;
        let full = self.outstanding_bytes >= queue_bytes_max || self.outstanding_records >= QUEUE_RECORDS_SOFT;
        if full { Err(AppendRefused::Busy) } else { Ok(()) }
    }

    /// Numbers and queues records, up to the hard bound: twice the soft one.
    pub(crate) fn append(
        &mut self,
        records: Vec<Record>,
        bytes: usize,
        now: Moment,
        settings: &Settings,
    ) -> Result<Appended, Overflow> {
        self.check_condition().map_err(|refused| Overflow { refused, told: None })?;
        let bytes_hard = usize::try_from(settings.queue_bytes_max * 2).unwrap_or(usize::MAX);
        let count = records.len();
        if self.outstanding_bytes + bytes > bytes_hard || self.outstanding_records + count > QUEUE_RECORDS_HARD {
            let reason = format!("its queue of {} bytes overflowed", self.outstanding_bytes);
            let told = Some(self.suspend(self.queue_first_seq, &reason));
            return Err(Overflow { refused: AppendRefused::Suspended(reason), told });
        }
        if count > 0 && self.queue.is_empty() {
            self.queue_since = now;
        }
        let group_bytes = usize::try_from(settings.group_commit_bytes_max).unwrap_or(usize::MAX);
        let complete = self.queue_bytes < group_bytes && self.queue_bytes + bytes >= group_bytes;
        let wake = count > 0 && (self.queue.is_empty() || complete);
        self.next_seq += count as u64;
        self.queue_bytes += bytes;
        self.outstanding_bytes += bytes;
        self.outstanding_records += count;
        if count > 0 {
            self.queue.push_back(Batch { records, bytes });
        }
        Ok(Appended { position: Position { epoch: self.epoch, seq: self.next_seq - 1 }, wake })
    }

    /// Whether anything waits to be written, and since when.
    pub(crate) fn queued(&self) -> Option<(Moment, usize)> {
        (!self.queue.is_empty()).then_some((self.queue_since, self.queue_bytes))
    }

    /// Whether somebody waits for a record in the queue.
    pub(crate) fn someone_waits(&self) -> bool {
        self.durable.lowest().is_some_and(|seq| seq < self.next_seq)
    }

    /// Whether as many wait as are likely to come.
    pub(crate) fn all_wait(&self) -> bool {
        self.durable.count() >= self.expected_waiters
    }

    /// Takes whole batches out of the queue, at least one, until they have `bytes_max`. What waits longer than one sync
    /// takes goes with the next one as a whole, or a slow disk would never catch up.
    pub(crate) fn take_group(&mut self, bytes_max: usize) -> Run {
        let first_seq = self.queue_first_seq;
        let oldest = self.queue.pop_front().expect("the writer takes a group only when something is queued");
        let Batch { mut records, mut bytes } = oldest;
        while bytes < bytes_max {
            let Some(mut next) = self.queue.pop_front() else { break };
            records.append(&mut next.records);
            bytes += next.bytes;
        }
        self.queue_bytes -= bytes;
        self.queue_first_seq += records.len() as u64;
        Run { epoch: self.epoch, first_seq, records, bytes }
    }

    /// A group is on stable storage: `bytes` more in the newest segment, its frames at `marks`.
    pub(crate) fn commit(&mut self, run: Run, bytes: u64, marks: &[(u64, u64)]) -> (Told<Durability>, Told<()>) {
        assert!(run.first_seq > self.durable_seq, "groups become durable in order");
        let segment = self.table.newest_mut().expect("a group was written to it");
        let before = segment.bytes;
        marks.iter().for_each(|(seq, offset)| segment.mark(*seq, before + offset));
        segment.bytes += bytes;
        segment.last_seq = run.last_seq();
        self.durable_seq = run.last_seq();
        self.outstanding_bytes -= run.bytes;
        self.outstanding_records -= run.records.len();
        self.recent.push(run);
        let told = self.durable.up_to(self.durable_seq, Ok(()));
        self.expected_waiters = told.count() + self.durable.count();
        (told, self.grown.up_to(self.durable_seq - 1, ()))
    }

    /// The group in flight failed for want of room: forget it.
    pub(crate) fn forget_group(&mut self, run: &Run) {
        self.outstanding_bytes -= run.bytes;
        self.outstanding_records -= run.records.len();
    }

    /// Drops the queue and all numbers from `first_lost` on, and takes no more records until resumed.
    pub(crate) fn suspend(&mut self, first_lost: u64, reason: &str) -> Told<Durability> {
        let dropped: usize = self.queue.drain(..).map(|batch| batch.records.len()).sum();
        self.outstanding_bytes -= self.queue_bytes;
        self.outstanding_records -= dropped;
        self.queue_bytes = 0;
        self.queue_first_seq = self.next_seq;
        // A group in flight may fail after the queue behind it was lost: then the two ranges become one.
        self.lost.cut(first_lost);
        self.lost.add(first_lost, self.next_seq - 1);
        if !matches!(self.condition, JournalState::Poisoned(_)) {
            self.condition = JournalState::Suspended(reason.into());
        }
        self.durable.from(first_lost, Err(JournalError::Suspended(reason.into())))
    }

    /// The new epoch's reset record is on stable storage.
    pub(crate) fn resume(&mut self, run: Run, bytes: u64) -> (Told<Durability>, Told<()>) {
        self.next_seq = run.first_seq;
        self.enter(run.epoch);
        self.next_seq = run.last_seq() + 1;
        self.queue_first_seq = self.next_seq;
        self.outstanding_bytes += run.bytes;
        self.outstanding_records += run.records.len();
        self.condition = JournalState::Open;
        self.commit(run, bytes, &[])
    }

    /// Nothing is written any more (INV-7). Everybody who waits hears of it. The first reason stays.
    pub(crate) fn poison(&mut self, reason: &str) -> Told<Durability> {
        let first = match &self.condition {
            JournalState::Poisoned(first) => first.clone(),
            _ => reason.into(),
        };
        self.condition = JournalState::Poisoned(first.clone());
        self.queue.clear();
        self.durable.from(0, Err(JournalError::Poisoned(first)))
    }

    /// What is known of `seq` now; `None`: it has to be waited for.
    pub(crate) fn durability(&self, seq: u64) -> Option<Durability> {
        if self.lost.holds(seq) {
            let reason = match &self.condition {
                JournalState::Suspended(reason) => reason.clone(),
                _ => "the record was lost before the current epoch".into(),
            };
            return Some(Err(JournalError::Suspended(reason)));
        }
        if seq <= self.durable_seq {
            return Some(Ok(()));
        }
        match &self.condition {
            JournalState::Poisoned(reason) => Some(Err(JournalError::Poisoned(reason.clone()))),
            JournalState::Suspended(reason) if seq >= self.next_seq => {
                Some(Err(JournalError::Suspended(reason.clone())))
            }
            _ => None,
        }
    }

    /// Refuses positions that cannot be read from.
    pub(crate) fn check_readable(&self, after: u64) -> Result<(), ReadRefused> {
        let (oldest, newest) = (self.table.oldest_after(), self.next_seq - 1);
        if after < oldest {
            return Err(ReadRefused::Forgotten { asked: after, oldest });
        }
        if after > newest {
            return Err(ReadRefused::Future { asked: after, newest });
        }
        Ok(())
    }

    /// For `status` and metrics.
    pub(crate) fn status(&self) -> JournalStatus {
        JournalStatus {
            epoch: self.epoch,
            epoch_base_seq: self.epoch_base_seq,
            first_seq: self.table.oldest().map_or(self.durable_seq + 1, |segment| segment.header.first_seq),
            appended_seq: self.next_seq - 1,
            durable_seq: self.durable_seq,
            bytes: self.table.bytes(),
            state: self.condition.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
