//! A disk in a vector, with a list of faults and a way to hold operations back.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use futures::future::ready;
use kvtier_device::{Disk, DiskBuffer, DiskCounters, DiskError, DiskOp, Priority};
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::BoxFuture;

use super::memory::Heap;

type Results = Vec<Result<(), DiskError>>;

/// What the disk does wrong until told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Reads that touch these bytes fail.
    ReadFails(Range<u64>),
    /// Writes that touch these bytes fail and change nothing.
    WriteFails(Range<u64>),
    /// Writes that touch these bytes are acknowledged and lost.
    WriteLost(Range<u64>),
    /// Writes that begin here go there instead.
    Misdirected {
        /// Where the caller wanted them.
        from: u64,
        /// Where they end.
        to: u64,
    },
    /// Reads give zeroes for these bytes.
    ReadsZero(Range<u64>),
    /// The next sync fails and poisons the disk.
    SyncFails,
    /// Every operation is refused.
    Busy,
}

/// One transfer as it was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Number of the batch.
    pub batch: usize,
    /// Whether it wrote.
    pub write: bool,
    /// Where.
    pub offset: u64,
    /// How much.
    pub bytes: u32,
    /// Its queue.
    pub priority: Priority,
    /// Whether it named registered memory.
    pub registered: bool,
}

struct Held {
    batch: Vec<DiskOp>,
    done: oneshot::Sender<Results>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    faults: Vec<Fault>,
    poisoned: Option<String>,
    counters: DiskCounters,
    submitted: Vec<Submitted>,
    batches: usize,
    holding: bool,
    held: Vec<Held>,
    held_syncs: Vec<oneshot::Sender<()>>,
}

/// A disk for tests. Operations happen when submitted, unless held.
#[derive(Default)]
pub struct HeapDisk {
    state: Mutex<State>,
}

impl HeapDisk {
    /// A blank disk.
    pub fn of_bytes(bytes: u64) -> Self {
        Self { state: Mutex::new(State { bytes: vec![0; bytes as usize], ..State::default() }) }
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Removes all faults; poison stays.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Looks at and changes the stored bytes.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        change(&mut self.state().bytes)
    }

    /// Transfers since the last call.
    pub fn take_submitted(&self) -> Vec<Submitted> {
        std::mem::take(&mut self.state().submitted)
    }

    /// From now on operations and syncs wait for [`HeapDisk::release`].
    pub fn hold(&self) {
        self.state().holding = true;
    }

    /// Operations that wait.
    pub fn held_count(&self) -> usize {
        let state = self.state();
        state.held.iter().map(|held| held.batch.len()).sum::<usize>() + state.held_syncs.len()
    }

