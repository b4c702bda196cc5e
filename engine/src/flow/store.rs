//! Write-back: host to NVMe, and the commit of durable blocks (INV-3).
//!
//! ```text
//!   enqueue ─ NVMe slot allocated, entry held ─► batch ─► tier.store ─► tier.sync ─► journal StoredNvme ─► durable
//!                                                                                                           │
//!                                             crash anywhere before: the slot is free after restart ◄───────┴──► visible
//!                                             as durable, waiters told
//! ```
//!
//! A slot that held another block is written only after the removal of that block is durable: otherwise a crash leaves an
//! index that takes the new bytes for damaged old ones. What happens when the log loses the removal: `flow/gap.rs`.
//!
//! A worker takes what is queued, at most one batch, and carries it to the end; a few workers run at once so that the
//! device writes one batch while another syncs. Batches grow with the load: that is the group commit of the data.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::channel::oneshot;
use futures::future::select;
use kvtier_identity::BlockId;

use super::gap::Ground;
use super::{Core, Shared};
use crate::catalog::plan::{BlockIndex, Decline, StorePlan};
use crate::header::SlotHeader;
use crate::place::Slot;
use crate::port::{AppendRefused, IndexEntry, Moment, Record, RemovalCause, Store, StoreOutcome, TierError};

/// Resolves when the block is durable, or with the reason why not.
pub(crate) type StoreWaiter = oneshot::Receiver<Result<(), Decline>>;

/// Blocks on their way to NVMe.
#[derive(Debug)]
pub(crate) struct StoreQueue {
    queue: VecDeque<Ticket>,
    workers: usize,
    in_flight: usize,
    waiters: BTreeMap<BlockIndex, Vec<oneshot::Sender<Result<(), Decline>>>>,
    idle: Vec<oneshot::Sender<()>>,
    /// Those who wait for room that the end of a batch may make.
    room: Vec<oneshot::Sender<()>>,
    /// First sequence number of every batch of commit records whose blocks do not count as durable yet.
    commits: BTreeSet<u64>,
    /// What every store stands on.
    pub(crate) ground: Ground,
    /// Every device is poisoned or gone: nothing more is stored.
    pub(crate) down: bool,
}

#[derive(Debug)]
struct Ticket {
    index: BlockIndex,
    block: BlockId,
    from: Slot,
    to: Slot,
    entry: IndexEntry,
    /// Written only once the log is durable up to here: then nothing else is at home in the slot.
    after: u64,
}

impl Ticket {
    fn store(&self, core: &Core) -> Store {
        let header = SlotHeader {
            block: self.block,
            space: core.spaces.digest(self.entry.space).expect("a space's digest is kept for the whole epoch"),
            key: self.entry.key.clone(),
            parent: self.entry.parent,
            length: self.entry.length,
            crc: self.entry.crc,
            generation: self.entry.generation,
        };
        Store { from: self.from, to: self.to, header }
    }
}

impl StoreQueue {
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            workers: 0,
            in_flight: 0,
            waiters: BTreeMap::new(),
            idle: Vec::new(),
            room: Vec::new(),
            commits: BTreeSet::new(),
            ground: Ground::new(epoch),
            down: false,
        }
    }

    /// Blocks queued or in flight.
    pub(crate) fn unwritten(&self) -> usize {
        self.queue.len() + self.in_flight
    }

    /// Resolves when nothing is queued or in flight; none if that is so now.
    pub(crate) fn when_idle(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.unwritten() == 0 {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.idle.push(sender);
        Some(receiver)
    }

    /// Everything the log says up to this position is in the catalog, if it is durable: commit records are appended
    /// before their blocks become visible.
    pub(crate) fn settled_seq(&self, durable_seq: u64) -> u64 {
        self.commits.first().map_or(durable_seq, |first| durable_seq.min(first - 1))
    }

    /// Resolves at the end of the next batch; none if nothing is on its way, so that waiting would be in vain.
    pub(crate) fn next_room(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.unwritten() == 0 {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.room.push(sender);
        Some(receiver)
    }

    fn take_batch(&mut self, bytes_max: u64) -> Vec<Ticket> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(ticket) = self.queue.front() {
            bytes += u64::from(ticket.entry.length);
            if !batch.is_empty() && bytes > bytes_max {
                break;
            }
            batch.extend(self.queue.pop_front());
        }
        self.in_flight += batch.len();
        batch
    }
}

impl Shared {
    /// Queues what the admission policy wants by now.
    pub(crate) fn write_back_admitted(self: &Arc<Self>, core: &mut Core) {
        let room = self.settings.store_queue_count_max.saturating_sub(core.stores.queue.len());
        for (_, block) in core.catalog.take_admitted(room) {
            self.write_back(core, block);
        }
    }

