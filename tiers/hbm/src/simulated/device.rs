//! The device: lanes of noted work, and the coin that orders it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::faults::Faults;
use super::memory::{Machine, Stored, lock};
use super::shared::Shared;
use crate::checksum::{SPAN_ALIGNMENT, SPANS_MAX, Span, raw_by_rows, tables};
use crate::gpu::{Gpu, GpuError, HostMemory, Imported, IpcHandle, Lane, Mark, MemoryId, Place, Properties, Run};
use crate::layout::{Direction, Shuffle, Tiling};

/// Bytes of one piece of a copy.
const PIECE_BYTES: u64 = 16 << 10;
/// A worker has freed what it had exported.
const FREED: &str = "exported memory was freed while the device used it (simulated)";
/// Tiles of one piece of a shuffle.
const PIECE_TILES: u32 = 64;

/// A simulated GPU.
pub struct Simulated {
    properties: Properties,
    machine: Arc<Machine>,
    state: Mutex<State>,
    tables: Vec<u32>,
}

struct State {
    memories: BTreeMap<MemoryId, Stored>,
    memory_next: u32,
    used_bytes: u64,
    lanes: [VecDeque<Entry>; 4],
    reached: BTreeSet<u64>,
    mark_next: u64,
    random: u64,
    pieces: u64,
    faults: Faults,
    lost: Option<String>,
    released_in_use: u64,
}

/// Work on a lane, and what must be passed before it begins.
struct Entry {
    noted: Noted,
    gate: Option<Arc<Shared>>,
}

/// Work on a lane. What it touches was found when it was put there, and is checked again when it happens.
enum Noted {
    Copy { run: Run, from: Stored, to: Stored, done: u64 },
    Shuffle { shuffle: Box<Shuffle>, tiling: Tiling, next: u32 },
    Checksum { spans: Vec<Span>, into: Place, next: usize },
    Mark(u64),
}

impl Simulated {
    /// A device with so much memory on a machine. What it does follows from the seed.
    pub fn new(machine: &Arc<Machine>, seed: u64, total_bytes: u64) -> Self {
        let properties = Properties {
            ordinal: 0,
            name: "simulated".into(),
            uuid: format!("GPU-00000000-0000-0000-0000-{seed:012x}"),
            total_bytes,
            multiprocessor_count: 1,
            capability: (0, 0),
            driver_version: 0,
            batched_copies: true,
        };
        let state = State {
            memories: BTreeMap::new(),
            memory_next: 1,
            used_bytes: 0,
            lanes: Default::default(),
            reached: BTreeSet::new(),
            mark_next: 1,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            pieces: 0,
            faults: Faults::default(),
            lost: None,
            released_in_use: 0,
        };
        Self { properties, machine: Arc::clone(machine), state: Mutex::new(state), tables: tables() }
    }

