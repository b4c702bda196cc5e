//! The [`Disk`] of a simulated machine.

use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;

use super::image::Image;
use super::world::{Delivery, SimWorld, Work, World};
use crate::answer::{answers_of, refuse_all, sync_answer_of};
use crate::memory;
use crate::port::{BoxFuture, Disk, DiskBuffer, DiskCounters, DiskError, DiskOp, Priority};
use crate::sync_line::SyncAnswer;
use crate::transfer::{ALIGNMENT_BYTES, Answers, Limits, check};

/// Operations that may be under way on one disk; more are answered `Busy`.
const UNDER_WAY_COUNT_MAX: u64 = 4096;

/// A handle of a simulated disk. Its operations move only when the world steps.
#[derive(Clone)]
pub struct SimDisk {
    world: SimWorld,
    index: usize,
}

/// A disk of the world.
pub(crate) struct DiskState {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) image: Image,
    poisoned: Option<String>,
    counters: DiskCounters,
}

/// An operation on a disk.
pub(crate) enum DiskWork {
    Move { disk: usize, op: DiskOp, index: usize, batch: Arc<SimBatch> },
    Sync { disk: usize, covers: u64, answer: SyncAnswer },
}

/// Answers of a batch that come in one by one.
pub(crate) struct SimBatch {
    state: Mutex<BatchState>,
}

struct BatchState {
    results: Answers,
    unfinished_count: usize,
    answer: Option<oneshot::Sender<Answers>>,
}

impl SimDisk {
    pub(crate) fn new(world: SimWorld, index: usize) -> Self {
        Self { world, index }
    }
}

impl Disk for SimDisk {
    fn bytes(&self) -> u64 {
        self.world.lock().disks[self.index].bytes
    }

    fn submit(&self, batch: Vec<DiskOp>, _priority: Priority) -> BoxFuture<Vec<Result<(), DiskError>>> {
        let count = batch.len();
        let mut world = self.world.lock();
        if world.is_dead {
            return refuse_all(count, DiskError::Closed);
        }
        let disk = &mut world.disks[self.index];
        let poisoned = disk.poisoned.clone();
        let limits = Limits { disk_bytes: disk.bytes, transfer_bytes_max: u32::MAX, poisoned: poisoned.as_deref() };
        let results: Answers = batch.iter().map(|op| check(op, limits)).collect();
        let unfinished_count = results.iter().filter(|result| result.is_ok()).count();
        if disk.counters.queued_count + unfinished_count as u64 > UNDER_WAY_COUNT_MAX {
            return refuse_all(count, DiskError::Busy);
        }
        disk.counters.queued_count += unfinished_count as u64;
        if unfinished_count == 0 {
            return Box::pin(std::future::ready(results));
        }
        let valid: Vec<bool> = results.iter().map(Result::is_ok).collect();
        let (answer, answers) = oneshot::channel();
        let state = Mutex::new(BatchState { results, unfinished_count, answer: Some(answer) });
        let shared = Arc::new(SimBatch { state });
        for (index, op) in batch.into_iter().enumerate().filter(|(index, _)| valid[*index]) {
            let batch = Arc::clone(&shared);
            world.call(Work::Disk(DiskWork::Move { disk: self.index, op, index, batch }));
        }
        answers_of(answers, count)
    }

    fn sync(&self) -> BoxFuture<Result<(), DiskError>> {
        let mut world = self.world.lock();
        if world.is_dead {
            return Box::pin(std::future::ready(Err(DiskError::Closed)));
        }
        let (answer, heard) = oneshot::channel();
        let covers = world.disks[self.index].image.write_number();
        world.call(Work::Disk(DiskWork::Sync { disk: self.index, covers, answer }));
        sync_answer_of(heard)
    }

    fn poisoned(&self) -> Option<String> {
        self.world.lock().disks[self.index].poisoned.clone()
    }

    fn mode(&self) -> String {
        "simulated".to_owned()
    }

    fn counters(&self) -> DiskCounters {
        self.world.lock().disks[self.index].counters
    }
}

impl DiskState {
    pub(crate) fn new(name: String, bytes: u64, image: Image) -> Self {
        Self { name, bytes, image, poisoned: None, counters: DiskCounters::default() }
    }
}

