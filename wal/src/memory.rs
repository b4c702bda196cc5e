//! A journal in memory, for the engine's tests: same rules, no disk, and switches for everything that can go wrong.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvtier_engine::port::{
    AppendRefused, BoxFuture, Journal, JournalError, JournalState, JournalStatus, Position, ReadRefused, Record,
};

use crate::lost::Lost;
use crate::waiters::{Told, Waiters};

/// The fake. Records are durable as soon as they are appended, unless [`MemoryJournal::hold`] was called. It begins
/// with the reset record of epoch 1, as a new log does. Cloning gives another handle to the same journal.
#[derive(Debug, Clone)]
pub struct MemoryJournal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<(Position, Record)>,
    epoch: u64,
    epoch_base_seq: u64,
    next_seq: u64,
    durable_seq: u64,
    forgotten_seq: u64,
    covered_seq: u64,
    holding: bool,
    busy: bool,
    condition: Option<JournalState>,
    lost: Lost,
    durable: Waiters<Result<(), JournalError>>,
    grown: Waiters<()>,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryJournal {
    /// A new journal, in epoch 1.
    pub fn new() -> Self {
        let journal = Self { inner: Arc::new(Mutex::new(Inner { next_seq: 1, ..Inner::default() })) };
        journal.begin_epoch("restart");
        journal
    }

    /// From now on nothing becomes durable until [`MemoryJournal::release`].
    pub fn hold(&self) {
        self.lock().holding = true;
    }

    /// Makes everything appended durable, and what comes too.
    pub fn release(&self) {
        let told = {
            let mut inner = self.lock();
            inner.holding = false;
            inner.settle()
        };
        tell(told);
    }

    /// Whether `ready` refuses as if the queue were full. Appends are still taken.
    pub fn set_busy(&self, busy: bool) {
        self.lock().busy = busy;
    }

    /// As if the disk were full: loses what is not durable.
    pub fn suspend(&self, reason: &str) {
        let told = {
            let mut inner = self.lock();
            let first_lost = inner.durable_seq + 1;
            let last_lost = inner.next_seq - 1;
            inner.records.retain(|(position, _)| position.seq < first_lost);
            inner.lost.cut(first_lost);
            inner.lost.add(first_lost, last_lost);
            inner.condition = Some(JournalState::Suspended(reason.into()));
            inner.durable.from(first_lost, Err(JournalError::Suspended(reason.into())))
        };
        told.tell();
    }

    /// As if there were room again: a new epoch begins with its reset record, durable at once.
    pub fn resume(&self) {
        self.begin_epoch("resumed after a gap");
    }

    /// As if a sync had failed.
    pub fn poison(&self, reason: &str) {
        let told = {
            let mut inner = self.lock();
            inner.condition = Some(JournalState::Poisoned(reason.into()));
            inner.durable.from(0, Err(JournalError::Poisoned(reason.into())))
        };
        told.tell();
    }

    /// As if retention had deleted everything up to `seq`.
    pub fn forget(&self, seq: u64) {
        let mut inner = self.lock();
        let seq = seq.min(inner.durable_seq);
        inner.forgotten_seq = inner.forgotten_seq.max(seq);
        inner.records.retain(|(position, _)| position.seq > seq);
    }

    /// Every record appended and kept, durable or not.
    pub fn records(&self) -> Vec<(Position, Record)> {
        self.lock().records.clone()
    }

    /// What the index was said to cover.
    pub fn covered_seq(&self) -> u64 {
        self.lock().covered_seq
    }

    fn begin_epoch(&self, reason: &str) {
        let told = {
            let mut inner = self.lock();
            inner.epoch += 1;
            inner.epoch_base_seq = inner.next_seq - 1;
            inner.condition = None;
            let reset = Record::Reset { epoch: inner.epoch, reason: reason.into() };
            inner.take(vec![reset]);
            inner.settle()
        };
        tell(told);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Settled = (Told<Result<(), JournalError>>, Told<()>);

fn tell((durable, grown): Settled) {
    durable.tell();
    grown.tell();
}

impl Inner {
    fn check_condition(&self) -> Result<(), AppendRefused> {
        match &self.condition {
            Some(JournalState::Suspended(reason)) => Err(AppendRefused::Suspended(reason.clone())),
            Some(JournalState::Poisoned(reason)) => Err(AppendRefused::Poisoned(reason.clone())),
            _ => Ok(()),
        }
    }

    fn take(&mut self, records: Vec<Record>) -> Position {
        for record in records {
            self.records.push((Position { epoch: self.epoch, seq: self.next_seq }, record));
            self.next_seq += 1;
        }
        Position { epoch: self.epoch, seq: self.next_seq - 1 }
    }

    fn settle(&mut self) -> Settled {
        self.durable_seq = self.next_seq - 1;
        let durable_seq = self.durable_seq;
        (self.durable.up_to(durable_seq, Ok(())), self.grown.up_to(durable_seq.saturating_sub(1), ()))
    }

    fn read(&self, after: u64, count_max: usize) -> Result<Vec<(Position, Record)>, ReadRefused> {
        let (oldest, newest) = (self.forgotten_seq, self.next_seq - 1);
        if after < oldest {
            return Err(ReadRefused::Forgotten { asked: after, oldest });
        }
        if after > newest {
            return Err(ReadRefused::Future { asked: after, newest });
        }
        let durable = self.records.iter().filter(|(position, _)| position.seq <= self.durable_seq);
        Ok(durable.filter(|(position, _)| position.seq > after).take(count_max).cloned().collect())
    }
}

impl Journal for MemoryJournal {
    fn ready(&self) -> Result<(), AppendRefused> {
        let inner = self.lock();
        inner.check_condition()?;
        if inner.busy { Err(AppendRefused::Busy) } else { Ok(()) }
    }

    fn append(&self, records: Vec<Record>) -> Result<Position, AppendRefused> {
        let (position, told) = {
            let mut inner = self.lock();
            inner.check_condition()?;
            let position = inner.take(records);
            (position, (!inner.holding).then(|| inner.settle()))
        };
        if let Some(told) = told {
            tell(told);
        }
        Ok(position)
    }

    fn durable(&self, seq: u64) -> BoxFuture<Result<(), JournalError>> {
        let mut inner = self.lock();
        let known = match &inner.condition {
            _ if inner.lost.holds(seq) => Some(Err(JournalError::Suspended("the record was lost".into()))),
            _ if seq <= inner.durable_seq => Some(Ok(())),
            Some(JournalState::Poisoned(reason)) => Some(Err(JournalError::Poisoned(reason.clone()))),
            Some(JournalState::Suspended(reason)) => Some(Err(JournalError::Suspended(reason.clone()))),
            _ => None,
        };
        if let Some(answer) = known {
            return Box::pin(std::future::ready(answer));
        }
        let (_, receiver) = inner.durable.enroll(seq);
        Box::pin(
            async move { receiver.await.unwrap_or_else(|_| Err(JournalError::Poisoned("the journal is gone".into()))) },
        )
    }

    fn read(&self, after: u64, count_max: usize) -> BoxFuture<Result<Vec<(Position, Record)>, ReadRefused>> {
        let answer = self.lock().read(after, count_max);
        Box::pin(std::future::ready(answer))
    }

    fn grown(&self, after: u64) -> BoxFuture<()> {
        let mut inner = self.lock();
        if inner.durable_seq > after {
            return Box::pin(std::future::ready(()));
        }
        let (_, receiver) = inner.grown.enroll(after);
        Box::pin(async move {
            if receiver.await.is_err() {
                std::future::pending().await
            }
        })
    }

    fn covered(&self, seq: u64) {
        let mut inner = self.lock();
        inner.covered_seq = inner.covered_seq.max(seq);
    }

    fn status(&self) -> JournalStatus {
        let inner = self.lock();
        JournalStatus {
            epoch: inner.epoch,
            epoch_base_seq: inner.epoch_base_seq,
            first_seq: inner.forgotten_seq + 1,
            appended_seq: inner.next_seq - 1,
            durable_seq: inner.durable_seq,
            bytes: 0,
            state: inner.condition.clone().unwrap_or(JournalState::Open),
        }
    }
}
