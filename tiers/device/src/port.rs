//! The two ports.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use std::future::Future;

/// A boxed future that outlives its caller.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;
/// A boxed future of a thread that owns its files.
pub type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T> + 'static>>;

/// Memory a disk reads into or writes from. The operation owns it until the device is done (INV-8): `keep` is dropped
/// only then. Address and size are multiples of 4 KiB.
#[derive(Clone)]
pub struct DiskBuffer {
    /// Address in this process.
    pub address: usize,
    /// Bytes to move.
    pub bytes: u32,
    /// Offset in the registered arena, if it lies there.
    pub arena_offset: Option<u64>,
    /// Keeps the memory mapped.
    pub keep: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for DiskBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskBuffer").field("bytes", &self.bytes).field("arena_offset", &self.arena_offset).finish()
    }
}

/// One transfer.
#[derive(Debug, Clone)]
pub enum DiskOp {
    /// Fill `into` from `offset`.
    Read {
        /// Byte offset, a multiple of 4 KiB.
        offset: u64,
        /// Destination.
        into: DiskBuffer,
    },
    /// Write `from` at `offset`.
    Write {
        /// Byte offset, a multiple of 4 KiB.
        offset: u64,
        /// Source.
        from: DiskBuffer,
    },
}

/// Which queue an operation waits in. A lower one is served only while the higher ones are empty or it would starve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for these bytes.
    Load,
    /// Write-back.
    Store,
    /// Scrubbing.
    Idle,
}

/// What the caller would do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// This operation failed, e.g. EIO, or the file ends before the range.
    #[error("{0}")]
    Io(String),
    /// The queue is full (INV-5).
    #[error("the disk queue is full")]
    Busy,
    /// A sync failed once: no more writes or syncs on this disk (INV-7).
    #[error("the disk is poisoned: {0}")]
    Poisoned(String),
    /// The disk is shutting down.
    #[error("the disk is closed")]
    Closed,
}

/// Counters since start and gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Operations at the device.
    pub in_flight_count: u64,
    /// Operations waiting.
    pub queued_count: u64,
    /// Syncs done.
    pub sync_count: u64,
}

/// One disk. Operations start when called and finish even if their future is dropped.
pub trait Disk: Send + Sync + 'static {
    /// Size in bytes.
    fn bytes(&self) -> u64;
    /// Starts a batch; results are in its order.
    fn submit(&self, batch: Vec<DiskOp>, priority: Priority) -> BoxFuture<Vec<Result<(), DiskError>>>;
    /// Makes every write that has completed before the call durable. A failure poisons the disk for good (INV-7).
    fn sync(&self) -> BoxFuture<Result<(), DiskError>>;
    /// Why the disk is poisoned, if it is.
    fn poisoned(&self) -> Option<String>;
    /// How it is driven, for people: e.g. `io_uring, registered files and buffers`.
    fn mode(&self) -> String;
    /// Counters.
    fn counters(&self) -> DiskCounters;
}

/// A folder of named files, as a log needs it. Used from one thread.
pub trait Folder: 'static {
    /// The files' names and sizes in bytes, in no order.
    fn list(&self) -> LocalBoxFuture<io::Result<Vec<(String, u64)>>>;
    /// Creates an empty file for writing; fails if it exists. Durable after [`Folder::sync`].
    fn create(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>>;
    /// Opens an existing file.
    fn open(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>>;
    /// Removes a file. Durable after [`Folder::sync`].
    fn remove(&self, name: &str) -> LocalBoxFuture<io::Result<()>>;
    /// Makes creations and removals durable.
    fn sync(&self) -> LocalBoxFuture<io::Result<()>>;
}

/// One file of a [`Folder`].
pub trait LogFile: 'static {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> LocalBoxFuture<io::Result<()>>;
    /// Reads up to `bytes` from `offset`; shorter only at the end of the file.
    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>>;
    /// Cuts or extends the file.
    fn truncate(&self, bytes: u64) -> LocalBoxFuture<io::Result<()>>;
    /// Makes content and size durable.
    fn sync(&self) -> LocalBoxFuture<io::Result<()>>;
}