    /// Waits until a batch of stores has ended, at most until `deadline`. False: there is nothing to wait for.
    pub(crate) async fn room(&self, deadline: Moment) -> bool {
        let left = deadline.since(self.now());
        let waiter = self.lock().stores.next_room();
        let Some(waiter) = waiter.filter(|_| !left.is_zero()) else { return false };
        select(waiter, self.ports.clock.sleep(left)).await;
        true
    }

    /// Queues a block for NVMe if it fits; a volatile block that does not is only counted.
    pub(crate) fn write_back(self: &Arc<Self>, core: &mut Core, block: BlockId) {
        match self.enqueue_store(core, block, false) {
            Ok(_) => self.meter.admitted.add(1),
            Err(decline) => self.meter.declined(decline),
        }
    }

    /// Queues a block for NVMe. `Ok(None)`: it is durable, or nobody waits.
    pub(crate) fn enqueue_store(
        self: &Arc<Self>,
        core: &mut Core,
        block: BlockId,
        wait: bool,
    ) -> Result<Option<StoreWaiter>, Decline> {
        if self.ports.nvme.is_none() || core.stores.down {
            return Err(Decline::NvmeUnavailable);
        }
        match self.ports.journal.ready() {
            Err(AppendRefused::Busy) => return Err(Decline::Busy),
            Err(_) => return Err(Decline::JournalUnavailable),
            Ok(()) => {}
        }
        if core.stores.queue.len() >= self.settings.store_queue_count_max {
            return Err(Decline::Busy);
        }
        if !core.stores.ground.is_logged() {
            return Err(Decline::JournalUnavailable);
        }
        let Some(resident) = core.catalog.peek(block) else { return Err(Decline::HostFull) };
        match core.catalog.begin_store(self.now(), resident.index, block) {
            StorePlan::Durable => return Ok(None),
            StorePlan::InFlight => {}
            StorePlan::Gone => return Err(Decline::HostFull),
            StorePlan::Declined(decline) => return Err(decline),
            StorePlan::Store { index, from, to, block, entry, records } => {
                self.journal(core, records);
                let after = core.stores.ground.newest_seq();
                core.stores.queue.push_back(Ticket { index, block, from, to, entry, after });
                self.start_store_worker(core);
            }
        }
        Ok(wait.then(|| {
            let (sender, receiver) = oneshot::channel();
            core.stores.waiters.entry(resident.index).or_default().push(sender);
            receiver
        }))
    }

    fn start_store_worker(self: &Arc<Self>, core: &mut Core) {
        if core.stores.workers < self.settings.store_flights_max {
            core.stores.workers += 1;
            let shared = Arc::clone(self);
            self.ports.spawn.spawn("store", Box::pin(async move { shared.store_worker().await }));
        }
    }

    async fn store_worker(self: Arc<Self>) {
        loop {
            let batch = {
                let mut core = self.lock();
                let batch = core.stores.take_batch(self.settings.store_batch_bytes_max);
                if batch.is_empty() {
                    core.stores.workers -= 1;
                    return;
                }
                batch
            };
            self.store_batch(batch).await;
        }
    }

    async fn store_batch(self: &Arc<Self>, batch: Vec<Ticket>) {
        let started = self.now();
        let tier = self.ports.nvme.as_ref().expect("nothing is queued without an NVMe tier");
        if !self.stands_firm(&batch).await {
            let untouched = vec![StoreOutcome::Failed(TierError::Busy); batch.len()];
            self.finish_batch(batch, &untouched, &Ok(()), Commit::Premature);
            return;
        }
        let stores = {
            let core = self.lock();
            batch.iter().map(|ticket| ticket.store(&core)).collect::<Vec<_>>()
        };
        let outcomes = tier.store(stores).await;
        assert_eq!(outcomes.len(), batch.len(), "a tier answers every operation of a batch");
        let devices: BTreeSet<u16> = batch.iter().map(|ticket| ticket.to.device).collect();
        let mut synced = Ok(());
        if outcomes.contains(&StoreOutcome::Written) {
            let started = self.now();
            synced = tier.sync(devices.into_iter().collect()).await;
            self.meter.sync_latency.record(self.now().since(started));
        }
        if synced.is_err() {
            self.meter.nvme.sync_failures.add(1);
        }
        let written = |outcome: &StoreOutcome| *outcome == StoreOutcome::Written && synced.is_ok();
        let written = batch.iter().zip(&outcomes).filter(|(_, outcome)| written(outcome));
        let written: Vec<&Ticket> = written.map(|(ticket, _)| ticket).collect();
        let committed = self.commit(&written).await;
        self.meter.store_latency.record(self.now().since(started));
        self.finish_batch(batch, &outcomes, &synced, committed);
    }

