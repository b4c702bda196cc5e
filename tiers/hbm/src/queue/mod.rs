//! The work of one GPU: a bounded queue, one thread that puts work on lanes, one per lane that waits for it.
//!
//! ```text
//!  push ─► waiting, per lane ─► submitter: loads first ─► lane (stream) ─► flying, per lane ─► waiter: finish
//!            bound: Busy          checks, copies, kernels     marks            bound: depth     outcome, memory let go
//! ```
//!
//! A [`Job`] owns everything its work touches until [`Job::finish`], which is called exactly once, after the device is done
//! with it (INV-8): behind its last mark; when a call failed, after what was put before it; when the device was lost, after
//! the driver has said so. Jobs of a lane finish in their order. A fatal error poisons the queue: what waits is finished
//! with the error, what comes is refused.
//!
//! A device may also hang: no call returns, and no event is reached. [`Queue::look`] finds lanes that have had work for so
//! many looks and have not come on; then the queue is poisoned, every job's [`Alarm`] tells whoever waits, and jobs that no
//! device has seen are finished. The others keep what they own until the device is done with it, if that ever happens.
//!
//! The same steps run on threads ([`Threads`]) or, one at a time and in an order of the caller's choice, in tests (INV-9).

mod threads;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use threads::Threads;

use crate::checksum::Span;
use crate::gpu::{Gpu, GpuError, Lane, Mark, MemoryId, Place, Run};
use crate::layout::Shuffle;

/// Jobs on one lane of the device at a time. Enough that it never runs dry between two.
const LANE_DEPTH: usize = 16;
/// Pinned bytes each flying job has for answers of the device.
pub(crate) const SCRATCH_BYTES: u64 = 64 << 10;

/// Something a device can be told to do.
pub(crate) enum Work {
    Copy(Vec<Run>),
    Shuffle(Shuffle),
    Checksum { spans: Vec<Span>, into: Place },
}

/// Tells whoever waits for a job that it has failed, while the device may still be at it. From any thread; what the job
/// owns stays its own.
pub(crate) type Alarm = Box<dyn FnOnce(&GpuError) + Send>;

/// Work that belongs together, in stages whose ends are told apart.
pub(crate) trait Job: Send {
    /// Where it goes.
    fn lane(&self) -> Lane;
    /// Operations it counts as.
    fn operations(&self) -> usize;
    /// What to do, stage by stage; called when its turn has come. `scratch` is pinned memory of its own until it finishes.
    fn stages(&mut self, scratch: Place) -> Vec<Vec<Work>>;
    /// What to do when the device hangs.
    fn alarm(&self) -> Alarm;
    /// A stage is done. Not called after a failure.
    fn reached(&mut self, gpu: &dyn Gpu, stage: usize);
    /// Everything is done, or failed; the device touches nothing of it any more.
    fn finish(self: Box<Self>, gpu: &dyn Gpu, result: Result<(), GpuError>);
}

struct Flight {
    number: u64,
    job: Box<dyn Job>,
    /// Stage marks; one more behind a failure.
    marks: Vec<Mark>,
    failed: Option<GpuError>,
}

#[derive(Default)]
struct LaneState {
    waiting: VecDeque<Box<dyn Job>>,
    flying: VecDeque<Flight>,
    /// A waiter has taken one that still counts.
    finishing: usize,
    /// Jobs begun; names their scratch memory.
    begun: usize,
    /// Counts everything that happens on the lane.
    steps: u64,
    /// How many steps there were when it was looked at last, and how often it has been the same with work under way.
    seen: (u64, u32),
}

#[derive(Default)]
struct State {
    lanes: [LaneState; 4],
    waiting_operations: usize,
    poisoned: Option<String>,
    closed: bool,
    /// The device does not answer: nobody may wait for it any more.
    hung: bool,
    /// Of every job that was begun and is not finished.
    alarms: BTreeMap<u64, Alarm>,
    job_next: u64,
    /// Threads that have not ended.
    threads: usize,
}

/// Why a job was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The bound is reached (INV-5).
    Busy,
    /// The GPU is lost.
    Poisoned(String),
    /// The tier is shutting down.
    Closed,
}

/// The queue of one GPU.
pub(crate) struct Queue {
    gpu: Arc<dyn Gpu>,
    scratch: MemoryId,
    operations_max: usize,
    state: Mutex<State>,
    may_submit: Condvar,
    may_finish: [Condvar; 4],
    /// A thread has ended, or the queue was closed or has hung.
    changed: Condvar,
    lost: Mutex<Vec<Lost>>,
}

/// Hears once why the GPU is lost.
pub(crate) type Lost = Arc<dyn Fn(&str) + Send + Sync>;

