//! The port on RocksDB: [`Store`]'s blocking calls on threads of the index's own.

use std::path::Path;
use std::sync::Arc;

use futures::channel::oneshot;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{BoxFuture, Index, IndexChange, IndexEntry, IndexError, SpaceRecord};
use kvtier_identity::BlockId;

use crate::columns;
use crate::fault;
use crate::lane::{Lane, LaneRefused};
use crate::order::{Notice, Order, Ticket};
use crate::settings::IndexSettings;
use crate::store::Store;

/// The index of a running daemon.
///
/// Every method queues its work at once and never blocks; a full queue answers `Unavailable`. Batches and flushes run in
/// the order of the calls; reads run beside them and see every batch whose future has resolved. A batch behind a refused
/// one is refused too until the caller has seen the first refusal ([`crate::order`]); it then starts again after
/// [`Index::applied`].
///
/// Dropping it finishes what is queued, flushes and closes; it blocks that long, so drop it outside of async code.
pub struct RocksIndex {
    // The lanes come first: their threads end before the store closes.
    writer: Lane,
    readers: Lane,
    order: Arc<Order>,
    store: Arc<Store>,
}

/// What `status` and the metrics show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexStatus {
    /// Position of the last applied batch.
    pub applied: u64,
    /// Position of the last explicit flush.
    pub flushed: u64,
    /// About how many blocks there are.
    pub block_count_estimate: u64,
    /// Bytes of the table files.
    pub file_bytes: u64,
    /// Bytes that wait in RAM for a flush.
    pub write_buffer_bytes: u64,
    /// Failures of RocksDB's flushes and compactions since the index was opened.
    pub background_errors: u64,
    /// Batches and flushes that wait.
    pub write_queue_len: usize,
    /// Reads that wait.
    pub read_queue_len: usize,
}

type Refused = (IndexError, Option<Notice>);

impl RocksIndex {
    /// Opens the index in `path`, or creates an empty one. Blocks; ten million entries take some tens of milliseconds.
    ///
    /// Errors: `Corrupt` if files are damaged or missing; `Unavailable` if another process has it, if a newer kvtier
    /// wrote it, if it belongs to another node, or if a setting is out of bounds; `Full` if there is no room to create it.
    pub fn open(path: &Path, settings: IndexSettings) -> Result<Arc<Self>, IndexError> {
        let store = Arc::new(Store::open(path, &settings)?);
        let failed = |error| fault::unavailable(path, format_args!("could not start a thread: {error}"));
        let writer = Lane::start("index-write", 1, settings.queue_len_max).map_err(failed)?;
        let readers = Lane::start("index-read", settings.reader_threads, settings.queue_len_max).map_err(failed)?;
        Ok(Arc::new(Self { writer, readers, order: Arc::default(), store }))
    }

    /// Position known to be on stable storage, without waiting: of the last flush, or of the open.
    ///
    /// RocksDB's own flushes may have kept more; a crash shows how much in [`Index::applied`] of the next open.
    pub fn flushed(&self) -> u64 {
        self.store.flushed()
    }

    /// Condition and counters; cheap.
    pub fn status(&self) -> IndexStatus {
        let property = |name| self.store.property(columns::BLOCKS, name);
        IndexStatus {
            applied: self.store.applied(),
            flushed: self.store.flushed(),
            block_count_estimate: property("rocksdb.estimate-num-keys"),
            file_bytes: property("rocksdb.total-sst-files-size"),
            write_buffer_bytes: property("rocksdb.cur-size-all-mem-tables"),
            background_errors: property("rocksdb.background-errors"),
            write_queue_len: self.writer.queue_len(),
            read_queue_len: self.readers.queue_len(),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        lane: &Lane,
        call: impl FnOnce(&Store) -> Result<T, IndexError> + Send + 'static,
    ) -> BoxFuture<Result<T, IndexError>> {
        let store = self.store.clone();
        let (sender, receiver) = oneshot::channel();
        let taken = lane.take(Box::new(move || {
            // Nobody may be waiting any more; the work is done all the same.
            let _ = sender.send(call(&store));
        }));
        match taken {
            Ok(()) => {
                let failed = self.refusal(LaneRefused::Failed);
                Box::pin(async move { receiver.await.unwrap_or(Err(failed)) })
            }
            Err(refused) => Box::pin(std::future::ready(Err(self.refusal(refused)))),
        }
    }

    fn refusal(&self, refused: LaneRefused) -> IndexError {
        fault::unavailable(self.store.path(), refused)
    }

    /// Applies on the writer's thread, unless a refusal before it has not been seen.
    fn apply_in_order(
        store: &Store,
        order: &Arc<Order>,
        ticket: Ticket,
        changes: &[IndexChange],
        covers: u64,
    ) -> Result<(), Refused> {
        if !order.admits(ticket) {
            let what = format_args!("a batch before this one was refused; start again after {}", store.applied());
            return Err((fault::unavailable(store.path(), what), None));
        }
        store.apply(changes, covers).map_err(|error| (error, Some(order.refuse_late())))
    }
}

impl Index for RocksIndex {
    fn apply(&self, changes: Vec<IndexChange>, covers: u64) -> BoxFuture<Result<(), IndexError>> {
        let (store, order, ticket) = (self.store.clone(), self.order.clone(), self.order.ticket());
        let (sender, receiver) = oneshot::channel();
        let taken = self.writer.take(Box::new(move || {
            let _ = sender.send(Self::apply_in_order(&store, &order, ticket, &changes, covers));
        }));
        let failed = self.refusal(LaneRefused::Failed);
        let refused = taken.err().map(|refused| (self.refusal(refused), Some(self.order.refuse_early())));
        Box::pin(async move {
            let outcome = match refused {
                Some(refused) => Err(refused),
                None => receiver.await.unwrap_or(Err((failed, None))),
            };
            // Here the caller sees a refusal: the notice drops.
            outcome.map_err(|(error, _notice)| error)
        })
    }

    fn get_many(&self, blocks: Vec<BlockId>) -> BoxFuture<Result<Vec<Option<IndexEntry>>, IndexError>> {
        self.run(&self.readers, move |store| store.get_many(&blocks))
    }

    fn scan(
        &self,
        after: Option<BlockId>,
        count_max: usize,
    ) -> BoxFuture<Result<Vec<(BlockId, IndexEntry)>, IndexError>> {
        self.run(&self.readers, move |store| store.scan(after, count_max))
    }

    fn spaces(&self) -> BoxFuture<Result<Vec<SpaceRecord>, IndexError>> {
        self.run(&self.readers, Store::spaces)
    }

    fn quarantined(&self) -> BoxFuture<Result<Vec<Slot>, IndexError>> {
        self.run(&self.readers, Store::quarantined)
    }

    fn flush(&self) -> BoxFuture<Result<u64, IndexError>> {
        self.run(&self.writer, Store::flush)
    }

    fn applied(&self) -> u64 {
        self.store.applied()
    }
}
