//! Reading blocks into host memory and verifying them.
//!
//! All transfers are handed to the disk before [`start`] returns, chunk by chunk. A task of its own awaits the chunks
//! in order and verifies each on the runtime's threads, never on the device's, while later chunks are still being
//! read. The task runs to its end whoever drops the returned future; host slots belong to it until then.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_device::{DiskError, Priority};
use kvtier_engine::place::slot_bytes;
use kvtier_engine::port::{BoxFuture, Load, LoadOutcome, TierError};

use crate::answers::{Answers, Placed, give_way};
use crate::check::{check_block, reason};
use crate::device::Device;
use crate::layout::check_slot;
use crate::probe;
use crate::shared::{Shared, split_by_device};
use crate::transfer::{Piece, Transfer, Way, plan};

/// A block to be read, with its place in the batch.
type Wanted = (usize, Load);
/// Transfers at the device and their results to come.
type Chunk = (Vec<Transfer<Wanted>>, BoxFuture<Vec<Result<(), DiskError>>>);

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
    let chunks: Vec<Chunk> = plan(pieces, shared.coalesce_bytes)
        .into_iter()
        .map(|transfers| {
            let results = submit(device, &transfers);
            (transfers, results)
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

fn submit(device: &Device, transfers: &[Transfer<Wanted>]) -> BoxFuture<Vec<Result<(), DiskError>>> {
    device.counts.transfers.fetch_add(transfers.len() as u64, Ordering::Relaxed);
    let batch = transfers.iter().map(|transfer| transfer.operation(Way::FromDevice)).collect();
    device.disk.submit(batch, Priority::Load)
}

async fn finish(shared: &Arc<Shared>, device: &Arc<Device>, chunks: Vec<Chunk>) -> Placed<LoadOutcome> {
    let mut outcomes = Vec::new();
    for (transfers, results) in chunks {
        let mut results = results.await.into_iter();
        let mut again = Vec::new();
        for transfer in transfers {
            match results.next().unwrap_or(Err(DiskError::Closed)) {
                // One bad sector must not take its neighbours along.
                Err(DiskError::Io(_)) if transfer.pieces.len() > 1 => again.extend(transfer.pieces),
                result => {
                    outcomes
                        .extend(transfer.pieces.iter().map(|piece| conclude(shared, device, piece, result.clone())));
                }
            }
        }
        read_alone(shared, device, again, &mut outcomes).await;
        give_way().await;
    }
    outcomes
}

async fn read_alone(
    shared: &Arc<Shared>,
    device: &Arc<Device>,
    pieces: Vec<Piece<Wanted>>,
    outcomes: &mut Placed<LoadOutcome>,
) {
    if pieces.is_empty() {
        return;
    }
    device.counts.transfers.fetch_add(pieces.len() as u64, Ordering::Relaxed);
    let batch = pieces.iter().map(|piece| piece.operation(Way::FromDevice)).collect();
    let mut results = device.disk.submit(batch, Priority::Load).await.into_iter();
    for piece in pieces {
        let result = results.next().unwrap_or(Err(DiskError::Closed));
        outcomes.push(conclude(shared, device, &piece, result));
    }
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
