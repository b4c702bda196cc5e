//! Reading persistent blocks in place before somebody needs them.
//!
//! In idle time a little at a time, at a bounded rate; on request at once. A block that does not verify is
//! quarantined: its slot is never used again, and the next lookup misses and says `corrupt`.

use std::sync::Arc;
use std::time::Duration;

use super::ask::ScrubProgress;
use super::error::EngineError;
use super::{Engine, Shared};
use crate::port::{LoadOutcome, Moment};

/// Blocks verified under one batch. Few: they are held meanwhile, and a tiny host tier must not be full of them.
const BATCH_COUNT: usize = 4;

/// What a block costs the idle rate at least. A small block takes as much CPU as a larger one; 100,000 blocks of 4 KiB
/// took 40 % of a core while they were counted by their bytes.
const CHARGE_MIN_BYTES: u64 = 512 << 10;

/// Walks over the persistent blocks.
#[derive(Debug, Default)]
pub(crate) struct Scrubber {
    cursor: u32,
    budget_bytes: u64,
    filled_at: Option<Moment>,
    busy_mark: u64,
}

impl Scrubber {
    /// Verifies a little if the tier has been idle since the last step and the rate allows it.
    pub(crate) async fn step(&mut self, shared: &Arc<Shared>) {
        let rate = shared.settings.scrub_bytes_per_second;
        let now = shared.now();
        let pause = self.filled_at.replace(now).map_or(Duration::ZERO, |at| now.since(at));
        let earned = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).saturating_mul(rate) / 1000;
        self.budget_bytes = self.budget_bytes.saturating_add(earned).min(rate.max(1) * 4);
        let mark = shared.traffic();
        let idle = std::mem::replace(&mut self.busy_mark, mark) == mark;
        if rate == 0 || !idle {
            return;
        }
        while self.budget_bytes > 0 && shared.traffic() == mark && !shared.stopped() {
            let batch = verify_batch(shared, &mut self.cursor).await;
            self.budget_bytes = self.budget_bytes.saturating_sub(batch.charge_bytes);
            if self.cursor == 0 {
                // A round is complete: the next one begins with the next step.
                return;
            }
        }
    }
}

impl Shared {
    /// Grows whenever somebody reads, or something is written back.
    fn traffic(&self) -> u64 {
        let meter = &self.meter;
        meter.lookups.get() + meter.get_blocks.get() + meter.host.stores.get() + meter.nvme.stores.get()
    }
}

/// A scrub somebody asked for.
pub struct ScrubWalk {
    shared: Arc<Shared>,
    cursor: u32,
    progress: ScrubProgress,
}

impl Engine {
    /// Starts a walk over all persistent blocks.
    pub fn scrub(&self) -> Result<ScrubWalk, EngineError> {
        self.refuse_while_filling("scrubbing")?;
        let total = self.shared.lock().catalog.count().nvme.blocks;
        let progress = ScrubProgress { total, ..ScrubProgress::default() };
        Ok(ScrubWalk { shared: Arc::clone(&self.shared), cursor: 0, progress })
    }
}

impl ScrubWalk {
    /// Verifies the next blocks; none once the walk is complete.
    pub async fn next(&mut self) -> Option<ScrubProgress> {
        if self.progress.done {
            return None;
        }
        let batch = verify_batch(&self.shared, &mut self.cursor).await;
        self.progress.verified += batch.verified;
        self.progress.corrupt += batch.corrupt;
        self.progress.failed += batch.blocks - batch.verified - batch.corrupt;
        self.progress.done = self.cursor == 0;
        Some(self.progress)
    }
}

#[derive(Debug, Default)]
struct Batch {
    blocks: u64,
    charge_bytes: u64,
    verified: u64,
    corrupt: u64,
}

async fn verify_batch(shared: &Arc<Shared>, cursor: &mut u32) -> Batch {
    let Some(tier) = shared.ports.nvme.as_ref() else { return Batch::default() };
    let held = shared.lock().catalog.scrub_next(cursor, BATCH_COUNT);
    let guard = Held { shared: Arc::clone(shared), indices: held.iter().map(|(index, _)| *index).collect() };
    if held.is_empty() {
        return Batch::default();
    }
    let outcomes = tier.verify(held.iter().map(|(_, verify)| *verify).collect()).await;
    let mut batch = Batch { blocks: held.len() as u64, ..Batch::default() };
    for ((index, verify), outcome) in held.iter().zip(outcomes) {
        batch.charge_bytes += u64::from(verify.expect.length).max(CHARGE_MIN_BYTES);
        match outcome {
            LoadOutcome::Verified => batch.verified += 1,
            LoadOutcome::Corrupt(_) => {
                batch.corrupt += 1;
                shared.meter.nvme.corrupt.add(1);
                let mut core = shared.lock();
                let records = core.catalog.quarantine(shared.now(), *index);
                shared.journal(&mut core, records);
            }
            LoadOutcome::Failed(_) => shared.meter.nvme.load_failures.add(1),
        }
    }
    shared.meter.scrubbed.add(batch.blocks);
    drop(guard);
    batch
}

/// Gives the holds back even if the walk is dropped while the device works.
struct Held {
    shared: Arc<Shared>,
    indices: Vec<crate::catalog::plan::BlockIndex>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        for index in self.indices.drain(..) {
            let records = core.catalog.unhold(index);
            self.shared.journal(&mut core, records);
        }
    }
}
