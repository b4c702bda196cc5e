//! Copies of blocks that the engine does not decide about: the pools in GPU memory.
//!
//! An annex holds *further* copies: what is there is also in host memory or on NVMe, so nothing is promised on volatile
//! memory. The engine does two things with it: it tells what is gone, so that no byte of a removed block stays there, and it
//! brings a block up from there instead of from NVMe.
//!
//! ```text
//!   removed from every tier ─► core let go of ─► forget
//!   no host copy ─► fetch into the flight's host slot ─► verified: there ─► else from NVMe
//! ```

use std::sync::{Arc, OnceLock};

use futures::future::join;

use super::alarm::RaisedAlarm;
use super::load::Leg;
use super::{Core, Engine, Shared};
use crate::catalog::plan::{Miss, MissReason};
use crate::place::{Slot, TierKind};
use crate::port::tier::Expect;
use crate::port::{BoxFuture, LoadOutcome, Record};
use kvtier_identity::BlockId;

/// What became of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The slot holds the block, header and payload, and it verifies.
    Verified,
    /// It does not, and nobody writes to the slot any more.
    Not,
    /// It does not, and a device may write to the slot at any time to come (INV-8).
    Stuck,
}

/// Copies outside of the engine's tiers.
pub trait Annex: Send + Sync + 'static {
    /// These blocks are gone. Called without the core's lock; what is in use there goes when it is not any more.
    fn forget(&self, blocks: &[BlockId]);
    /// Copies a block, if it is there with these bytes, into a host slot, and verifies it there. Goes on when the future is
    /// dropped. `expect.generation` says nothing here.
    fn fetch(&self, expect: &Expect, into: Slot) -> Option<BoxFuture<Fetched>>;
    /// What an operator should know of it now. Called without the core's lock.
    fn alarms(&self) -> Vec<RaisedAlarm>;
}

/// The annex, once there is one.
pub(crate) type AnnexSlot = OnceLock<Arc<dyn Annex>>;

impl Engine {
    /// Adds the annex. The first one counts.
    pub fn add_annex(&self, annex: Arc<dyn Annex>) {
        self.shared.annex.set(annex).ok();
    }
}

impl Core {
    /// Notes for the annex what records take away for good.
    pub(crate) fn note_gone(&mut self, records: &[Record]) {
        for record in records {
            if let Record::Removed { block, .. } = record
                && self.catalog.peek(*block).is_none()
            {
                self.gone.push(*block);
            }
        }
    }
}

impl Shared {
    /// Brings up what the annex has, and the rest from NVMe, side by side.
    pub(crate) async fn fly(self: Arc<Self>, legs: Vec<Leg>) {
        let Some(annex) = self.annex.get() else { return self.fly_from_nvme(legs).await };
        let (mut fetches, mut rest) = (Vec::new(), Vec::new());
        for leg in legs {
            match annex.fetch(&leg.expect, leg.into) {
                Some(fetch) => fetches.push((leg, fetch)),
                None => rest.push(leg),
            }
        }
        join(self.fly_from_nvme(rest), self.fly_from_annex(fetches)).await;
    }

    async fn fly_from_annex(&self, fetches: Vec<(Leg, BoxFuture<Fetched>)>) {
        let mut failed = Vec::new();
        for (leg, fetch) in fetches {
            match fetch.await {
                Fetched::Verified => {
                    let outcome = LoadOutcome::Verified;
                    let key = self.key_of(&leg, &outcome);
                    self.land(&mut self.lock(), &leg, &outcome, key);
                }
                Fetched::Not => failed.push(leg),
                Fetched::Stuck => {
                    let mut core = self.lock();
                    core.catalog.abandon_load(leg.index);
                    let miss = Miss { reason: MissReason::TierDown, age: None, tier: Some(TierKind::Hbm) };
                    core.loads.land(leg.block, Err(miss));
                }
            }
        }
        self.fly_from_nvme(failed).await;
    }
}
