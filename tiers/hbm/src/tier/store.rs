//! Host to pool: promotion. The host copy is verified before it is uploaded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_engine::place::slot_bytes;
use kvtier_engine::port::{BoxFuture, Memory, Store, StoreOutcome, TierError};

use super::HbmTier;
use super::check::reason;
use crate::answers::Answers;
use crate::chain::Keep;
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, Lane, Place, Run};
use crate::queue::{Alarm, Job, Work};

struct StoreJob {
    device: Arc<Device>,
    memory: Arc<dyn Memory>,
    answers: Arc<Answers<StoreOutcome>>,
    stores: Vec<(usize, Store)>,
    keep: Option<Keep>,
}

pub(super) fn start(tier: &HbmTier, batch: Vec<Store>, mut keep: Option<Keep>) -> BoxFuture<Vec<StoreOutcome>> {
    let (answers, future) = Answers::expect(batch.len(), || StoreOutcome::Failed(TierError::Closed));
    let failed = |cause: &str| StoreOutcome::Failed(TierError::Io(cause.into()));
    let split = tier.split(batch, |store| store.to.device, |place| answers.set(place, failed(reason::NO_DEVICE)));
    for (stores, device) in split.into_iter().zip(&tier.shared.devices).filter(|(stores, _)| !stores.is_empty()) {
        let places: Vec<_> = stores.iter().map(|(place, _)| *place).collect();
        let (device, memory) = (Arc::clone(device), Arc::clone(&tier.shared.memory));
        let job =
            StoreJob { device: Arc::clone(&device), memory, answers: Arc::clone(&answers), stores, keep: keep.take() };
        if let Err((refused, _)) = device.queue.push(Box::new(job)) {
            let error = device.refusal_of(&refused);
            places.into_iter().for_each(|place| answers.set(place, StoreOutcome::Failed(error.clone())));
        }
    }
    future
}

impl StoreJob {
    /// The copy of one store; otherwise its outcome.
    fn plan(&self, store: &Store) -> Result<Run, StoreOutcome> {
        let (length, failed) = (store.header.length, StoreOutcome::Failed);
        let to = self.device.pool_place(store.to, length).map_err(|why| failed(TierError::Io(why.into())))?;
        let from: Place = self.device.host_place(store.from).map_err(failed)?;
        if self.memory.checksum(store.from, 0, length) != store.header.crc {
            return Err(StoreOutcome::Corrupt(reason::HOST_PAYLOAD));
        }
        self.memory.write_header(store.from, &store.header.encode(crc32fast::hash));
        Ok(Run { from, to, bytes: store.from.transfer_bytes(length).into() })
    }
}

impl Job for StoreJob {
    fn lane(&self) -> Lane {
        Lane::SaveIn
    }

    fn operations(&self) -> usize {
        self.stores.len()
    }

    fn stages(&mut self, _scratch: Place) -> Vec<Vec<Work>> {
        let mut runs = Vec::with_capacity(self.stores.len());
        for (place, store) in std::mem::take(&mut self.stores) {
            match self.plan(&store) {
                Err(outcome) => self.answers.set(place, outcome),
                Ok(run) => {
                    runs.push(run);
                    self.stores.push((place, store));
                }
            }
        }
        vec![vec![Work::Copy(runs)]]
    }

    fn alarm(&self) -> Alarm {
        let (device, answers) = (Arc::clone(&self.device), Arc::clone(&self.answers));
        let places: Vec<_> = self.stores.iter().map(|(place, _)| *place).collect();
        Box::new(move |error| {
            let failed = StoreOutcome::Failed(device.error_of(error));
            places.into_iter().for_each(|place| answers.set(place, failed.clone()));
        })
    }

    fn reached(&mut self, _gpu: &dyn Gpu, _stage: usize) {}

    fn finish(mut self: Box<Self>, _gpu: &dyn Gpu, result: Result<(), GpuError>) {
        drop(self.keep.take());
        for (place, store) in &self.stores {
            let outcome = match &result {
                Ok(()) => StoreOutcome::Written,
                Err(error) => StoreOutcome::Failed(self.device.error_of(error)),
            };
            if outcome == StoreOutcome::Written {
                self.device.written_bytes.fetch_add(slot_bytes(store.header.length).into(), Ordering::Relaxed);
            }
            self.answers.set(*place, outcome);
        }
    }
}
