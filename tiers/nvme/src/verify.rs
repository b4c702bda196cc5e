//! Verifying blocks in place: reads them through the device's lane, piece by piece, paced and at idle priority.

use std::sync::Arc;

use kvtier_device::{DiskBuffer, DiskError, DiskOp, Priority};
use kvtier_engine::header::HEADER_BYTES;
use kvtier_engine::place::{PAGE_BYTES, slot_bytes};
use kvtier_engine::port::{BoxFuture, LoadOutcome, TierError, Verify};

use crate::answers::{Answers, Placed};
use crate::check::{check_header, reason};
use crate::device::Device;
use crate::layout::check_slot;
use crate::open::one;
use crate::probe;
use crate::scratch::{LANE_PAYLOAD_BYTES, Lane};
use crate::shared::{Shared, split_by_device};

const PAGE: u32 = PAGE_BYTES as u32;
type Wanted = (usize, Verify);

/// Starts the whole batch; the blocks of one device are read one after the other.
pub(crate) fn start(shared: &Arc<Shared>, batch: Vec<Verify>) -> BoxFuture<Vec<LoadOutcome>> {
    let mut answers = Answers::of(batch.len());
    let per_device = split_by_device(
        shared.devices.len(),
        batch,
        |verify| verify.at.device,
        |place| {
            answers.set(place, LoadOutcome::Corrupt(reason::NO_DEVICE));
        },
    );
    for (device, wanted) in shared.devices.iter().zip(per_device) {
        if !wanted.is_empty() {
            start_on(shared, device, wanted, &mut answers);
        }
    }
    Box::pin(answers.collect(LoadOutcome::Failed(TierError::Closed)))
}

fn start_on(shared: &Arc<Shared>, device: &Arc<Device>, wanted: Vec<Wanted>, answers: &mut Answers<LoadOutcome>) {
    let permit = device.verifies.take(wanted.len());
    let mut admitted = wanted;
    for (place, _) in admitted.split_off(permit.count()) {
        answers.set(place, LoadOutcome::Failed(TierError::Busy));
    }
    let (sender, shared_, device) = (answers.expect(), shared.clone(), device.clone());
    shared.spawn.spawn(
        "nvme verify",
        Box::pin(async move {
            let mut outcomes: Placed<LoadOutcome> = Vec::with_capacity(admitted.len());
            for (place, verify) in admitted {
                let outcome = verify_one(&shared_, &device, verify).await;
                device.counts.scrub(&outcome);
                if let LoadOutcome::Failed(TierError::Io(cause)) = &outcome {
                    probe::record_error(&shared_, &device, cause);
                }
                outcomes.push((place, outcome));
            }
            drop(permit);
            // A caller that has gone away wanted no answer.
            let _ = sender.send(outcomes);
        }),
    );
}

async fn verify_one(shared: &Shared, device: &Device, verify: Verify) -> LoadOutcome {
    if let Err(why) = check_slot(&device.geometry, verify.at, verify.expect.length) {
        return LoadOutcome::Corrupt(why);
    }
    if let Some(refusal) = device.refuses_loads() {
        return LoadOutcome::Failed(refusal);
    }
    let lane = device.lane.lock().await;
    let pause = device.pace(shared.clock.now(), slot_bytes(verify.expect.length));
    if !pause.is_zero() {
        shared.clock.sleep(pause).await;
    }
    match read_and_check(device, &lane, verify).await {
        Ok(Ok(())) => LoadOutcome::Verified,
        Ok(Err(why)) => LoadOutcome::Corrupt(why),
        Err(error) => LoadOutcome::Failed(device.explain(error)),
    }
}

/// Header page and the payload's first piece together, then the other pieces.
async fn read_and_check(device: &Device, lane: &Lane, verify: Verify) -> Result<Result<(), &'static str>, DiskError> {
    let length = verify.expect.length;
    let first = length.min(LANE_PAYLOAD_BYTES);
    read(device, verify.at.offset, lane.head(slot_bytes(first))).await?;
    let mut header = [0; HEADER_BYTES];
    lane.read_header(&mut header);
    if let Err(why) = check_header(&header, &verify.expect) {
        return Ok(Err(why));
    }
    let (mut crc, mut done) = (lane.checksum(first), first);
    while done < length {
        let piece = (length - done).min(LANE_PAYLOAD_BYTES);
        let at = verify.at.offset + PAGE_BYTES + u64::from(done);
        read(device, at, lane.payload(piece.next_multiple_of(PAGE))).await?;
        crc = lane.combine(crc, lane.checksum(piece), piece);
        done += piece;
    }
    Ok(if crc == verify.expect.crc { Ok(()) } else { Err(reason::PAYLOAD) })
}

async fn read(device: &Device, offset: u64, into: DiskBuffer) -> Result<(), DiskError> {
    one(device.disk.submit(vec![DiskOp::Read { offset, into }], Priority::Idle)).await
}