    /// Carries out what was held, in order, and holds no more.
    pub fn release(&self) {
        let mut state = self.state();
        state.holding = false;
        let (held, syncs) = (std::mem::take(&mut state.held), std::mem::take(&mut state.held_syncs));
        for Held { batch, done } in held {
            let results = batch.into_iter().map(|operation| state.carry_out(operation)).collect();
            let _ = done.send(results);
        }
        drop(state);
        syncs.into_iter().for_each(|done| _ = done.send(()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, batch: &[DiskOp], priority: Priority) {
        let number = self.batches;
        self.batches += 1;
        for operation in batch {
            let (write, offset, buffer) = match operation {
                DiskOp::Read { offset, into } => (false, *offset, into),
                DiskOp::Write { offset, from } => (true, *offset, from),
            };
            let registered = buffer.arena_offset.is_some();
            let submitted = Submitted { batch: number, write, offset, bytes: buffer.bytes, priority, registered };
            self.submitted.push(submitted);
        }
    }

    fn carry_out(&mut self, operation: DiskOp) -> Result<(), DiskError> {
        match operation {
            DiskOp::Read { offset, into } => self.read(offset, &into),
            DiskOp::Write { offset, from } => self.write(offset, &from),
        }
    }

    fn read(&mut self, offset: u64, into: &DiskBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, into)?;
        let mut heap = heap(into).bytes();
        let target = &mut heap[into.address..into.address + into.bytes as usize];
        target.copy_from_slice(&self.bytes[range.start as usize..range.end as usize]);
        for fault in &self.faults {
            match fault {
                Fault::ReadFails(bad) if overlap(bad, &range).is_some() => {
                    return Err(DiskError::Io(format!("input/output error at {offset}")));
                }
                Fault::ReadsZero(bad) => {
                    if let Some(part) = overlap(bad, &range) {
                        target[(part.start - offset) as usize..(part.end - offset) as usize].fill(0);
                    }
                }
                _ => {}
            }
        }
        self.counters.read_bytes += u64::from(into.bytes);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &DiskBuffer) -> Result<(), DiskError> {
        if let Some(cause) = &self.poisoned {
            return Err(DiskError::Poisoned(cause.clone()));
        }
        let mut range = self.range(offset, from)?;
        for fault in &self.faults {
            match fault {
                Fault::WriteFails(bad) if overlap(bad, &range).is_some() => {
                    return Err(DiskError::Io(format!("input/output error at {offset}")));
                }
                Fault::WriteLost(bad) if overlap(bad, &range).is_some() => return Ok(()),
                Fault::Misdirected { from, to } if *from == offset => range = *to..*to + (range.end - range.start),
                _ => {}
            }
        }
        let heap = heap(from).bytes();
        let source = &heap[from.address..from.address + from.bytes as usize];
        self.bytes[range.start as usize..range.end as usize].copy_from_slice(source);
        self.counters.written_bytes += u64::from(from.bytes);
        Ok(())
    }

    fn range(&self, offset: u64, buffer: &DiskBuffer) -> Result<Range<u64>, DiskError> {
        for value in [offset, buffer.address as u64, u64::from(buffer.bytes)] {
            assert!(value.is_multiple_of(PAGE_BYTES), "transfers are whole pages: {offset} {buffer:?}");
        }
        assert!(buffer.bytes > 0, "a transfer moves something");
        let end = offset + u64::from(buffer.bytes);
        if self.faults.contains(&Fault::Busy) {
            Err(DiskError::Busy)
        } else if end > self.bytes.len() as u64 {
            Err(DiskError::Io(format!("the file ends before {end}")))
        } else {
            Ok(offset..end)
        }
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> Option<Range<u64>> {
    let part = one.start.max(other.start)..one.end.min(other.end);
    (part.start < part.end).then_some(part)
}

fn heap(buffer: &DiskBuffer) -> &Heap {
    buffer.keep.downcast_ref::<Heap>().expect("a HeapDisk works on HeapMemory only")
}

impl Disk for HeapDisk {
    fn bytes(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn submit(&self, batch: Vec<DiskOp>, priority: Priority) -> BoxFuture<Results> {
        let mut state = self.state();
        state.note(&batch, priority);
        if state.holding {
            let count = batch.len();
            let (done, results) = oneshot::channel();
            state.held.push(Held { batch, done });
            return Box::pin(async move { results.await.unwrap_or_else(|_| vec![Err(DiskError::Closed); count]) });
        }
        let results: Results = batch.into_iter().map(|operation| state.carry_out(operation)).collect();
        Box::pin(ready(results))
    }

    fn sync(&self) -> BoxFuture<Result<(), DiskError>> {
        let mut state = self.state();
        if let Some(cause) = &state.poisoned {
            return Box::pin(ready(Err(DiskError::Poisoned(cause.clone()))));
        }
        if state.faults.contains(&Fault::SyncFails) {
            state.faults.retain(|fault| *fault != Fault::SyncFails);
            state.poisoned = Some("fdatasync: input/output error".into());
            return Box::pin(ready(Err(DiskError::Io("fdatasync: input/output error".into()))));
        }
        state.counters.sync_count += 1;
        if state.holding {
            let (done, released) = oneshot::channel();
            state.held_syncs.push(done);
            return Box::pin(async move { released.await.map_err(|_| DiskError::Closed) });
        }
        Box::pin(ready(Ok(())))
    }

    fn poisoned(&self) -> Option<String> {
        self.state().poisoned.clone()
    }

    fn mode(&self) -> String {
        "heap".into()
    }

    fn counters(&self) -> DiskCounters {
        self.state().counters
    }
}
