//! How far a move has come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use kvtier_engine::port::BoxFuture;

/// Why a move, or what was left of it, did not happen. The destination's content is undefined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// A block's bytes are not what was expected: a miss (INV-1).
    #[error("block {place} of the chain does not verify")]
    Corrupt {
        /// Its place in the chain.
        place: usize,
    },
    /// The device did not do it.
    #[error("{0}")]
    Failed(crate::gpu::GpuError),
    /// There is no such range of layers.
    #[error("range {0} was not asked for")]
    NoRange(usize),
    /// The tier is shutting down.
    #[error("the tier is closed")]
    Closed,
}

#[derive(Default)]
struct State {
    reached: usize,
    ended: Option<Result<(), MoveError>>,
    waiters: Vec<(usize, oneshot::Sender<Result<(), MoveError>>)>,
    checksums: Vec<u32>,
}

pub(super) struct Progress {
    ranges: usize,
    state: Mutex<State>,
}

impl Progress {
    pub(super) fn new(ranges: usize) -> Arc<Self> {
        Arc::new(Self { ranges, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many ranges have arrived.
    pub(super) fn reach(&self, reached: usize) {
        let mut state = self.state();
        state.reached = reached;
        let (ready, waiting) = state.waiters.drain(..).partition(|(range, _)| *range < reached);
        state.waiters = waiting;
        drop(state);
        let ready: Vec<(usize, oneshot::Sender<_>)> = ready;
        ready.into_iter().for_each(|(_, sender)| _ = sender.send(Ok(())));
    }

    /// Nothing more happens. The first end counts.
    pub(super) fn end(&self, result: Result<(), MoveError>, checksums: Vec<u32>) {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = Some(result);
            state.checksums = checksums;
        }
        let result = state.ended.clone().unwrap_or(Err(MoveError::Closed));
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        waiters.into_iter().for_each(|(_, sender)| _ = sender.send(result.clone()));
    }
}

/// A move under way. It goes on when this is dropped.
#[derive(Clone)]
pub struct MoveProgress {
    pub(super) progress: Arc<Progress>,
}

impl MoveProgress {
    /// Resolves when this range of layers, and all asked for before it, have arrived.
    pub fn wait(&self, range: usize) -> BoxFuture<Result<(), MoveError>> {
        if range >= self.progress.ranges {
            return Box::pin(std::future::ready(Err(MoveError::NoRange(range))));
        }
        let mut state = self.progress.state();
        if range < state.reached {
            return Box::pin(std::future::ready(Ok(())));
        }
        if let Some(ended) = &state.ended {
            return Box::pin(std::future::ready(ended.clone()));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push((range, sender));
        Box::pin(async move { receiver.await.unwrap_or(Err(MoveError::Closed)) })
    }

    /// Resolves when everything is over and the device touches nothing of it any more.
    pub fn wait_end(&self) -> BoxFuture<Result<(), MoveError>> {
        let mut state = self.progress.state();
        if let Some(ended) = &state.ended {
            return Box::pin(std::future::ready(ended.clone()));
        }
        let (sender, receiver) = oneshot::channel();
        // No range is that far: only the end answers it.
        state.waiters.push((usize::MAX, sender));
        Box::pin(async move { receiver.await.unwrap_or(Err(MoveError::Closed)) })
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.progress.state().ended.is_some()
    }

    /// After the end of a save to the pool: CRC32 of each block, in the order of the chain. Otherwise empty.
    pub fn checksums(&self) -> Vec<u32> {
        self.progress.state().checksums.clone()
    }
}