    /// Waits until the log has forgotten what the slots held before, and knows their spaces. False: it never will.
    async fn stands_firm(&self, batch: &[Ticket]) -> bool {
        let after = batch.iter().map(|ticket| ticket.after).max().unwrap_or(0);
        let durable = after == 0 || self.ports.journal.durable(after).await.is_ok();
        durable && self.lock().stores.ground.is_logged()
    }

    /// Journals the commit records and waits until they are durable.
    async fn commit(&self, written: &[&Ticket]) -> Commit {
        let appended = {
            let mut core = self.lock();
            // A block that was deleted meanwhile stays deleted: its slot is freed without ever having been journaled.
            let alive = written.iter().filter(|ticket| !core.catalog.is_doomed(ticket.index));
            let records: Vec<Record> =
                alive.map(|ticket| Record::StoredNvme { block: ticket.block, entry: ticket.entry.clone() }).collect();
            if records.is_empty() {
                return Commit::Nothing;
            }
            let count = records.len() as u64;
            let Ok(last) = self.ports.journal.append(records) else { return Commit::Refused };
            let first = last.seq + 1 - count;
            core.stores.commits.insert(first);
            (first, last.seq)
        };
        let (first, last) = appended;
        let started = self.now();
        let durable = self.ports.journal.durable(last).await;
        self.meter.commit_latency.record(self.now().since(started));
        match durable {
            Ok(()) => Commit::Durable { first },
            Err(_) => Commit::Unknown { first },
        }
    }

    fn finish_batch(
        self: &Arc<Self>,
        batch: Vec<Ticket>,
        outcomes: &[StoreOutcome],
        synced: &Result<(), TierError>,
        committed: Commit,
    ) {
        let mut core = self.lock();
        if let Commit::Durable { first } | Commit::Unknown { first } = committed {
            core.stores.commits.remove(&first);
        }
        core.stores.in_flight -= batch.len();
        for (ticket, outcome) in batch.into_iter().zip(outcomes) {
            let result = verdict(outcome, synced, committed);
            if result.is_ok() {
                self.meter.nvme.stores.add(1);
            }
            let mut records = Vec::new();
            // What was deleted meanwhile was taken back then.
            let kept = !core.catalog.is_doomed(ticket.index);
            core.catalog.finish_store(self.now(), ticket.index, result.is_ok());
            if kept
                && result.is_err()
                && matches!(committed, Commit::Unknown { .. })
                && *outcome == StoreOutcome::Written
            {
                // The commit record may be on disk although the slot is free again: take it back.
                let cause = RemovalCause::TierDown;
                let tier = crate::place::TierKind::Nvme;
                records.push(Record::Removed { block: ticket.block, space: ticket.entry.space, tier, cause });
            }
            if let StoreOutcome::Corrupt(_) = outcome {
                self.meter.host.corrupt.add(1);
                records.extend(core.catalog.delete(self.now(), ticket.block).unwrap_or_default());
            }
            self.journal(&mut core, records);
            for waiter in core.stores.waiters.remove(&ticket.index).unwrap_or_default() {
                // The waiter may have gone away: the block is durable all the same.
                waiter.send(result).ok();
            }
        }
        if matches!(synced, Err(TierError::Poisoned { .. } | TierError::Closed)) {
            core.stores.down = self.all_devices_down();
        }
        core.stores.room.drain(..).for_each(|waiter| {
            waiter.send(()).ok();
        });
        if core.stores.unwritten() == 0 {
            core.stores.idle.drain(..).for_each(|waiter| {
                waiter.send(()).ok();
            });
        }
    }

    fn all_devices_down(&self) -> bool {
        let health = self.ports.nvme.as_ref().map(|tier| tier.health()).unwrap_or_default();
        health.iter().all(|device| device.state == crate::port::DeviceState::Poisoned)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    Nothing,
    Durable {
        first: u64,
    },
    Refused,
    Unknown {
        first: u64,
    },
    /// Nothing was written: the log still knows another block in one of the slots.
    Premature,
}

fn verdict(outcome: &StoreOutcome, synced: &Result<(), TierError>, committed: Commit) -> Result<(), Decline> {
    match (outcome, synced, committed) {
        (_, _, Commit::Premature) => Err(Decline::JournalUnavailable),
        (StoreOutcome::Written, Ok(()), Commit::Durable { .. }) => Ok(()),
        (StoreOutcome::Written, Ok(()), _) => Err(Decline::JournalUnavailable),
        (StoreOutcome::Failed(TierError::Busy), _, _) => Err(Decline::Busy),
        _ => Err(Decline::NvmeUnavailable),
    }
}
