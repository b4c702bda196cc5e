//! The index in RAM, for the simulator and for tests: same port, same conformance suite, and crashes on request.
//!
//! It holds two states: what has been applied, and what is durable, with the batches between them. A crash keeps the
//! durable one. RocksDB may flush between two explicit flushes, so [`MemoryIndex::crash_keeping`] also keeps some of the
//! batches after it; nothing else is possible. Every call completes before it returns: the futures are ready. With faults,
//! calls are refused as the seed says, the same seed in the same order of calls always alike (INV-9).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvtier_engine::place::Slot;
use kvtier_engine::port::{BoxFuture, Index, IndexChange, IndexEntry, IndexError, SpaceRecord};
use kvtier_identity::BlockId;

use crate::order::{Notice, Order, Ticket};
use crate::{BATCH_LEN_MAX, LOOKUP_LEN_MAX};

/// How often calls are refused, in calls of a thousand. The default refuses none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryFaults {
    /// Where the choices start.
    pub seed: u64,
    /// Any call: `Unavailable`.
    pub unavailable_permille: u16,
    /// Batches and flushes: `Full`.
    pub full_permille: u16,
}

/// The fake. Cheap to make; every [`MemoryIndex::crash`] makes a new one and leaves the old to those who still hold it.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    order: Arc<Order>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    applied: Content,
    durable: Content,
    /// Batches after `durable`, oldest first.
    waiting: VecDeque<Batch>,
    faults: MemoryFaults,
    choices: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    blocks: BTreeMap<BlockId, IndexEntry>,
    spaces: BTreeMap<u32, SpaceRecord>,
    quarantined: BTreeSet<Slot>,
    covered: u64,
}

#[derive(Debug)]
struct Batch {
    changes: Vec<IndexChange>,
    covers: u64,
}

impl MemoryIndex {
    /// An empty index.
    pub fn new(faults: MemoryFaults) -> Self {
        let index = Self::default();
        index.set_faults(faults);
        index
    }

    /// From now on refuses calls like this; the choices start over at the seed.
    pub fn set_faults(&self, faults: MemoryFaults) {
        let mut state = self.lock();
        state.faults = faults;
        state.choices = faults.seed;
    }

    /// What a crash now would leave behind: the state of the last flush.
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// What a crash now could leave behind if RocksDB had flushed by itself after `batch_count` of the batches since the
    /// last flush (at most [`MemoryIndex::unflushed_len`]). The faults go on where they were.
    pub fn crash_keeping(&self, batch_count: usize) -> Self {
        let state = self.lock();
        let mut durable = state.durable.clone();
        for batch in state.waiting.iter().take(batch_count) {
            durable.apply(batch);
        }
        let survivor = State {
            applied: durable.clone(),
            durable,
            waiting: VecDeque::new(),
            faults: state.faults,
            choices: state.choices,
        };
        Self { order: Arc::default(), state: Mutex::new(survivor) }
    }

    /// How many batches have been applied since the last flush.
    pub fn unflushed_len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Position of the last flush.
    pub fn flushed(&self) -> u64 {
        self.lock().durable.covered
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: Send + 'static>(
        &self,
        answer: impl FnOnce(&Content) -> Result<T, IndexError>,
    ) -> BoxFuture<Result<T, IndexError>> {
        let mut state = self.lock();
        let outcome = state.fault(false).and_then(|()| answer(&state.applied));
        Box::pin(std::future::ready(outcome))
    }

    fn apply_in_order(&self, ticket: Ticket, batch: Batch) -> Result<(), (IndexError, Option<Notice>)> {
        let mut state = self.lock();
        if !self.order.admits(ticket) {
            let covered = state.applied.covered;
            let what = format!("a batch before this one was refused; start again after {covered}");
            return Err((IndexError::Unavailable(what), None));
        }
        state.apply(batch).map_err(|error| (error, Some(self.order.refuse_late())))
    }
}

