//! After a gap in the log: what the index still believes although it is over.
//!
//! ```text
//!   Logged ── a change is refused, or falls into a new epoch ──► Lost ── Reset is read from the log ──► Mending ──► Logged
//!                                                                 ▲                                       │
//!                                                                 └─────────── a change is refused again ─┘
//! ```
//!
//! While the metadata disk is full the log takes nothing, and what it had not yet written is lost. A lost removal leaves an
//! entry in the index whose slot is free; a lost opening leaves blocks without a space. Nothing is stored until the index
//! has been compared with RAM and the difference has been logged; a crash before that finds the old bytes untouched, so
//! the old entries are true. A quarantine that got lost is not logged again: what is wrong with the slot will be found
//! again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Shared;
use super::alarm::Alarm;
use super::indexer::RETRY;
use crate::place::TierKind;
use crate::port::{AppendRefused, Position, Record, RemovalCause, SpaceRecord};

/// Index entries compared under one hold of the core.
const COMPARE_COUNT: usize = 4096;

/// Whether the log knows what a new store stands on: that its slot is free, and that its space exists.
#[derive(Debug)]
pub(crate) struct Ground {
    state: State,
    /// The epoch whose log has no gap.
    epoch: u64,
    newest_seq: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Logged,
    Lost,
    Mending,
}

impl Ground {
    pub(crate) fn new(epoch: u64) -> Self {
        Self { state: State::Logged, epoch, newest_seq: 0 }
    }

    /// Whether the log holds every change up to [`Ground::newest_seq`], or will.
    pub(crate) fn is_logged(&self) -> bool {
        self.state == State::Logged
    }

    /// The same of a log that is in this epoch: nothing may have been lost with the one before.
    pub(crate) fn is_logged_in(&self, epoch: u64) -> bool {
        self.is_logged() && self.epoch == epoch
    }

    /// Position of the newest change: stores wait until it is durable.
    pub(crate) fn newest_seq(&self) -> u64 {
        self.newest_seq
    }

    /// Changes were given to the log.
    pub(crate) fn note(&mut self, appended: &Result<Position, AppendRefused>) {
        match appended {
            Ok(last) => {
                self.newest_seq = last.seq;
                if last.epoch != self.epoch && self.state == State::Logged {
                    // Others may have been lost with the end of the epoch before.
                    self.state = State::Lost;
                }
            }
            Err(_) => self.state = State::Lost,
        }
    }
}

/// Whether stores stand on a record: it frees a slot, or opens a space or ends it.
pub(crate) fn is_needed(record: &Record) -> bool {
    matches!(
        record,
        Record::Removed { tier: TierKind::Nvme, .. } | Record::SpaceOpened(_) | Record::SpaceDropped { .. }
    )
}

/// Compares the index with RAM and logs again what got lost. Called by the task that carries the log into the index, which
/// has applied everything up to the `Reset` at `reset`; meanwhile the index stands still.
pub(crate) async fn mend(shared: &Arc<Shared>, reset: Position) {
    // While RAM fills, it believes the index; afterwards it is the one that knows.
    shared.filled().await;
    let idle = {
        let mut core = shared.lock();
        core.stores.ground.state = State::Mending;
        core.stores.when_idle()
    };
    // Nothing new is stored from here on. What is in flight ends first: a block on its way may have an entry of an earlier
    // copy, and whether the log already knows the new one shows only then.
    if let Some(idle) = idle {
        idle.await.ok();
    }
    mend_spaces(shared).await;
    let mut after = None;
    while !shared.stopped() {
        let entries = match shared.ports.index.scan(after, COMPARE_COUNT).await {
            Ok(entries) => entries,
            Err(error) => {
                shared.alarms.raise(Alarm::Index, format!("the index cannot be compared with memory: {error}"));
                shared.ports.clock.sleep(RETRY).await;
                continue;
            }
        };
        let Some((last, _)) = entries.last() else { break };
        after = Some(*last);
        let mut core = shared.lock();
        let stale = entries.iter().filter(|(block, _)| !core.catalog.owns_nvme_slot(*block));
        let records: Vec<Record> = stale
            .map(|(block, entry)| Record::Removed {
                block: *block,
                space: entry.space,
                tier: TierKind::Nvme,
                cause: RemovalCause::Evicted,
            })
            .collect();
        shared.journal(&mut core, records);
    }
    if shared.stopped() {
        // Not compared to the end: the next start believes the index.
        return;
    }
    shared.alarms.clear(Alarm::Index);
    let mut core = shared.lock();
    let ground = &mut core.stores.ground;
    if ground.state == State::Mending {
        ground.state = State::Logged;
        ground.epoch = reset.epoch;
        // The Reset itself is durable, and everything lost came before it.
        ground.newest_seq = ground.newest_seq.max(reset.seq);
    }
}

async fn mend_spaces(shared: &Arc<Shared>) {
    let indexed = loop {
        match shared.ports.index.spaces().await {
            Ok(spaces) => break spaces,
            Err(_) if shared.stopped() => return,
            Err(error) => {
                shared.alarms.raise(Alarm::Index, format!("the index cannot be compared with memory: {error}"));
                shared.ports.clock.sleep(RETRY).await;
            }
        }
    };
    let mut core = shared.lock();
    let open: Vec<SpaceRecord> = core.spaces.iter().map(|space| space.record.clone()).collect();
    let (indexed_numbers, open_numbers) = (numbers(&indexed), numbers(&open));
    for record in open.into_iter().filter(|record| !indexed_numbers.contains(&record.number)) {
        let digest = record.digest;
        if let Ok(position) = shared.append(&mut core, vec![Record::SpaceOpened(Box::new(record))]) {
            core.spaces.note_logged(&digest, position.seq);
        }
    }
    let dropped = indexed.iter().filter(|record| !open_numbers.contains(&record.number));
    let records = dropped.map(|record| Record::SpaceDropped { space: record.number, digest: record.digest }).collect();
    shared.journal(&mut core, records);
}

fn numbers(spaces: &[SpaceRecord]) -> BTreeSet<u32> {
    spaces.iter().map(|space| space.number).collect()
}

/// The newest `Reset` of an epoch that began after the engine did: before it there is a gap.
pub(crate) fn gap_in(shared: &Shared, records: &[(Position, Record)]) -> Option<Position> {
    let resets = records.iter().rev().find(|(_, record)| matches!(record, Record::Reset { .. }));
    resets.map(|(position, _)| *position).filter(|reset| reset.epoch > shared.epoch_first)
}