impl Queue {
    /// An empty queue. Takes pinned memory of the device.
    pub(crate) fn new(gpu: Arc<dyn Gpu>, operations_max: usize) -> Result<Self, GpuError> {
        let scratch = gpu.pin(SCRATCH_BYTES * (LANE_DEPTH * Lane::ALL.len()) as u64)?;
        let (state, may_submit, may_finish, changed, lost) = Default::default();
        Ok(Self { gpu, scratch, operations_max, state, may_submit, may_finish, changed, lost })
    }

    pub(crate) fn gpu(&self) -> &Arc<dyn Gpu> {
        &self.gpu
    }

    /// Takes a job. A job larger than the bound is taken when nothing else waits.
    pub(crate) fn push(&self, job: Box<dyn Job>) -> Result<(), (Refused, Box<dyn Job>)> {
        let mut state = self.state();
        let (waits, asked) = (state.waiting_operations, job.operations());
        let refused = match &state.poisoned {
            Some(cause) => Some(Refused::Poisoned(cause.clone())),
            None if state.closed => Some(Refused::Closed),
            None => (waits > 0 && waits + asked > self.operations_max).then_some(Refused::Busy),
        };
        if let Some(refused) = refused {
            return Err((refused, job));
        }
        state.waiting_operations += asked;
        state.lanes[job.lane() as usize].waiting.push_back(job);
        self.may_submit.notify_one();
        Ok(())
    }

