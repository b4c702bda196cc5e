//! Host to pool: promotion. The host copy is verified before it is uploaded. Its header goes through the job's scratch memory:
//! the slot's own header page belongs to whoever writes the block back to NVMe meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_engine::header::HEADER_BYTES;
use kvtier_engine::place::{PAGE_BYTES, slot_bytes};
use kvtier_engine::port::{BoxFuture, Memory, Store, StoreOutcome, TierError};

use super::HbmTier;
use super::check::reason;
use crate::answers::Answers;
use crate::chain::Keep;
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, Lane, Place, Run};
use crate::queue::{Alarm, Job, SCRATCH_BYTES, Work};

/// Stores of one job: each has a page of its scratch memory.
const STORES_MAX: usize = (SCRATCH_BYTES / PAGE_BYTES) as usize;

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
        for stores in stores.chunks(STORES_MAX) {
            let (memory, answers) = (Arc::clone(&tier.shared.memory), Arc::clone(&answers));
            let (own, keep) = (Arc::clone(device), keep.take());
            let job = StoreJob { device: own, memory, answers: Arc::clone(&answers), stores: stores.to_vec(), keep };
            if let Err((refused, _)) = device.queue.push(Box::new(job)) {
                let error = device.refusal_of(&refused);
                stores.iter().for_each(|(place, _)| answers.set(*place, StoreOutcome::Failed(error.clone())));
            }
        }
    }
    future
}

impl StoreJob {
    /// The copies of one store, header page and payload; otherwise its outcome. `page` is a page of scratch memory.
    fn plan(&self, store: &Store, page: Place) -> Result<[Run; 2], StoreOutcome> {
        let (length, failed) = (store.header.length, StoreOutcome::Failed);
        let to = self.device.pool_place(store.to, length).map_err(|why| failed(TierError::Io(why.into())))?;
        let from: Place = self.device.host_place(store.from).map_err(failed)?;
        if self.memory.checksum(store.from, 0, length) != store.header.crc {
            return Err(StoreOutcome::Corrupt(reason::HOST_PAYLOAD));
        }
        let mut header = [0; PAGE_BYTES as usize];
        header[..HEADER_BYTES].copy_from_slice(&store.header.encode(crc32fast::hash));
        let written = self.device.gpu().write(page, &header);
        written.map_err(|error| StoreOutcome::Failed(self.device.error_of(&error)))?;
        let bytes = u64::from(store.from.transfer_bytes(length)) - PAGE_BYTES;
        let payload = Run { from: from.after(PAGE_BYTES), to: to.after(PAGE_BYTES), bytes };
        Ok([Run { from: page, to, bytes: PAGE_BYTES }, payload])
    }
}

impl Job for StoreJob {
    fn lane(&self) -> Lane {
        Lane::SaveIn
    }

    fn operations(&self) -> usize {
        self.stores.len()
    }

    fn stages(&mut self, scratch: Place) -> Vec<Vec<Work>> {
        let mut runs = Vec::with_capacity(2 * self.stores.len());
        for (place, store) in std::mem::take(&mut self.stores) {
            let page = scratch.after(self.stores.len() as u64 * PAGE_BYTES);
            match self.plan(&store, page) {
                Err(outcome) => self.answers.set(place, outcome),
                Ok(both) => {
                    runs.extend(both);
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
