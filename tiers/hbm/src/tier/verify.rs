//! Verification in place: the payload's checksum by the GPU's kernel, the header by the CPU.

use std::sync::Arc;

use kvtier_engine::header::HEADER_BYTES;
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::{BoxFuture, LoadOutcome, TierError, Verify};

use super::HbmTier;
use super::check::{check_header, reason};
use crate::answers::Answers;
use crate::checksum::{SPANS_MAX, Span, finish};
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, Lane, Place, Run};
use crate::queue::{Alarm, Job, SCRATCH_BYTES, Work};

/// Where the checksums begin in a job's scratch memory; before them one header per block.
const CHECKSUMS_AT: u64 = (SPANS_MAX * HEADER_BYTES) as u64;
const _: () = assert!(CHECKSUMS_AT + 4 * SPANS_MAX as u64 <= SCRATCH_BYTES, "scratch memory holds a job's answers");

struct VerifyJob {
    device: Arc<Device>,
    answers: Arc<Answers<LoadOutcome>>,
    blocks: Vec<(usize, Verify)>,
    scratch: Option<Place>,
}

pub(super) fn start(tier: &HbmTier, batch: Vec<Verify>) -> BoxFuture<Vec<LoadOutcome>> {
    let (answers, future) = Answers::expect(batch.len(), || LoadOutcome::Failed(TierError::Closed));
    let corrupt = LoadOutcome::Corrupt(reason::NO_DEVICE);
    let split = tier.split(batch, |verify| verify.at.device, |place| answers.set(place, corrupt.clone()));
    for (blocks, device) in split.into_iter().zip(&tier.shared.devices) {
        for blocks in blocks.chunks(SPANS_MAX) {
            let (device, answers, own) = (Arc::clone(device), Arc::clone(&answers), Arc::clone(&answers));
            let job = VerifyJob { device: Arc::clone(&device), answers: own, blocks: blocks.to_vec(), scratch: None };
            if let Err((refused, _)) = device.queue.push(Box::new(job)) {
                let error = device.refusal_of(&refused);
                blocks.iter().for_each(|(place, _)| answers.set(*place, LoadOutcome::Failed(error.clone())));
            }
        }
    }
    future
}

impl VerifyJob {
    fn judge(
        &self,
        gpu: &dyn Gpu,
        at: usize,
        expect: &kvtier_engine::port::tier::Expect,
    ) -> Result<LoadOutcome, GpuError> {
        let scratch = self.scratch.ok_or_else(|| GpuError::Invalid("the job had no turn".into()))?;
        let (mut header, mut raw) = ([0; HEADER_BYTES], [0; 4]);
        gpu.read(scratch.after((at * HEADER_BYTES) as u64), &mut header)?;
        gpu.read(scratch.after(CHECKSUMS_AT + at as u64 * 4), &mut raw)?;
        let crc = finish(u32::from_le_bytes(raw), expect.length);
        let checked = check_header(&header, expect);
        let checked = checked.and(if crc == expect.crc { Ok(()) } else { Err(reason::PAYLOAD) });
        Ok(checked.map_or_else(LoadOutcome::Corrupt, |()| LoadOutcome::Verified))
    }
}

impl Job for VerifyJob {
    fn lane(&self) -> Lane {
        Lane::SaveOut
    }

    fn operations(&self) -> usize {
        self.blocks.len()
    }

    fn stages(&mut self, scratch: Place) -> Vec<Vec<Work>> {
        self.scratch = Some(scratch);
        let (mut runs, mut spans) = (Vec::new(), Vec::new());
        for (place, verify) in std::mem::take(&mut self.blocks) {
            match self.device.pool_place(verify.at, verify.expect.length) {
                Err(why) => self.answers.set(place, LoadOutcome::Corrupt(why)),
                Ok(from) => {
                    let to = scratch.after((spans.len() * HEADER_BYTES) as u64);
                    runs.push(Run { from, to, bytes: HEADER_BYTES as u64 });
                    spans.push(Span { at: from.after(PAGE_BYTES), bytes: verify.expect.length });
                    self.blocks.push((place, verify));
                }
            }
        }
        vec![vec![Work::Copy(runs), Work::Checksum { spans, into: scratch.after(CHECKSUMS_AT) }]]
    }

    fn alarm(&self) -> Alarm {
        let (device, answers) = (Arc::clone(&self.device), Arc::clone(&self.answers));
        let places: Vec<_> = self.blocks.iter().map(|(place, _)| *place).collect();
        Box::new(move |error| {
            let failed = LoadOutcome::Failed(device.error_of(error));
            places.into_iter().for_each(|place| answers.set(place, failed.clone()));
        })
    }

    fn reached(&mut self, _gpu: &dyn Gpu, _stage: usize) {}

    fn finish(self: Box<Self>, gpu: &dyn Gpu, result: Result<(), GpuError>) {
        for (at, (place, verify)) in self.blocks.iter().enumerate() {
            let judged = result.clone().and_then(|()| self.judge(gpu, at, &verify.expect));
            let outcome = judged.unwrap_or_else(|error| LoadOutcome::Failed(self.device.error_of(&error)));
            self.answers.set(*place, outcome);
        }
    }
}
