//! Staging up: NVMe to host, one flight per block, verified.
//!
//! A flight is a spawned task that owns the host slot until the device is done (INV-8); whoever waits for it may go
//! away. A crash in a flight loses the arena and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::oneshot;
use kvtier_identity::{BlockId, Key};

use super::{Core, Shared};
use crate::catalog::plan::{BlockIndex, HostCopy, LoadPlan, Miss, MissReason};
use crate::header::{HEADER_BYTES, SlotHeader};
use crate::place::{Slot, TierKind};
use crate::port::tier::Expect;
use crate::port::{Load, LoadOutcome};

/// How a flight ended, for those who wait: the block is in host memory, or why not.
type Landing = Result<(), Miss>;
type LoadWaiter = oneshot::Receiver<Landing>;

/// Blocks on their way up, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct LoadFlights {
    waiters: BTreeMap<BlockId, Vec<oneshot::Sender<Landing>>>,
}

/// One load of a flight.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(super) index: BlockIndex,
    pub(super) block: BlockId,
    from: Slot,
    pub(super) into: Slot,
    pub(super) expect: Expect,
}

/// What asking for a block in host memory leads to.
pub(crate) enum Ask {
    Ready(HostPin),
    Wait(LoadWaiter),
    Miss(Miss),
}

/// A hold on a host copy; keeps its slot from being reused.
pub(crate) struct HostPin {
    shared: Arc<Shared>,
    copy: HostCopy,
}

impl HostPin {
    /// What it holds.
    pub(crate) fn copy(&self) -> HostCopy {
        self.copy
    }

    /// The payload, without a copy; the hold lives as long as the view.
    pub(crate) fn into_view(self) -> (Bytes, u32) {
        let (copy, memory) = (self.copy, Arc::clone(&self.shared.ports.memory));
        (memory.view(copy.slot, 0, copy.length, Box::new(self)), copy.crc)
    }
}

impl Drop for HostPin {
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        let records = core.catalog.unhold(self.copy.index);
        self.shared.journal(&mut core, records);
    }
}

impl LoadFlights {
    fn wait(&mut self, block: BlockId) -> LoadWaiter {
        let (sender, receiver) = oneshot::channel();
        self.waiters.entry(block).or_default().push(sender);
        receiver
    }

    pub(super) fn land(&mut self, block: BlockId, landing: Landing) {
        for waiter in self.waiters.remove(&block).unwrap_or_default() {
            // Nobody may wait any more: the block is up all the same.
            waiter.send(landing).ok();
        }
    }
}

impl Shared {
    /// Asks for a block in host memory. New loads are added to `legs`; the caller starts them with
    /// [`Shared::start_flight`] as soon as it has let go of the core, not before: only then can those who still read the
    /// slots' old blocks tell (see [`crate::port::Memory::renew`]).
    pub(crate) fn ask(self: &Arc<Self>, core: &mut Core, block: BlockId, legs: &mut Vec<Leg>) -> Ask {
        match core.catalog.begin_load_block(self.now(), block) {
            LoadPlan::Resident(copy) => Ask::Ready(HostPin { shared: Arc::clone(self), copy }),
            LoadPlan::InFlight => Ask::Wait(core.loads.wait(block)),
            LoadPlan::Load { index, from, into, expect, records } => {
                self.journal(core, records);
                legs.push(Leg { index, block, from, into, expect });
                Ask::Wait(core.loads.wait(block))
            }
            LoadPlan::Miss(miss) => {
                // What is in the way may have been wanted on NVMe just now.
                self.write_back_admitted(core);
                Ask::Miss(miss)
            }
        }
    }

    /// Starts the loads of one batch as one task.
    pub(crate) fn start_flight(self: &Arc<Self>, legs: Vec<Leg>) {
        if legs.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        self.ports.spawn.spawn("load", Box::pin(async move { shared.fly(legs).await }));
    }

    pub(super) async fn fly_from_nvme(&self, legs: Vec<Leg>) {
        if legs.is_empty() {
            return;
        }
        let started = self.now();
        let tier = self.ports.nvme.as_ref().expect("nothing is resident on NVMe without an NVMe tier");
        let loads = legs.iter().map(|leg| Load { from: leg.from, into: leg.into, expect: leg.expect }).collect();
        let outcomes = tier.load(loads).await;
        assert_eq!(outcomes.len(), legs.len(), "a tier answers every operation of a batch");
        self.meter.load_latency.record(self.now().since(started));
        let keys: Vec<Option<Key>> =
            legs.iter().zip(&outcomes).map(|(leg, outcome)| self.key_of(leg, outcome)).collect();
        let mut core = self.lock();
        for ((leg, outcome), key) in legs.iter().zip(&outcomes).zip(keys) {
            match outcome {
                LoadOutcome::Verified => self.meter.nvme.loads.add(1),
                LoadOutcome::Corrupt(_) => self.meter.nvme.corrupt.add(1),
                LoadOutcome::Failed(_) => self.meter.nvme.load_failures.add(1),
            }
            self.land(&mut core, leg, outcome, key);
        }
    }

    pub(super) fn land(&self, core: &mut Core, leg: &Leg, outcome: &LoadOutcome, key: Option<Key>) {
        let now = self.now();
        let done = core.catalog.finish_load(now, leg.index, outcome, key);
        self.journal(core, done.records);
        if let Some(copy) = done.copy {
            let records = core.catalog.unhold(copy.index);
            self.journal(core, records);
        }
        let landing = match outcome {
            LoadOutcome::Verified => Ok(()),
            LoadOutcome::Corrupt(_) => Err(core.catalog.miss(now, leg.block)),
            LoadOutcome::Failed(_) => Err(Miss { reason: MissReason::TierDown, age: None, tier: Some(TierKind::Nvme) }),
        };
        core.loads.land(leg.block, landing);
    }

    /// The engine's key of a block that has just been loaded, from its verified header.
    pub(super) fn key_of(&self, leg: &Leg, outcome: &LoadOutcome) -> Option<Key> {
        if *outcome != LoadOutcome::Verified {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        self.ports.memory.read_header(leg.into, &mut header);
        SlotHeader::decode(&header, crc32fast::hash).ok().map(|header| header.key)
    }
}
