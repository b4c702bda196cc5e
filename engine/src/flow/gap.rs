//! After a gap in the log: what the index still believes although it is over.
//!
//! ```text
//!   Logged ── a removal is refused, or falls into a new epoch ──► Lost ── Reset is read from the log ──► Mending ──► Logged
//!                                                                  ▲                                       │
//!                                                                  └────────── a removal is refused again ─┘
//! ```
//!
//! While the metadata disk is full the log takes nothing, and what it had not yet written is lost. Removals among that
//! leave entries in the index whose slots are free. Nothing is stored until the index has been compared with RAM and the
//! removals have been logged again; a crash before that finds the old bytes untouched, so the old entries are true. A
//! quarantine that got lost is not logged again: what is wrong with the slot will be found again.

use std::sync::Arc;

use super::indexer::RETRY;
use super::Shared;
use crate::place::TierKind;
use crate::port::{AppendRefused, Position, Record, RemovalCause};

/// Index entries compared under one hold of the core.
const COMPARE_COUNT: usize = 4096;

/// What the log knows of NVMe slots that were freed or given up.
#[derive(Debug)]
pub(crate) struct Removals {
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

impl Removals {
    pub(crate) fn new(epoch: u64) -> Self {
        Self { state: State::Logged, epoch, newest_seq: 0 }
    }

    /// Whether every slot that is free in RAM is free in the log, too, up to [`Removals::newest_seq`].
    pub(crate) fn are_logged(&self) -> bool {
        self.state == State::Logged
    }

    /// Position of the newest removal.
    pub(crate) fn newest_seq(&self) -> u64 {
        self.newest_seq
    }

    /// Removals were given to the log.
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

/// Whether a record takes a block out of the index.
pub(crate) fn frees(record: &Record) -> bool {
    matches!(record, Record::Removed { tier: TierKind::Nvme, .. })
}

/// Compares the index with RAM and logs again what got lost. Called by the task that carries the log into the index, which
/// has applied everything up to the `Reset` at `reset`; meanwhile the index stands still.
pub(crate) async fn mend(shared: &Arc<Shared>, reset: Position) {
    // While RAM fills, it believes the index; afterwards it is the one that knows.
    shared.filled().await;
    shared.lock().stores.removals.state = State::Mending;
    let mut after = None;
    while !shared.stopped() {
        let entries = match shared.ports.index.scan(after, COMPARE_COUNT).await {
            Ok(entries) => entries,
            Err(error) => {
                shared.alarm("index", format!("the index cannot be compared with memory: {error}"));
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
    let mut core = shared.lock();
    let removals = &mut core.stores.removals;
    if removals.state == State::Mending {
        removals.state = State::Logged;
        removals.epoch = reset.epoch;
        // The Reset itself is durable, and everything lost came before it.
        removals.newest_seq = removals.newest_seq.max(reset.seq);
    }
}

/// The newest `Reset` of an epoch that began after the engine did: before it there is a gap.
pub(crate) fn gap_in(shared: &Shared, records: &[(Position, Record)]) -> Option<Position> {
    let resets = records.iter().rev().find(|(_, record)| matches!(record, Record::Reset { .. }));
    resets.map(|(position, _)| *position).filter(|reset| reset.epoch > shared.epoch_first)
}