    /// From now on with these faults.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.state();
        let pieces = state.pieces;
        let lose_after_pieces = faults.lose_after_pieces.map(|more| pieces + more);
        state.faults = Faults { lose_after_pieces, ..faults };
    }

    /// How often work met memory that was released meanwhile (INV-8). Must be 0.
    pub fn released_in_use(&self) -> u64 {
        self.state().released_in_use
    }

    /// Pieces of work that have happened.
    pub fn piece_count(&self) -> u64 {
        self.state().pieces
    }

    /// Memories that were not released.
    pub fn memory_count(&self) -> usize {
        self.state().memories.len()
    }

    /// Lets work happen; waits at gates without keeping others from the device.
    fn run(&self, lane: Lane, mark: Option<u64>) -> Result<(), GpuError> {
        loop {
            let mut state = self.state();
            let Some(gate) = state.run_until(lane, mark, &self.tables)? else { return Ok(()) };
            drop(state);
            gate.pass();
            // Only who waits for this lane begins what stands at a gate, so it is still there; or the device was lost.
            if let Some(head) = self.state().lanes[lane as usize].front_mut() {
                head.gate = None;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The state of a device that still answers.
    fn alive(&self) -> Result<MutexGuard<'_, State>, GpuError> {
        let state = self.state();
        match &state.lost {
            Some(why) => Err(GpuError::Lost(why.clone())),
            None => Ok(state),
        }
    }
}

impl State {
    fn add(&mut self, stored: Stored) -> MemoryId {
        let id = MemoryId(self.memory_next);
        self.memory_next += 1;
        self.memories.insert(id, stored);
        id
    }

    fn find(&self, at: Place, bytes: u64) -> Result<&Stored, GpuError> {
        let stored = self.memories.get(&at.memory);
        let stored = stored.ok_or_else(|| GpuError::Invalid(format!("there is no memory {}", at.memory.0)))?;
        let size = stored.bytes();
        let inside = at.offset.checked_add(bytes).is_some_and(|end| end <= size);
        let (from, memory) = (at.offset, at.memory.0);
        let refused = || GpuError::Invalid(format!("{bytes} bytes from {from} lie outside memory {memory} of {size}"));
        inside.then_some(stored).ok_or_else(refused)
    }

    fn pinned(&self, at: Place, bytes: u64) -> Result<&Stored, GpuError> {
        match self.find(at, bytes)? {
            stored @ Stored::Pinned(_) => Ok(stored),
            _ => Err(GpuError::Invalid(format!("memory {} is not pinned memory of our own", at.memory.0))),
        }
    }

    fn toss(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    /// Lets pieces of work happen until the lane's mark of that number is reached, or all of it; or until a gate is to be
    /// passed, which the answer names.
    fn run_until(&mut self, lane: Lane, mark: Option<u64>, tables: &[u32]) -> Result<Option<Arc<Shared>>, GpuError> {
        loop {
            if let Some(why) = &self.lost {
                return Err(GpuError::Lost(why.clone()));
            }
            if mark.is_some_and(|mark| self.reached.remove(&mark)) || (mark.is_none() && self.is_idle(lane)) {
                return Ok(None);
            }
            let other = Lane::ALL[self.toss() as usize % 4];
            let stays = self.is_idle(other) || self.gate(other).is_some();
            let chosen = if stays || self.toss().is_multiple_of(3) { lane } else { other };
            if self.is_idle(lane) {
                return Err(GpuError::Invalid(format!("nothing on lane {} leads to the mark", lane.name())));
            }
            if let Some(gate) = self.gate(chosen) {
                return Ok(Some(Arc::clone(gate)));
            }
            self.step(chosen, tables);
        }
    }

    /// What the work at the head of a lane waits for.
    fn gate(&self, lane: Lane) -> Option<&Arc<Shared>> {
        self.lanes[lane as usize].front()?.gate.as_ref()
    }

    fn put(&mut self, lane: Lane, noted: Noted, gate: Option<Arc<Shared>>) {
        self.lanes[lane as usize].push_back(Entry { noted, gate });
    }

    fn is_idle(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].is_empty()
    }

    /// One piece of the work at the head of a lane.
    fn step(&mut self, lane: Lane, tables: &[u32]) {
        let Some(Entry { mut noted, .. }) = self.lanes[lane as usize].pop_front() else { return };
        self.pieces += 1;
        if self.faults.lose_after_pieces.is_some_and(|pieces| self.pieces > pieces) {
            return self.lose("the simulated context is gone");
        }
        let more = match &mut noted {
            Noted::Copy { run, from, to, done } => {
                let gone = [run.from, run.to].iter().any(|at| !self.memories.contains_key(&at.memory));
                self.released_in_use += u64::from(gone);
                let bytes = (run.bytes - *done).min(PIECE_BYTES);
                let mut piece = vec![0; bytes as usize];
                let there = from.read(run.from.offset + *done, &mut piece) && to.write(run.to.offset + *done, &piece);
                if !there {
                    return self.lose(FREED);
                }
                *done += bytes;
                *done < run.bytes
            }
            Noted::Shuffle { shuffle, tiling, next } => {
                let end = next.saturating_add(PIECE_TILES).min(tiling.tile_count);
                (*next..end).for_each(|tile| self.copy_tile(tile, tiling, shuffle));
                *next = end;
                end < tiling.tile_count
            }
            Noted::Checksum { spans, into, next } => {
                let span = spans[*next];
                let raw = self.raw_of(span, tables);
                self.touch(into.after(*next as u64 * 4), |stored, offset| stored.write(offset, &raw.to_le_bytes()));
                *next += 1;
                *next < spans.len()
            }
            Noted::Mark(number) => {
                self.reached.insert(*number);
                false
            }
        };
        if more && self.lost.is_none() {
            self.lanes[lane as usize].push_front(Entry { noted, gate: None });
        }
    }

    fn lose(&mut self, why: &str) {
        self.lost = Some(why.into());
        self.lanes = Default::default();
    }

    /// Work on memory that may have been released meanwhile, which is a violation.
    fn touch(&mut self, at: Place, act: impl FnOnce(&Stored, u64) -> bool) {
        match self.memories.get(&at.memory) {
            Some(stored) if act(stored, at.offset) => {}
            Some(_) => self.lose(FREED),
            None => self.released_in_use += 1,
        }
    }

    /// What one group of lanes of the kernel does.
    fn copy_tile(&mut self, tile: u32, tiling: &Tiling, shuffle: &Shuffle) {
        let tile = tiling.decode(tile, shuffle);
        let block = shuffle.blocks[tile.block as usize];
        let surface = shuffle.surfaces[tile.surface as usize];
        let canonical = block.canonical.after(tile.canonical_offset);
        let worker = surface.after(block.number * shuffle.shape.block_stride + tile.worker_offset);
        let (from, to) = match shuffle.direction {
            Direction::Gather => (worker, canonical),
            Direction::Scatter => (canonical, worker),
        };
        let mut bytes = vec![0; (tile.units * tiling.unit_bytes) as usize];
        self.touch(from, |stored, offset| stored.read(offset, &mut bytes));
        self.touch(to, |stored, offset| stored.write(offset, &bytes));
    }

    fn raw_of(&mut self, span: Span, tables: &[u32]) -> u32 {
        let mut bytes = vec![0; span.bytes as usize];
        self.touch(span.at, |stored, offset| stored.read(offset, &mut bytes));
        raw_by_rows(&bytes, tables)
    }
}

impl Gpu for Simulated {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<u64, GpuError> {
        Ok(self.properties.total_bytes - self.alive()?.used_bytes)
    }

    fn allocate(&self, bytes: u64) -> Result<MemoryId, GpuError> {
        let mut state = self.alive()?;
        let free = self.properties.total_bytes - state.used_bytes;
        if bytes == 0 || bytes > free {
            return Err(GpuError::OutOfMemory { asked_bytes: bytes, cause: format!("{free} bytes are free") });
        }
        state.used_bytes += bytes;
        // Not zeroed on a real device either.
        Ok(state.add(Stored::Device(Arc::new(Mutex::new(vec![0xcd; bytes as usize])))))
    }

    fn pin(&self, bytes: u64) -> Result<MemoryId, GpuError> {
        Ok(self.alive()?.add(Stored::Pinned(Arc::new(Mutex::new(vec![0; bytes as usize])))))
    }

    fn register(&self, memory: HostMemory) -> Result<MemoryId, GpuError> {
        let mut state = self.alive()?;
        if state.faults.refuse_registration {
            return Err(GpuError::Refused { call: "register", cause: "a simulated fault".into() });
        }
        Ok(state.add(Stored::Host(memory)))
    }

    fn export(&self, memory: MemoryId) -> Result<IpcHandle, GpuError> {
        match self.alive()?.find(Place { memory, offset: 0 }, 0)? {
            Stored::Device(bytes) => Ok(self.machine.export(bytes)),
            _ => Err(GpuError::Invalid(format!("memory {} is not device memory of our own", memory.0))),
        }
    }

    fn import(&self, handle: &IpcHandle) -> Result<Imported, GpuError> {
        let mut state = self.alive()?;
        let refused = |cause: String| GpuError::Refused { call: "import", cause };
        if state.faults.refuse_imports {
            return Err(refused("a simulated fault".into()));
        }
        if let Some(opened) = Shared::open(handle) {
            let shared = opened.map_err(|error| refused(error.to_string()))?;
            let bytes = shared.bytes;
            return Ok(Imported { memory: state.add(Stored::Shared(Arc::new(shared))), bytes });
        }
        let found = self.machine.find(handle);
        let bytes = found.ok_or_else(|| refused("invalid handle".into()))?;
        let size = lock(&bytes).len() as u64;
        Ok(Imported { memory: state.add(Stored::Imported(bytes)), bytes: size })
    }

    fn release(&self, memory: MemoryId) -> Result<(), GpuError> {
        let mut state = self.state();
        match state.memories.remove(&memory) {
            Some(Stored::Device(bytes)) => state.used_bytes -= lock(&bytes).len() as u64,
            Some(_) => {}
            None => return Err(GpuError::Invalid(format!("there is no memory {}", memory.0))),
        }
        Ok(())
    }

    fn read(&self, at: Place, into: &mut [u8]) -> Result<(), GpuError> {
        self.state().pinned(at, into.len() as u64)?.read(at.offset, into);
        Ok(())
    }

    fn write(&self, at: Place, from: &[u8]) -> Result<(), GpuError> {
        self.state().pinned(at, from.len() as u64)?.write(at.offset, from);
        Ok(())
    }

    fn copy(&self, lane: Lane, runs: &[Run]) -> Result<(), GpuError> {
        let mut state = self.alive()?;
        let mut noted = Vec::with_capacity(runs.len());
        for run in runs.iter().filter(|run| run.bytes > 0) {
            let (from, to) = (state.find(run.from, run.bytes)?.clone(), state.find(run.to, run.bytes)?.clone());
            let gate = from.gate().or(to.gate()).cloned();
            noted.push(Entry { noted: Noted::Copy { run: *run, from, to, done: 0 }, gate });
        }
        let refused = state.faults.refuse_copies > 0;
        if refused {
            state.faults.refuse_copies -= 1;
            noted.truncate(noted.len() / 2);
        }
        state.lanes[lane as usize].extend(noted);
        if refused { Err(GpuError::Refused { call: "copy", cause: "a simulated fault".into() }) } else { Ok(()) }
    }

    fn shuffle(&self, lane: Lane, shuffle: &Shuffle) -> Result<(), GpuError> {
        let mut state = self.alive()?;
        shuffle.check()?;
        for (place, bytes) in shuffle.ranges() {
            state.find(place, bytes)?;
        }
        if shuffle.bytes() > 0 {
            let tiling = Tiling::new(shuffle, 256);
            let noted = Noted::Shuffle { shuffle: Box::new(shuffle.clone()), tiling, next: 0 };
            let memories = shuffle.surfaces.iter().filter_map(|surface| state.memories.get(&surface.memory));
            let gate = memories.filter_map(Stored::gate).next().cloned();
            state.put(lane, noted, gate);
        }
        Ok(())
    }

    fn checksum(&self, lane: Lane, spans: &[Span], into: Place) -> Result<(), GpuError> {
        let mut state = self.alive()?;
        state.pinned(into, spans.len() as u64 * 4)?;
        if spans.len() > SPANS_MAX {
            return Err(GpuError::Invalid(format!("{} spans do not fit one call of {SPANS_MAX}", spans.len())));
        }
        for span in spans {
            state.find(span.at, span.bytes.into())?;
            if !span.at.offset.is_multiple_of(SPAN_ALIGNMENT) || span.bytes == 0 {
                return Err(GpuError::Invalid(format!("a span at {} is empty or not aligned", span.at.offset)));
            }
        }
        if !spans.is_empty() {
            state.put(lane, Noted::Checksum { spans: spans.to_vec(), into, next: 0 }, None);
        }
        Ok(())
    }

    fn mark(&self, lane: Lane) -> Result<Mark, GpuError> {
        let mut state = self.alive()?;
        let number = state.mark_next;
        state.mark_next += 1;
        state.put(lane, Noted::Mark(number), None);
        Ok(Mark { lane, number })
    }

    fn wait(&self, mark: Mark) -> Result<(), GpuError> {
        self.run(mark.lane, Some(mark.number))
    }

    fn quiesce(&self) -> Result<(), GpuError> {
        Lane::ALL.into_iter().try_for_each(|lane| self.run(lane, None))
    }
}
