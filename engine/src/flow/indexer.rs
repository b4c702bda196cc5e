//! Carries the log into the index.
//!
//! One task follows the durable end of the log, applies what concerns persistent blocks in order, and flushes now and
//! then. It may lag: RAM answers meanwhile, and the log keeps what the index has not covered. When the index disk is
//! full it waits and tries again; nothing is lost until the log's own bound suspends the journal.

use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;

use super::alarm::Alarm;
use super::{Shared, gap};
use crate::place::TierKind;
use crate::port::{IndexChange, Position, Record};

/// Records applied at once.
const BATCH_COUNT: usize = 4096;
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// What a record means for the index.
pub(crate) fn change_of(record: &Record) -> Option<IndexChange> {
    match record {
        Record::StoredNvme { block, entry } => Some(IndexChange::Put(*block, entry.clone())),
        Record::Removed { block, tier: TierKind::Nvme, .. } => Some(IndexChange::Remove(*block)),
        Record::SpaceOpened(space) => Some(IndexChange::PutSpace(space.clone())),
        Record::SpaceDropped { space, .. } => Some(IndexChange::RemoveSpace(*space)),
        Record::Quarantined { slot } => Some(IndexChange::Quarantine(*slot)),
        Record::Removed { .. }
        | Record::StoredHost { .. }
        | Record::Reset { .. }
        | Record::EngineStored { .. }
        | Record::EngineRemoved { .. }
        | Record::EngineReset { .. } => None,
    }
}

/// The changes of a run of records, in order.
pub(crate) fn changes_of(records: &[(Position, Record)]) -> Vec<IndexChange> {
    records.iter().filter_map(|(_, record)| change_of(record)).collect()
}

/// Follows the log until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut flushed_at = shared.now();
    while !shared.stopped() {
        let applied = shared.ports.index.applied();
        shared.ports.journal.grown(applied).await;
        let records = match shared.ports.journal.read(applied, BATCH_COUNT).await {
            Ok(records) => records,
            Err(refused) => {
                shared.alarms.raise(Alarm::Index, format!("the index cannot follow the log: {refused}"));
                shared.ports.clock.sleep(RETRY).await;
                continue;
            }
        };
        let Some((last, _)) = records.last() else { continue };
        apply(&shared, changes_of(&records), last.seq).await;
        if let Some(reset) = gap::gap_in(&shared, &records) {
            gap::mend(&shared, reset).await;
        }
        if shared.now().since(flushed_at) >= shared.settings.index_flush_interval {
            flush(&shared).await;
            flushed_at = shared.now();
        }
    }
}

async fn apply(shared: &Arc<Shared>, changes: Vec<IndexChange>, covers: u64) {
    while let Err(error) = shared.ports.index.apply(changes.clone(), covers).await {
        shared.alarms.raise(Alarm::Index, format!("the index takes no changes: {error}"));
        if shared.stopped() {
            return;
        }
        shared.ports.clock.sleep(RETRY).await;
    }
    shared.alarms.clear(Alarm::Index);
    shared.tell_applied(covers);
}

impl Shared {
    /// Resolves once the index has applied the log up to `seq`.
    pub(crate) async fn applied(&self, seq: u64) {
        let waiter = {
            let mut waiters = self.applied.lock().expect("nobody panics while waiting");
            if self.ports.index.applied() >= seq {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiters.push((seq, sender));
            receiver
        };
        // Dropped without a word only when the engine stops.
        waiter.await.ok();
    }

    fn tell_applied(&self, seq: u64) {
        let mut waiters = self.applied.lock().expect("nobody panics while waiting");
        let (ready, waiting) = waiters.drain(..).partition(|(wanted, _)| *wanted <= seq);
        *waiters = waiting;
        drop(waiters);
        let ready: Vec<(u64, oneshot::Sender<()>)> = ready;
        ready.into_iter().for_each(|(_, waiter)| {
            waiter.send(()).ok();
        });
    }
}

/// Makes the index durable as far as it has come, and lets the log forget that far.
pub(crate) async fn flush(shared: &Arc<Shared>) {
    match shared.ports.index.flush().await {
        Ok(covered) => {
            shared.ports.journal.covered(covered);
            shared.alarms.clear(Alarm::IndexFlush);
        }
        Err(error) => shared.alarms.raise(Alarm::IndexFlush, format!("the index cannot be flushed: {error}")),
    }
}
