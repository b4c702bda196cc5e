//! Pool to host: demotion, and gets of blocks that are only here. The host copy is verified after it has arrived.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_engine::place::slot_bytes;
use kvtier_engine::port::{BoxFuture, Load, LoadOutcome, Memory, TierError};

use super::HbmTier;
use super::check::{check_block, reason};
use crate::answers::Answers;
use crate::chain::Keep;
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, Lane, Place, Run};
use crate::queue::{Alarm, Job, Work};

struct LoadJob {
    device: Arc<Device>,
    memory: Arc<dyn Memory>,
    answers: Arc<Answers<LoadOutcome>>,
    loads: Vec<(usize, Load)>,
    keep: Option<Keep>,
}

pub(super) fn start(tier: &HbmTier, batch: Vec<Load>, mut keep: Option<Keep>) -> BoxFuture<Vec<LoadOutcome>> {
    let (answers, future) = Answers::expect(batch.len(), || LoadOutcome::Failed(TierError::Closed));
    let corrupt = LoadOutcome::Corrupt(reason::NO_DEVICE);
    let split = tier.split(batch, |load| load.from.device, |place| answers.set(place, corrupt.clone()));
    for (loads, device) in split.into_iter().zip(&tier.shared.devices).filter(|(loads, _)| !loads.is_empty()) {
        let places: Vec<_> = loads.iter().map(|(place, _)| *place).collect();
        let (device, memory) = (Arc::clone(device), Arc::clone(&tier.shared.memory));
        let job =
            LoadJob { device: Arc::clone(&device), memory, answers: Arc::clone(&answers), loads, keep: keep.take() };
        if let Err((refused, job)) = device.queue.push(Box::new(job)) {
            // What it keeps is let go of before anybody hears of the end.
            drop(job);
            let error = device.refusal_of(&refused);
            places.into_iter().for_each(|place| answers.set(place, LoadOutcome::Failed(error.clone())));
        }
    }
    future
}

impl LoadJob {
    fn plan(&self, load: &Load) -> Result<Run, LoadOutcome> {
        let length = load.expect.length;
        let from = self.device.pool_place(load.from, length).map_err(LoadOutcome::Corrupt)?;
        let to = self.device.host_place(load.into).map_err(LoadOutcome::Failed)?;
        Ok(Run { from, to, bytes: load.into.transfer_bytes(length).into() })
    }
}

impl Job for LoadJob {
    fn lane(&self) -> Lane {
        Lane::LoadOut
    }

    fn operations(&self) -> usize {
        self.loads.len()
    }

    fn stages(&mut self, _scratch: Place) -> Vec<Vec<Work>> {
        let mut runs = Vec::with_capacity(self.loads.len());
        for (place, load) in std::mem::take(&mut self.loads) {
            match self.plan(&load) {
                Err(outcome) => self.answers.set(place, outcome),
                Ok(run) => {
                    runs.push(run);
                    self.loads.push((place, load));
                }
            }
        }
        vec![vec![Work::Copy(runs)]]
    }

    fn alarm(&self) -> Alarm {
        let (device, answers) = (Arc::clone(&self.device), Arc::clone(&self.answers));
        let places: Vec<_> = self.loads.iter().map(|(place, _)| *place).collect();
        Box::new(move |error| {
            let failed = LoadOutcome::Failed(device.error_of(error));
            places.into_iter().for_each(|place| answers.set(place, failed.clone()));
        })
    }

    fn reached(&mut self, _gpu: &dyn Gpu, _stage: usize) {}

    fn finish(mut self: Box<Self>, _gpu: &dyn Gpu, result: Result<(), GpuError>) {
        let mut outcomes = Vec::with_capacity(self.loads.len());
        for (place, load) in &self.loads {
            let outcome = match &result {
                Err(error) => LoadOutcome::Failed(self.device.error_of(error)),
                Ok(()) => {
                    self.device.read_bytes.fetch_add(slot_bytes(load.expect.length).into(), Ordering::Relaxed);
                    let checked = check_block(&*self.memory, load.into, &load.expect);
                    checked.map_or_else(LoadOutcome::Corrupt, |()| LoadOutcome::Verified)
                }
            };
            outcomes.push((*place, outcome));
        }
        // Before anybody hears of the end.
        drop(self.keep.take());
        outcomes.into_iter().for_each(|(place, outcome)| self.answers.set(place, outcome));
    }
}
