//! What changes in the pools, told in its order.
//!
//! Whoever changes a pool's catalog notes what came of it while he has it, and tells it when he has let go of it: so the
//! order is that of the catalog's decisions, and whoever listens may take locks of his own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvtier_engine::port::Record;
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
    noted: Mutex<Noted>,
    /// Held while somebody tells.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Noted {
    /// Where the blocks are that were told of.
    places: BTreeMap<BlockId, u8>,
    news: VecDeque<PoolNews>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    pub(crate) fn new(listener: Listener) -> Self {
        Self { listener, noted: Mutex::default(), turn: Mutex::default() }
    }

    /// A block has come. The caller holds the catalog.
    pub(crate) fn note_stored(&self, gpu: u8, record: Record) {
        if let Record::StoredHost { block, space, key, parent, .. } = record {
            let mut noted = lock(&self.noted);
            noted.places.insert(block, gpu);
            noted.news.push_back(PoolNews::Stored { gpu, block, space, key, parent });
        }
    }

    /// Blocks have gone. The caller holds the catalog.
    pub(crate) fn note_removed(&self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        let mut noted = lock(&self.noted);
        for record in records {
            if let Record::Removed { block, .. } = record
                && let Some(gpu) = noted.places.remove(block)
            {
                noted.news.push_back(PoolNews::Removed { gpu, block: *block });
            }
        }
    }

    /// A GPU is lost: the blocks that were there. The caller holds the catalog.
    pub(crate) fn note_lost(&self, gpu: u8, cause: &str) -> Vec<BlockId> {
        let mut noted = lock(&self.noted);
        let there: Vec<BlockId> = noted.places.iter().filter(|(_, at)| **at == gpu).map(|(block, _)| *block).collect();
        noted.places.retain(|_, at| *at != gpu);
        noted.news.push_back(PoolNews::Lost { gpu, cause: cause.to_owned() });
        there
    }

    /// Tells what was noted. The caller holds no lock.
    pub(crate) fn tell(&self) {
        if lock(&self.noted).news.is_empty() {
            return;
        }
        let _turn = lock(&self.turn);
        let news: Vec<PoolNews> = lock(&self.noted).news.drain(..).collect();
        if !news.is_empty() {
            (self.listener)(news);
        }
    }
}
