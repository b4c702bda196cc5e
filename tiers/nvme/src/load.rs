//! Reading blocks into host memory and verifying them.
//!
//! All blocks are handed to the disk before [`start`] returns, chunk by chunk. A task of its own awaits the chunks
//! in order and verifies each on the runtime's threads, never on the device's, while later chunks are still being
//! read. The task runs to its end whoever drops the returned future; host slots belong to it until then.

use std::sync::Arc;

use kvtier_device::{DiskError, Priority};
use kvtier_engine::place::slot_bytes;
use kvtier_engine::port::{BoxFuture, Load, LoadOutcome, TierError};

use crate::answers::{Answers, Placed, give_way};
use crate::check::{check_block, reason};
use crate::chunk::{Piece, cut};
use crate::device::Device;
use crate::layout::check_slot;
use crate::probe;
use crate::shared::{Shared, split_by_device};

/// A block to be read, with its place in the batch.
type Wanted = (usize, Load);
/// Blocks at the device and their results to come.
type Chunk = (Vec<Piece<Wanted>>, BoxFuture<Vec<Result<(), DiskError>>>);

/// Starts the whole batch.
pub(crate) fn start(shared: &Arc<Shared>, batch: Vec<Load>) -> BoxFuture<Vec<LoadOutcome>> {
    let mut answers = Answers::of(batch.len());
    let per_device = split_by_device(
        shared.devices.len(),
        batch,
        |load| load.from.device,
        |place| {
            answers.set(place, LoadOutcome::Corrupt(reason::NO_DEVICE));
        },
    );
    for (device, loads) in shared.devices.iter().zip(per_device) {
        if !loads.is_empty() {
            start_on(shared, device, loads, &mut answers);
        }
    }
    Box::pin(answers.collect(LoadOutcome::Failed(TierError::Closed)))
}

fn start_on(shared: &Arc<Shared>, device: &Arc<Device>, loads: Vec<Wanted>, answers: &mut Answers<LoadOutcome>) {
    if let Some(refusal) = device.refuses_loads() {
        return loads.iter().for_each(|(place, _)| answers.set(*place, LoadOutcome::Failed(refusal.clone())));
    }
    let permit = device.loads.take(loads.len());
    let mut pieces = Vec::with_capacity(permit.count());
    for (at, (place, load)) in loads.into_iter().enumerate() {
        if at >= permit.count() {
            answers.set(place, LoadOutcome::Failed(TierError::Busy));
            continue;
        }
        match piece(shared, device, place, load) {
            Ok(piece) => pieces.push(piece),
            Err(outcome) => answers.set(place, outcome),
        }
    }
    if pieces.is_empty() {
        return;
    }
    let chunks: Vec<Chunk> = cut(pieces)
        .into_iter()
        .map(|chunk| {
            let results = device.disk.submit(chunk.iter().map(Piece::read).collect(), Priority::Load);
            (chunk, results)
        })
        .collect();
    let (sender, shared_, device) = (answers.expect(), shared.clone(), device.clone());
    shared.spawn.spawn(
        "nvme load",
        Box::pin(async move {
            let outcomes = finish(&shared_, &device, chunks).await;
            drop(permit);
            // A caller that has gone away wanted no answer.
            let _ = sender.send(outcomes);
        }),
    );
}

fn piece(shared: &Shared, device: &Device, place: usize, load: Load) -> Result<Piece<Wanted>, LoadOutcome> {
    let length = load.expect.length;
    check_slot(&device.geometry, load.from, length).map_err(LoadOutcome::Corrupt)?;
    let bytes = slot_bytes(length);
    if load.into.bytes < bytes {
        let message = format!("a block of {length} bytes does not fit a host slot of {} bytes", load.into.bytes);
        return Err(LoadOutcome::Failed(TierError::Io(message)));
    }
    Ok(Piece { offset: load.from.offset, bytes, region: shared.memory.region(load.into), tag: (place, load) })
}

async fn finish(shared: &Arc<Shared>, device: &Arc<Device>, chunks: Vec<Chunk>) -> Placed<LoadOutcome> {
    let mut outcomes = Vec::new();
    let mut chunks = chunks.into_iter();
    while let Some((chunk, results)) = chunks.next() {
        let mut results = results.await.into_iter();
        for piece in &chunk {
            let result = results.next().unwrap_or(Err(DiskError::Closed));
            outcomes.push(conclude(shared, device, piece, result));
        }
        if chunks.len() > 0 {
            give_way().await;
        }
    }
    outcomes
}

fn conclude(
    shared: &Arc<Shared>,
    device: &Arc<Device>,
    piece: &Piece<Wanted>,
    result: Result<(), DiskError>,
) -> (usize, LoadOutcome) {
    let (place, load) = &piece.tag;
    let outcome = match result {
        Err(error) => LoadOutcome::Failed(device.explain(error)),
        Ok(()) => match check_block(&*shared.memory, load.into, &load.expect) {
            Ok(()) => LoadOutcome::Verified,
            Err(why) => LoadOutcome::Corrupt(why),
        },
    };
    device.counts.load(&outcome);
    match &outcome {
        LoadOutcome::Failed(TierError::Io(cause)) => probe::record_error(shared, device, cause),
        LoadOutcome::Corrupt(why) => {
            tracing::warn!(device = %device.name, offset = load.from.offset, block = %load.expect.block, why, "corrupt block");
            probe::record_error(shared, device, why);
        }
        LoadOutcome::Failed(_) | LoadOutcome::Verified => {}
    }
    (*place, outcome)
}
