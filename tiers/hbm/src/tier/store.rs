//! Host to pool: promotion. The host copy is verified, all of it, before it or a piece of it is uploaded. Its header goes through the job's scratch memory:
//! the slot's own header page belongs to whoever writes the block back to NVMe meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_engine::header::{HEADER_BYTES, SlotHeader};
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

/// A store of a block, or of a piece of it.
#[derive(Clone)]
pub(crate) struct Upload {
    /// Of the whole block; its slot in the pool has room for the piece.
    pub(crate) store: Store,
    /// First byte and number of bytes.
    pub(crate) piece: (u32, u32),
}

impl Upload {
    fn whole(store: Store) -> Self {
        let piece = (0, store.header.length);
        Self { store, piece }
    }

    /// The header of what is uploaded, once its checksum is known.
    fn header(&self, crc: u32) -> SlotHeader {
        SlotHeader { length: self.piece.1, crc, ..self.store.header.clone() }
    }
}

/// What became of an upload, and the checksum of its bytes if they were written.
pub(crate) type Uploaded = (StoreOutcome, u32);

struct StoreJob {
    device: Arc<Device>,
    memory: Arc<dyn Memory>,
    answers: Arc<Answers<Uploaded>>,
    uploads: Vec<(usize, Upload)>,
    /// Checksums of what is uploaded, in that order.
    crcs: Vec<u32>,
    keep: Option<Keep>,
}

/// Stores of the tier's port.
pub(super) fn start(tier: &HbmTier, batch: Vec<Store>) -> BoxFuture<Vec<StoreOutcome>> {
    let uploaded = upload(tier, batch.into_iter().map(Upload::whole).collect(), None);
    Box::pin(async move { uploaded.await.into_iter().map(|(outcome, _)| outcome).collect() })
}

pub(super) fn upload(tier: &HbmTier, batch: Vec<Upload>, mut keep: Option<Keep>) -> BoxFuture<Vec<Uploaded>> {
    let failed = |error: TierError| (StoreOutcome::Failed(error), 0);
    let (answers, future) = Answers::expect(batch.len(), move || failed(TierError::Closed));
    let no_device = |place| answers.set(place, failed(TierError::Io(reason::NO_DEVICE.into())));
    let split = tier.split(batch, |upload| upload.store.to.device, no_device);
    for (uploads, device) in split.into_iter().zip(&tier.shared.devices).filter(|(uploads, _)| !uploads.is_empty()) {
        for uploads in uploads.chunks(STORES_MAX) {
            let (memory, answers) = (Arc::clone(&tier.shared.memory), Arc::clone(&answers));
            let (own, keep, crcs) = (Arc::clone(device), keep.take(), Vec::new());
            let own_answers = Arc::clone(&answers);
            let job = StoreJob { device: own, memory, answers: own_answers, uploads: uploads.to_vec(), crcs, keep };
            if let Err((refused, _)) = device.queue.push(Box::new(job)) {
                let error = device.refusal_of(&refused);
                uploads.iter().for_each(|(place, _)| answers.set(*place, failed(error.clone())));
            }
        }
    }
    future
}

impl StoreJob {
    /// The copies of one upload, header page and payload, and its checksum; otherwise its outcome. `page` is a page of scratch
    /// memory.
    fn plan(&self, upload: &Upload, page: Place) -> Result<([Run; 2], u32), StoreOutcome> {
        let Upload { store, piece: (offset, bytes) } = upload;
        let (length, failed) = (store.header.length, StoreOutcome::Failed);
        let to = self.device.pool_place(store.to, *bytes).map_err(|why| failed(TierError::Io(why.into())))?;
        let from: Place = self.device.host_place(store.from).map_err(failed)?;
        if self.memory.checksum(store.from, 0, length) != store.header.crc {
            return Err(StoreOutcome::Corrupt(reason::HOST_PAYLOAD));
        }
        let (crc, moved) = match (*offset, *bytes) == (0, length) {
            true => (store.header.crc, u64::from(store.from.transfer_bytes(length)) - PAGE_BYTES),
            false => (self.memory.checksum(store.from, *offset, *bytes), u64::from(*bytes)),
        };
        let mut header = [0; PAGE_BYTES as usize];
        header[..HEADER_BYTES].copy_from_slice(&upload.header(crc).encode(crc32fast::hash));
        let written = self.device.gpu().write(page, &header);
        written.map_err(|error| StoreOutcome::Failed(self.device.error_of(&error)))?;
        let payload = from.after(PAGE_BYTES + u64::from(*offset));
        let payload = Run { from: payload, to: to.after(PAGE_BYTES), bytes: moved };
        Ok(([Run { from: page, to, bytes: PAGE_BYTES }, payload], crc))
    }
}

impl Job for StoreJob {
    fn lane(&self) -> Lane {
        Lane::SaveIn
    }

    fn operations(&self) -> usize {
        self.uploads.len()
    }

    fn stages(&mut self, scratch: Place) -> Vec<Vec<Work>> {
        let mut runs = Vec::with_capacity(2 * self.uploads.len());
        for (place, upload) in std::mem::take(&mut self.uploads) {
            let page = scratch.after(self.uploads.len() as u64 * PAGE_BYTES);
            match self.plan(&upload, page) {
                Err(outcome) => self.answers.set(place, (outcome, 0)),
                Ok((both, crc)) => {
                    runs.extend(both);
                    self.crcs.push(crc);
                    self.uploads.push((place, upload));
                }
            }
        }
        vec![vec![Work::Copy(runs)]]
    }

    fn alarm(&self) -> Alarm {
        let (device, answers) = (Arc::clone(&self.device), Arc::clone(&self.answers));
        let places: Vec<_> = self.uploads.iter().map(|(place, _)| *place).collect();
        Box::new(move |error| {
            let failed = (StoreOutcome::Failed(device.error_of(error)), 0);
            places.into_iter().for_each(|place| answers.set(place, failed.clone()));
        })
    }

    fn reached(&mut self, _gpu: &dyn Gpu, _stage: usize) {}

    fn finish(mut self: Box<Self>, _gpu: &dyn Gpu, result: Result<(), GpuError>) {
        drop(self.keep.take());
        for ((place, upload), crc) in self.uploads.iter().zip(&self.crcs) {
            let outcome = match &result {
                Ok(()) => StoreOutcome::Written,
                Err(error) => StoreOutcome::Failed(self.device.error_of(error)),
            };
            if outcome == StoreOutcome::Written {
                self.device.written_bytes.fetch_add(slot_bytes(upload.piece.1).into(), Ordering::Relaxed);
            }
            self.answers.set(*place, (outcome, *crc));
        }
    }
}
