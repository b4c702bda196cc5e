//! What changes in the pools, told in its order.
//!
//! Whoever changes a pool's catalog notes what came of it while he has it, and tells it when he has let go of it: so the
//! order is that of the catalog's decisions, and whoever listens may take locks of his own.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvtier_identity::{BlockId, Key};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolNews {
    /// A block is in the pool of this GPU.
    Stored {
        /// Number of the GPU.
        gpu: u8,
        /// The block.
        block: BlockId,
        /// Its space's number.
        space: u32,
        /// The engine's key.
        key: Key,
        /// The block before it.
        parent: Option<BlockId>,
    },
    /// It is not any more.
    Removed {
        /// Number of the GPU.
        gpu: u8,
        /// The block.
        block: BlockId,
    },
    /// The GPU is lost with all that was in its pool.
    Lost {
        /// Number of the GPU.
        gpu: u8,
        /// Why.
        cause: String,
    },
}

/// Hears of changes, in order, one call at a time.
pub type Listener = Box<dyn Fn(Vec<PoolNews>) + Send + Sync>;

/// Notes and tells.
pub(crate) struct Teller {
    listener: Listener,
    news: Mutex<VecDeque<PoolNews>>,
    /// Held while somebody tells.
    turn: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    pub(crate) fn new(listener: Listener) -> Self {
        Self { listener, news: Mutex::default(), turn: Mutex::default() }
    }

    /// Something has changed. The caller holds the catalog.
    pub(crate) fn note(&self, news: impl IntoIterator<Item = PoolNews>) {
        lock(&self.news).extend(news);
    }

    /// Tells what was noted. The caller holds no lock.
    pub(crate) fn tell(&self) {
        if lock(&self.news).is_empty() {
            return;
        }
        let _turn = lock(&self.turn);
        let news: Vec<PoolNews> = lock(&self.news).drain(..).collect();
        if !news.is_empty() {
            (self.listener)(news);
        }
    }
}