impl DiskWork {
    /// For the history.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Move { disk, op: DiskOp::Read { offset, into }, .. } => {
                format!("disk {disk} read {} at {offset}", into.bytes)
            }
            Self::Move { disk, op: DiskOp::Write { offset, from }, .. } => {
                format!("disk {disk} write {} at {offset}", from.bytes)
            }
            Self::Sync { disk, covers, .. } => format!("disk {disk} sync up to write {covers}"),
        }
    }

    /// Carries it out.
    pub(crate) fn perform(self, world: &mut World) -> (String, Delivery) {
        match self {
            Self::Move { disk, op, index, batch } => {
                world.disks[disk].counters.queued_count -= 1;
                let result = match &op {
                    DiskOp::Read { offset, into } => read(world, disk, *offset, into),
                    DiskOp::Write { offset, from } => write(world, disk, *offset, from),
                };
                let (outcome, result) = match result {
                    Ok(outcome) => (outcome, Ok(())),
                    Err(error) => (error.to_string(), Err(error)),
                };
                let deliver = move || {
                    drop(op);
                    batch.finish(index, result);
                };
                (outcome, Box::new(deliver))
            }
            Self::Sync { disk, covers, answer } => {
                let result = sync(world, disk, covers);
                let outcome = format!("{result:?}");
                // Nobody listens if the future was dropped.
                (outcome, Box::new(move || drop(answer.send(result))))
            }
        }
    }

    /// What it may leave on the media if the power is cut before its step.
    pub(crate) fn leave_traces<'a>(&self, image_of: impl FnOnce(usize) -> &'a mut Image) {
        if let Self::Move { disk, op: DiskOp::Write { offset, from }, .. } = self {
            image_of(*disk).write(*offset, &bytes_of(from));
        }
    }
}

impl SimBatch {
    fn finish(&self, index: usize, result: Result<(), DiskError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.results[index] = result;
        state.unfinished_count -= 1;
        if state.unfinished_count > 0 {
            return;
        }
        let results = std::mem::take(&mut state.results);
        let answer = state.answer.take();
        drop(state);
        // Nobody listens if the future was dropped.
        drop(answer.map(|answer| answer.send(results)));
    }
}

fn read(world: &mut World, disk: usize, offset: u64, into: &DiskBuffer) -> Result<String, DiskError> {
    let World { dice, faults, disks, .. } = world;
    let state = &mut disks[disk];
    let bytes = u64::from(into.bytes);
    if dice.one_in(faults.read_error_one_in) {
        return Err(DiskError::Io(format!("a read of {bytes} bytes at offset {offset} failed: simulated EIO")));
    }
    if dice.one_in(faults.rot_one_in) {
        state.image.rot(offset, bytes, dice);
    }
    let is_misdirected = dice.one_in(faults.misdirected_read_one_in);
    let place = if is_misdirected { elsewhere(dice, state.bytes, bytes) } else { offset };
    let content = state.image.read(place, into.bytes as usize);
    // SAFETY: whoever made the buffer promised that it is mapped while `keep` lives, and the operation holds it.
    unsafe { memory::copy_in(into.address, &content) };
    state.counters.read_bytes += bytes;
    Ok(format!("read from {place}, crc {:08x}", crc32fast::hash(&content)))
}

fn write(world: &mut World, disk: usize, offset: u64, from: &DiskBuffer) -> Result<String, DiskError> {
    let World { dice, faults, disks, .. } = world;
    let state = &mut disks[disk];
    let bytes = u64::from(from.bytes);
    if let Some(reason) = &state.poisoned {
        return Err(DiskError::Poisoned(reason.clone()));
    }
    if dice.one_in(faults.disk_full_one_in) {
        return Err(DiskError::Io(format!("a write of {bytes} bytes at offset {offset} failed: simulated ENOSPC")));
    }
    let content = bytes_of(from);
    if dice.one_in(faults.write_error_one_in) {
        let done = dice.below(bytes / ALIGNMENT_BYTES + 1) * ALIGNMENT_BYTES;
        state.image.write(offset, &content[..done as usize]);
        let reason = format!("a write of {bytes} bytes at offset {offset} failed after {done}: simulated EIO");
        return Err(DiskError::Io(reason));
    }
    let is_misdirected = dice.one_in(faults.misdirected_write_one_in);
    let place = if is_misdirected { elsewhere(dice, state.bytes, bytes) } else { offset };
    state.image.write(place, &content);
    state.counters.written_bytes += bytes;
    Ok(format!("wrote to {place}, crc {:08x}", crc32fast::hash(&content)))
}

fn sync(world: &mut World, disk: usize, covers: u64) -> Result<(), DiskError> {
    world.count_sync();
    world.sync_point();
    let World { dice, faults, disks, .. } = &mut *world;
    let state = &mut disks[disk];
    if let Some(reason) = &state.poisoned {
        return Err(DiskError::Poisoned(reason.clone()));
    }
    if dice.one_in(faults.sync_error_one_in) {
        state.image.fail_sync(dice, faults.tearing);
        let reason = "fdatasync failed: simulated EIO".to_owned();
        state.poisoned = Some(reason.clone());
        return Err(DiskError::Poisoned(reason));
    }
    state.counters.sync_count += 1;
    if !dice.one_in(faults.lost_sync_one_in) {
        state.image.sync(covers, dice);
    }
    world.sync_point();
    Ok(())
}

/// Some aligned place on the disk where so many bytes fit.
fn elsewhere(dice: &mut super::Dice, disk_bytes: u64, bytes: u64) -> u64 {
    dice.below((disk_bytes - bytes) / ALIGNMENT_BYTES + 1) * ALIGNMENT_BYTES
}

fn bytes_of(from: &DiskBuffer) -> Vec<u8> {
    let mut content = vec![0; from.bytes as usize];
    // SAFETY: as in `read`.
    unsafe { memory::copy_out(from.address, &mut content) };
    content
}
