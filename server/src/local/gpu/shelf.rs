//! What one connection has lent, and its loads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use kvtier_proto::v1;
use tonic::{Code, Status};

use super::windows::Windows;
use super::{KvMemory, KvProgress, MEMORIES_MAX, MOVES_MAX};
use crate::local::session::Session;
use crate::service::answer::BadField;

/// A connection's memories and loads. Numbers are the desk's, so that another connection's are unknown here.
#[derive(Default)]
pub(crate) struct Shelf {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    memories: BTreeMap<u64, Arc<dyn KvMemory>>,
    /// Being opened: they count.
    opening: usize,
    loads: BTreeMap<u64, Arc<Windows>>,
}

/// Counts of moves of all connections.
#[derive(Debug, Default)]
pub(crate) struct MoveCount {
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Counts an opening until it is over.
struct Opening<'a>(&'a Shelf);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.lock().opening -= 1;
    }
}

impl MoveCount {
    /// Counts a move, and its end.
    pub(super) fn follow(self: &Arc<Self>, session: &Session, progress: &Arc<dyn KvProgress>) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let (own, end) = (Arc::clone(self), progress.wait_end());
        let counted = async move {
            let failed = end.await.is_err();
            own.ended.fetch_add(1, Ordering::Relaxed);
            own.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
        };
        session.desk.spawn.spawn("gpu move", Box::pin(counted));
    }
}

impl Shelf {
    /// Memories and loads there are.
    pub(crate) fn memory_count(&self) -> u64 {
        self.lock().memories.len() as u64
    }

    /// Ends it. What was lent is closed where a driver may take its time.
    pub(crate) fn close(&self) {
        let (memories, loads) = {
            let mut state = self.lock();
            state.closed = true;
            (std::mem::take(&mut state.memories), std::mem::take(&mut state.loads))
        };
        if memories.is_empty() && loads.is_empty() {
            return;
        }
        let drop_both = move || drop((memories, loads));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(drop_both)),
            // The daemon ends.
            Err(_) => drop_both(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn begin_opening(&self) -> Result<Opening<'_>, Status> {
        let mut state = self.lock();
        if state.memories.len() + state.opening >= MEMORIES_MAX {
            let told = format!("this connection has lent {MEMORIES_MAX} memories, the most there may be: release one");
            return Err(Status::new(Code::ResourceExhausted, told));
        }
        state.opening += 1;
        Ok(Opening(self))
    }

    fn put(&self, number: u64, memory: Arc<dyn KvMemory>) -> Result<(), Status> {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            drop(memory);
            return Err(Status::new(Code::Cancelled, "the attachment has ended"));
        }
        state.memories.insert(number, memory);
        Ok(())
    }

    pub(super) fn memory(&self, number: u64) -> Result<Arc<dyn KvMemory>, BadField> {
        let found = self.lock().memories.get(&number).cloned();
        found.ok_or_else(|| BadField::new("memory", number, "use a number ImportGpuMemory gave on this connection"))
    }

    /// Whether another load may begin; forgets one that is over and was never asked about.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.lock();
        if state.loads.len() < MOVES_MAX {
            return true;
        }
        let over = state.loads.iter().find(|(_, load)| load.is_over()).map(|(number, _)| *number);
        over.is_some_and(|number| state.loads.remove(&number).is_some())
    }

    pub(super) fn put_load(&self, number: u64, load: Windows) {
        let mut state = self.lock();
        if !state.closed {
            state.loads.insert(number, Arc::new(load));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while filing what was lent")
    }
}

impl Session {
    /// Opens memory that the worker lends.
    pub(crate) async fn import_gpu_memory(
        &self,
        request: v1::ImportGpuMemoryRequest,
    ) -> Result<v1::ImportGpuMemoryResponse, Status> {
        let (gpus, domain) = (Arc::clone(&self.desk.gpus), self.desk.domain_of(&self.tenant));
        let _opening = self.shelf.begin_opening()?;
        // Calls of a driver must keep nobody else waiting.
        let opened = tokio::task::spawn_blocking(move || gpus.import(&request, domain)).await;
        let memory = opened.map_err(|_| Status::new(Code::Cancelled, "the daemon is shutting down"))??;
        let number = self.desk.next_reservation();
        let (block_bytes, layers) = (u64::from(memory.block_bytes()), memory.layer_count());
        self.shelf.put(number, memory)?;
        Ok(v1::ImportGpuMemoryResponse { memory: number, block_bytes, layers })
    }

    /// Closes what was lent, behind its last move.
    pub(crate) async fn release_gpu_memory(
        &self,
        request: v1::ReleaseGpuMemoryRequest,
    ) -> Result<v1::ReleaseGpuMemoryResponse, Status> {
        let found = self.shelf.lock().memories.remove(&request.memory);
        let released = found.is_some();
        if released {
            tokio::task::spawn_blocking(move || drop(found)).await.ok();
        }
        Ok(v1::ReleaseGpuMemoryResponse { released })
    }

    /// Waits for layers of a load, or for its end.
    pub(crate) async fn wait_load(&self, request: v1::WaitLoadRequest) -> Result<v1::WaitLoadResponse, Status> {
        let load = self.shelf.lock().loads.get(&request.load).cloned();
        let unknown = || BadField::new("load", request.load, "use a number Load gave, until its end was waited for");
        let load = load.ok_or_else(unknown)?;
        let ended = load.wait(request.range.map(|range| range as usize)).await;
        if request.range.is_none() {
            self.shelf.lock().loads.remove(&request.load);
        }
        let (outcome, index, detail) = match ended {
            Ok(()) => (v1::MoveOutcome::Done, 0, String::new()),
            Err(failure) => failure.told(),
        };
        Ok(v1::WaitLoadResponse { outcome: outcome.into(), index, detail })
    }
}