    /// Calls this, too, when the GPU is lost, without a lock.
    pub(crate) fn on_lost(&self, lost: Lost) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(lost);
    }

    fn tell_lost(&self, cause: &str) {
        let all = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter().for_each(|lost| lost(cause));
    }

    /// Why the GPU takes nothing any more.
    pub(crate) fn poison(&self) -> Option<String> {
        self.state().poisoned.clone()
    }

    /// Jobs at the device, and operations that wait.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.state();
        let flying: usize = state.lanes.iter().map(|lane| lane.flying.len() + lane.finishing).sum();
        (flying as u64, state.waiting_operations as u64)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the next job on its lane, a load before any save; false: there is none that may.
    pub(crate) fn submit_one(&self) -> bool {
        let Some(begun) = self.begin(&mut self.state()) else { return false };
        self.launch(begun);
        true
    }

    fn begin(&self, state: &mut State) -> Option<(u64, Box<dyn Job>, Place)> {
        let may = |lane: &LaneState| !lane.waiting.is_empty() && lane.flying.len() + lane.finishing < LANE_DEPTH;
        let lane = Lane::ALL.into_iter().find(|lane| may(&state.lanes[*lane as usize]))? as usize;
        let job = state.lanes[lane].waiting.pop_front()?;
        state.waiting_operations -= job.operations();
        let number = lane * LANE_DEPTH + state.lanes[lane].begun % LANE_DEPTH;
        state.lanes[lane].begun += 1;
        // Counted as flying from here on, though not yet in the list.
        state.lanes[lane].finishing += 1;
        state.lanes[lane].steps += 1;
        let name = state.job_next;
        state.job_next += 1;
        state.alarms.insert(name, job.alarm());
        Some((name, job, Place { memory: self.scratch, offset: number as u64 * SCRATCH_BYTES }))
    }

    fn launch(&self, (number, mut job, scratch): (u64, Box<dyn Job>, Place)) {
        let lane = job.lane();
        let mut marks = Vec::new();
        let mut failed = self.poison().map(GpuError::Lost);
        if failed.is_none() {
            let stages = job.stages(scratch);
            failed = stages.iter().try_for_each(|stage| self.put(lane, stage, &mut marks)).err();
            if failed.is_some() {
                // Behind what was put before the failure.
                marks.extend(self.gpu.mark(lane));
            }
        }
        let mut state = self.state();
        let here = &mut state.lanes[lane as usize];
        here.finishing -= 1;
        here.steps += 1;
        here.flying.push_back(Flight { number, job, marks, failed });
        self.may_finish[lane as usize].notify_one();
    }

    fn put(&self, lane: Lane, stage: &[Work], marks: &mut Vec<Mark>) -> Result<(), GpuError> {
        for work in stage {
            match work {
                Work::Copy(runs) => self.gpu.copy(lane, runs)?,
                Work::Shuffle(shuffle) => self.gpu.shuffle(lane, shuffle)?,
                Work::Checksum { spans, into } => self.gpu.checksum(lane, spans, *into)?,
            }
        }
        marks.push(self.gpu.mark(lane)?);
        Ok(())
    }

    /// Waits for the oldest job on a lane and finishes it; false: there is none.
    pub(crate) fn finish_one(&self, lane: Lane) -> bool {
        let flight = {
            let mut state = self.state();
            let here = &mut state.lanes[lane as usize];
            let Some(flight) = here.flying.pop_front() else { return false };
            here.finishing += 1;
            flight
        };
        self.land(flight);
        let waits = {
            let mut state = self.state();
            let here = &mut state.lanes[lane as usize];
            here.finishing -= 1;
            !here.waiting.is_empty()
        };
        // A wake for nothing costs as much as a call.
        if waits {
            self.may_submit.notify_one();
        }
        true
    }

    fn land(&self, flight: Flight) {
        let Flight { number, mut job, marks, mut failed } = flight;
        let lane = job.lane() as usize;
        for (stage, mark) in marks.into_iter().enumerate() {
            // One step for each wait that ends: long jobs come on, too.
            match self.gpu.wait(mark) {
                Ok(()) if failed.is_none() => job.reached(&*self.gpu, stage),
                Ok(()) => {}
                Err(error) => failed = Some(failed.filter(GpuError::is_fatal).unwrap_or(error)),
            }
            self.state().lanes[lane].steps += 1;
        }
        if let Some(error) = &failed {
            // Whatever was put without a mark behind it is over after this, or the device is (INV-8).
            let quiet = self.gpu.quiesce();
            let fatal = [Some(error), quiet.as_ref().err()].into_iter().flatten().find(|error| error.is_fatal());
            if let Some(fatal) = fatal {
                self.poison_with(fatal);
            }
        }
        let alarm = {
            let mut state = self.state();
            state.lanes[lane].steps += 1;
            state.alarms.remove(&number)
        };
        // Dropped without the lock: it may own the last word to somebody.
        drop(alarm);
        job.finish(&*self.gpu, failed.map_or(Ok(()), Err));
    }

    /// Looks whether the device comes on; to be called in equal pauses. Whether it has hung, now or before.
    pub(crate) fn look(&self, looks_max: u32) -> bool {
        let mut state = self.state();
        if state.hung {
            return true;
        }
        let mut stuck = None;
        for (lane, name) in state.lanes.iter_mut().zip(Lane::ALL) {
            let busy = lane.finishing > 0 || !lane.flying.is_empty();
            let (steps, looks) = lane.seen;
            lane.seen = (lane.steps, if busy && steps == lane.steps { looks + 1 } else { 0 });
            if lane.seen.1 >= looks_max {
                stuck = Some(name);
            }
        }
        let Some(lane) = stuck else { return false };
        self.give_up(state, lane);
        true
    }

    /// The device does not answer any more: tells everybody, and touches nothing it may still touch.
    fn give_up(&self, mut state: MutexGuard<'_, State>, lane: Lane) {
        let error = GpuError::Lost(format!("it does not answer: lane {} has not come on for too long", lane.name()));
        let gpu = self.gpu.properties().ordinal;
        tracing::error!(gpu, %error, "a GPU hangs; its tier is poisoned, the daemon goes on");
        state.hung = true;
        let told = state.poisoned.is_some();
        state.poisoned.get_or_insert(error.to_string());
        state.waiting_operations = 0;
        let alarms = std::mem::take(&mut state.alarms);
        let waiting: Vec<_> = state.lanes.iter_mut().flat_map(|lane| lane.waiting.drain(..)).collect();
        drop(state);
        alarms.into_values().for_each(|alarm| alarm(&error));
        // No device has seen these.
        waiting.into_iter().for_each(|job| job.finish(&*self.gpu, Err(error.clone())));
        self.may_submit.notify_all();
        self.changed.notify_all();
        if !told {
            self.tell_lost(&error.to_string());
        }
    }

    /// Whether calls of the driver may never return: memory is left to it then.
    pub(crate) fn is_hung(&self) -> bool {
        self.state().hung
    }

    fn poison_with(&self, error: &GpuError) {
        let mut state = self.state();
        let told = state.poisoned.is_some();
        if !told {
            tracing::error!(gpu = self.gpu.properties().ordinal, %error, "a GPU's tier is poisoned; the daemon goes on");
            state.poisoned = Some(error.to_string());
        }
        drop(state);
        self.may_submit.notify_one();
        if !told {
            self.tell_lost(&error.to_string());
        }
    }

    /// Takes no more jobs; those that were taken are finished.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.may_submit.notify_all();
        self.may_finish.iter().for_each(Condvar::notify_all);
        self.changed.notify_all();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.is_hung() {
            return;
        }
        // Nothing is under way: whoever pushes holds the queue, and the threads have ended.
        if let Err(error) = self.gpu.release(self.scratch) {
            tracing::debug!(%error, "scratch memory was not released");
        }
    }
}