impl State {
    fn apply(&mut self, batch: Batch) -> Result<(), IndexError> {
        let (covered, covers, count) = (self.applied.covered, batch.covers, batch.changes.len());
        if covers < covered {
            let what = format!("a batch covers position {covers}, but {covered} has been applied already");
            return Err(IndexError::Unavailable(what));
        }
        if count > BATCH_LEN_MAX {
            let what = format!("a batch has {count} changes, at most {BATCH_LEN_MAX} are allowed");
            return Err(IndexError::Unavailable(what));
        }
        self.fault(true)?;
        self.applied.apply(&batch);
        self.waiting.push_back(batch);
        Ok(())
    }

    fn flush(&mut self) -> Result<u64, IndexError> {
        self.fault(true)?;
        for batch in self.waiting.drain(..) {
            self.durable.apply(&batch);
        }
        assert_eq!(self.durable.covered, self.applied.covered, "a flush makes every applied batch durable");
        Ok(self.durable.covered)
    }

    fn fault(&mut self, writes: bool) -> Result<(), IndexError> {
        if self.chance(self.faults.unavailable_permille) {
            return Err(IndexError::Unavailable("a fault of the simulation".into()));
        }
        if writes && self.chance(self.faults.full_permille) {
            return Err(IndexError::Full("a fault of the simulation".into()));
        }
        Ok(())
    }

    fn chance(&mut self, permille: u16) -> bool {
        if permille == 0 {
            return false;
        }
        // SplitMix64: every seed, 0 too, starts a good sequence.
        self.choices = self.choices.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.choices;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % 1000 < u64::from(permille)
    }
}

impl Content {
    fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                IndexChange::Put(block, entry) => drop(self.blocks.insert(*block, entry.clone())),
                IndexChange::Remove(block) => drop(self.blocks.remove(block)),
                IndexChange::PutSpace(space) => drop(self.spaces.insert(space.number, SpaceRecord::clone(space))),
                IndexChange::RemoveSpace(number) => drop(self.spaces.remove(number)),
                IndexChange::Quarantine(slot) => drop(self.quarantined.insert(*slot)),
            }
        }
        self.covered = batch.covers;
    }

    fn scan(&self, after: Option<BlockId>, count_max: usize) -> Vec<(BlockId, IndexEntry)> {
        let start = match after {
            None => Some(0),
            Some(BlockId(last)) => last.checked_add(1),
        };
        let Some(start) = start else { return Vec::new() };
        let entries = self.blocks.range(BlockId(start)..).take(count_max);
        entries.map(|(block, entry)| (*block, entry.clone())).collect()
    }
}

impl Index for MemoryIndex {
    fn apply(&self, changes: Vec<IndexChange>, covers: u64) -> BoxFuture<Result<(), IndexError>> {
        let outcome = self.apply_in_order(self.order.ticket(), Batch { changes, covers });
        // As in production the caller sees a refusal when it takes the answer: the notice drops with it.
        Box::pin(async move { outcome.map_err(|(error, _notice)| error) })
    }

    fn get_many(&self, blocks: Vec<BlockId>) -> BoxFuture<Result<Vec<Option<IndexEntry>>, IndexError>> {
        self.read(|content| {
            if blocks.len() > LOOKUP_LEN_MAX {
                let what = format!("a lookup has {} blocks, at most {LOOKUP_LEN_MAX} are allowed", blocks.len());
                return Err(IndexError::Unavailable(what));
            }
            Ok(blocks.iter().map(|block| content.blocks.get(block).cloned()).collect())
        })
    }

    fn scan(
        &self,
        after: Option<BlockId>,
        count_max: usize,
    ) -> BoxFuture<Result<Vec<(BlockId, IndexEntry)>, IndexError>> {
        self.read(|content| Ok(content.scan(after, count_max)))
    }

    fn spaces(&self) -> BoxFuture<Result<Vec<SpaceRecord>, IndexError>> {
        self.read(|content| Ok(content.spaces.values().cloned().collect()))
    }

    fn quarantined(&self) -> BoxFuture<Result<Vec<Slot>, IndexError>> {
        self.read(|content| Ok(content.quarantined.iter().copied().collect()))
    }

    fn flush(&self) -> BoxFuture<Result<u64, IndexError>> {
        let outcome = self.lock().flush();
        Box::pin(std::future::ready(outcome))
    }

    fn applied(&self) -> u64 {
        self.lock().applied.covered
    }
}
