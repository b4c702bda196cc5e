//! Writing blocks from host memory.
//!
//! What is checked, in this order: is the payload still what was committed (a local worker can write to the arena);
//! then the header page is written, the last payload page is filled up with zeroes, and header and payload go to the
//! device in one transfer. Both happen in a task of the batch's own, one chunk at a time, so checksumming a chunk
//! overlaps the writing of the ones before. Nothing is durable until a sync.
//!
//! A crash between any two steps leaves a slot whose header or payload does not verify, or that nothing in the index
//! names: a miss.

use std::sync::Arc;

use kvtier_device::{DiskError, Priority};
use kvtier_engine::place::{PAGE_BYTES, slot_bytes};
use kvtier_engine::port::{BoxFuture, Memory, Store, StoreOutcome, TierError};

use crate::answers::{Answers, Placed, give_way};
use crate::check::reason;
use crate::chunk::{Piece, cut};
use crate::device::Device;
use crate::layout::check_slot;
use crate::shared::{Shared, split_by_device};

/// A block to be written, with its place in the batch.
type Given = (usize, Store);
const ZEROES: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// Starts the whole batch.
pub(crate) fn start(shared: &Arc<Shared>, batch: Vec<Store>) -> BoxFuture<Vec<StoreOutcome>> {
    let mut answers = Answers::of(batch.len());
    let per_device = split_by_device(
        shared.devices.len(),
        batch,
        |store| store.to.device,
        |place| {
            answers.set(place, StoreOutcome::Failed(TierError::Io(reason::NO_DEVICE.into())));
        },
    );
    for (device, stores) in shared.devices.iter().zip(per_device) {
        if !stores.is_empty() {
            start_on(shared, device, stores, &mut answers);
        }
    }
    Box::pin(answers.collect(StoreOutcome::Failed(TierError::Closed)))
}

fn start_on(shared: &Arc<Shared>, device: &Arc<Device>, stores: Vec<Given>, answers: &mut Answers<StoreOutcome>) {
    if let Some(refusal) = device.refuses_stores(shared.clock.now()) {
        return stores.iter().for_each(|(place, _)| answers.set(*place, StoreOutcome::Failed(refusal.clone())));
    }
    let permit = device.stores.take(stores.len());
    let mut pieces = Vec::with_capacity(permit.count());
    for (at, (place, store)) in stores.into_iter().enumerate() {
        if at >= permit.count() {
            answers.set(place, StoreOutcome::Failed(TierError::Busy));
            continue;
        }
        match piece(shared, device, place, store) {
            Ok(piece) => pieces.push(piece),
            Err(why) => answers.set(place, StoreOutcome::Failed(TierError::Io(why))),
        }
    }
    if pieces.is_empty() {
        return;
    }
    let (sender, shared_, device) = (answers.expect(), shared.clone(), device.clone());
    shared.spawn.spawn(
        "nvme store",
        Box::pin(async move {
            let outcomes = write_all(&shared_, &device, pieces).await;
            drop(permit);
            outcomes.iter().for_each(|(_, outcome)| device.counts.store(outcome));
            // A caller that has gone away wanted no answer.
            let _ = sender.send(outcomes);
        }),
    );
}

fn piece(shared: &Shared, device: &Device, place: usize, store: Store) -> Result<Piece<Given>, String> {
    let length = store.header.length;
    check_slot(&device.geometry, store.to, length).map_err(|why| format!("{}: {why}: {:?}", device.name, store.to))?;
    let bytes = slot_bytes(length);
    if store.from.bytes < bytes {
        return Err(format!("a block of {length} bytes does not fit a host slot of {} bytes", store.from.bytes));
    }
    Ok(Piece { offset: store.to.offset, bytes, region: shared.memory.region(store.from), tag: (place, store) })
}

async fn write_all(shared: &Shared, device: &Device, pieces: Vec<Piece<Given>>) -> Placed<StoreOutcome> {
    let mut outcomes = Vec::with_capacity(pieces.len());
    let mut at_device = Vec::new();
    let mut chunks = cut(pieces).into_iter();
    while let Some(chunk) = chunks.next() {
        let (sound, scribbled): (Vec<_>, Vec<_>) =
            chunk.into_iter().partition(|piece| complete(&*shared.memory, &piece.tag.1));
        for piece in scribbled {
            let (place, store) = piece.tag;
            tracing::error!(block = %store.header.block, "host memory was changed after the commit: not stored");
            outcomes.push((place, StoreOutcome::Corrupt(reason::HOST_PAYLOAD)));
        }
        if sound.is_empty() {
            continue;
        }
        let results = device.disk.submit(sound.iter().map(Piece::write).collect(), Priority::Store);
        at_device.push((sound, results));
        if chunks.len() > 0 {
            give_way().await;
        }
    }
    for (chunk, results) in at_device {
        let mut results = results.await.into_iter();
        for piece in chunk {
            let outcome = match results.next().unwrap_or(Err(DiskError::Closed)) {
                Ok(()) => StoreOutcome::Written,
                Err(error) => StoreOutcome::Failed(device.explain(error)),
            };
            outcomes.push((piece.tag.0, outcome));
        }
    }
    outcomes
}

/// Writes what the payload lacks to be a slot; false if the payload is not what was committed.
fn complete(memory: &dyn Memory, store: &Store) -> bool {
    let header = &store.header;
    if memory.checksum(store.from, 0, header.length) != header.crc {
        return false;
    }
    memory.write_header(store.from, &header.encode(crc32fast::hash));
    let gap = slot_bytes(header.length) - PAGE_BYTES as u32 - header.length;
    memory.write(store.from, header.length, &ZEROES[..gap as usize]);
    true
}
