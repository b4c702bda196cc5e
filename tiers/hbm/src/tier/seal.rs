//! Headers of blocks whose payloads the GPU has gathered into the pool by itself.
//!
//! The rest of the header's page and what follows the payload in its last page become zero: a slot's old bytes are another
//! tenant's, and both pages travel to host memory with the block.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_engine::header::{HEADER_BYTES, SlotHeader};
use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_engine::port::BoxFuture;

use super::HbmTier;
use crate::answers::Answers;
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, Lane, Place, Run};
use crate::queue::{Alarm, Job, SCRATCH_BYTES, Work};

/// Headers of one job: scratch memory has a page of zeros, then the headers.
const SEALS_MAX: usize = ((SCRATCH_BYTES - PAGE_BYTES) / HEADER_BYTES as u64) as usize;

struct SealJob {
    device: Arc<Device>,
    answers: Arc<Answers<bool>>,
    seals: Vec<(usize, Slot, SlotHeader)>,
}

/// Whether each was written. A batch is for one GPU.
pub(super) fn start(tier: &HbmTier, batch: Vec<(Slot, SlotHeader)>) -> BoxFuture<Vec<bool>> {
    let (answers, future) = Answers::expect(batch.len(), || false);
    let gpu = batch.first().and_then(|(slot, _)| tier.device(slot.device));
    let numbered = batch.into_iter().enumerate().map(|(place, (slot, header))| (place, slot, header));
    let mut seals: Vec<_> = numbered.collect();
    let Some(device) = gpu else {
        seals.iter().for_each(|(place, ..)| answers.set(*place, false));
        return future;
    };
    while !seals.is_empty() {
        let rest = seals.split_off(seals.len().min(SEALS_MAX));
        let places: Vec<_> = seals.iter().map(|(place, ..)| *place).collect();
        let job = SealJob { device: Arc::clone(device), answers: Arc::clone(&answers), seals };
        if device.queue.push(Box::new(job)).is_err() {
            places.into_iter().for_each(|place| answers.set(place, false));
        }
        seals = rest;
    }
    future
}

impl SealJob {
    /// Writes one header to scratch memory; the copies that bring it to its slot.
    fn plan(&self, slot: Slot, header: &SlotHeader, zeros: Place, from: Place) -> Result<[Run; 3], GpuError> {
        let to = self.device.pool_place(slot, header.length).map_err(|why| GpuError::Invalid(why.into()))?;
        self.device.gpu().write(from, &header.encode(crc32fast::hash))?;
        let payload_end = PAGE_BYTES + u64::from(header.length);
        Ok([
            Run { from, to, bytes: HEADER_BYTES as u64 },
            Run { from: zeros, to: to.after(HEADER_BYTES as u64), bytes: PAGE_BYTES - HEADER_BYTES as u64 },
            Run {
                from: zeros,
                to: to.after(payload_end),
                bytes: payload_end.next_multiple_of(PAGE_BYTES) - payload_end,
            },
        ])
    }
}

impl Job for SealJob {
    fn lane(&self) -> Lane {
        Lane::SaveIn
    }

    fn operations(&self) -> usize {
        self.seals.len()
    }

    fn stages(&mut self, scratch: Place) -> Vec<Vec<Work>> {
        let mut runs = Vec::with_capacity(3 * self.seals.len());
        let zeroed = self.device.gpu().write(scratch, &[0; PAGE_BYTES as usize]).is_ok();
        let mut from = scratch.after(PAGE_BYTES);
        for (place, slot, header) in std::mem::take(&mut self.seals) {
            match self.plan(slot, &header, scratch, from) {
                Ok(planned) if zeroed => {
                    runs.extend(planned);
                    from = from.after(HEADER_BYTES as u64);
                    self.seals.push((place, slot, header));
                }
                _ => self.answers.set(place, false),
            }
        }
        vec![vec![Work::Copy(runs)]]
    }

    fn alarm(&self) -> Alarm {
        let answers = Arc::clone(&self.answers);
        let places: Vec<_> = self.seals.iter().map(|(place, ..)| *place).collect();
        Box::new(move |_| places.into_iter().for_each(|place| answers.set(place, false)))
    }

    fn reached(&mut self, _gpu: &dyn Gpu, _stage: usize) {}

    fn finish(self: Box<Self>, _gpu: &dyn Gpu, result: Result<(), GpuError>) {
        for (place, _, header) in &self.seals {
            if result.is_ok() {
                self.device.written_bytes.fetch_add(slot_bytes(header.length).into(), Ordering::Relaxed);
            }
            self.answers.set(*place, result.is_ok());
        }
    }
}
