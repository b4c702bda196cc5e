//! The port to one GPU: memory by number, copies and kernels on lanes, marks to wait for.
//!
//! Everything is named by [`Place`] (a memory and an offset in it), never by address, so that every range is checked
//! before a device sees it and both implementations share one set of rules:
//!
//! - [`crate::cuda`]: a real device through its driver;
//! - [`crate::simulated`]: host memory, and an order of events that follows from a seed.
//!
//! # Lanes and marks
//!
//! A *lane* is a stream: what is put on it happens in order, and lanes do not wait for each other. Loads have lanes of
//! their own, of a higher priority than those of saves, one per direction. A call that puts work on a lane returns at
//! once and touches nothing yet. A [`Mark`] is an event behind everything put on a lane so far; when [`Gpu::wait`]
//! returns, whatever it says, nothing before the mark will touch memory any more (INV-8).
//!
//! # Errors
//!
//! Every call is checked. [`GpuError::Lost`] says that the device takes nothing any more; whoever sees it poisons that
//! GPU and no other, never the daemon.

mod error;
mod host;

use std::fmt;

pub use error::GpuError;
pub use host::{HostAccess, HostArena, HostMemory};

use crate::checksum::Span;
use crate::layout::Shuffle;

/// Memory a GPU can reach, by the number the port gave it. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryId(pub u32);

/// A byte of a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which memory.
    pub memory: MemoryId,
    /// Bytes from its beginning.
    pub offset: u64,
}

impl Place {
    /// The place so many bytes further on.
    pub fn after(self, bytes: u64) -> Self {
        Self { memory: self.memory, offset: self.offset.saturating_add(bytes) }
    }
}

/// One contiguous copy between any two memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where from.
    pub from: Place,
    /// Where to; must not overlap.
    pub to: Place,
    /// How much.
    pub bytes: u64,
}

/// A stream of work. *In* is towards GPU memory or a worker's KV memory, *out* away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Host or pool to worker: somebody waits to compute.
    LoadIn,
    /// Pool to host: somebody waits to read.
    LoadOut,
    /// Host to pool: promotion.
    SaveIn,
    /// Worker to host or pool.
    SaveOut,
}

impl Lane {
    /// All of them, loads first.
    pub const ALL: [Self; 4] = [Self::LoadIn, Self::LoadOut, Self::SaveIn, Self::SaveOut];

    /// Whether somebody waits for it; such lanes have priority.
    pub fn is_load(self) -> bool {
        matches!(self, Self::LoadIn | Self::LoadOut)
    }

    /// Its name in threads and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::LoadIn => "load-in",
            Self::LoadOut => "load-out",
            Self::SaveIn => "save-in",
            Self::SaveOut => "save-out",
        }
    }
}

/// An event behind everything put on a lane before it. Waited for exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The lane.
    pub lane: Lane,
    /// Counts marks of this GPU.
    pub number: u64,
}

/// Bytes of a CUDA IPC handle.
pub const IPC_HANDLE_BYTES: usize = 64;

/// Names an allocation of another process on the same machine, as its driver wrote it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpcHandle(pub [u8; IPC_HANDLE_BYTES]);

impl fmt::Debug for IpcHandle {
    /// A handle opens memory: only its first bytes are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "IpcHandle({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// Another process's memory, opened here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Its number here.
    pub memory: MemoryId,
    /// Its size as the driver states it: a layout that reaches further is refused.
    pub bytes: u64,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Which GPU of the machine.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Names it wherever it is counted: `GPU-` and a UUID, as nvidia-smi shows it.
    pub uuid: String,
    /// All of its memory, in bytes.
    pub total_bytes: u64,
    /// Multiprocessors.
    pub multiprocessor_count: u32,
    /// Compute capability, as major and minor.
    pub capability: (u32, u32),
    /// The driver's CUDA version, for instance 12080.
    pub driver_version: u32,
    /// Whether the driver takes a batch of copies in one call.
    pub batched_copies: bool,
}

impl Properties {
    /// Whether that is its UUID, written with or without what stands before it.
    pub fn is_named(&self, uuid: &str) -> bool {
        let bare = |text: &str| text.rsplit_once("GPU-").map_or(text, |(_, bare)| bare).to_ascii_lowercase();
        !uuid.is_empty() && bare(&self.uuid) == bare(uuid)
    }
}

/// One GPU. All methods may be called from any thread.
pub trait Gpu: Send + Sync + 'static {
    /// What it is.
    fn properties(&self) -> &Properties;
    /// Device memory nobody has, in bytes.
    fn free_bytes(&self) -> Result<u64, GpuError>;
    /// Device memory of our own. Its content is undefined.
    fn allocate(&self, bytes: u64) -> Result<MemoryId, GpuError>;
    /// Pinned host memory of our own, zeroed: the only memory [`Gpu::read`] and [`Gpu::write`] reach.
    fn pin(&self, bytes: u64) -> Result<MemoryId, GpuError>;
    /// Pins host memory that is there, so that the device reaches it without a bounce copy. Kept mapped until
    /// [`Gpu::release`].
    fn register(&self, memory: HostMemory) -> Result<MemoryId, GpuError>;
    /// A name for memory from [`Gpu::allocate`], for another process.
    fn export(&self, memory: MemoryId) -> Result<IpcHandle, GpuError>;
    /// Opens another process's memory. It stays reachable here until [`Gpu::release`], even if that process dies.
    fn import(&self, handle: &IpcHandle) -> Result<Imported, GpuError>;
    /// Frees, unregisters or closes a memory. No work on it may be under way (INV-8).
    fn release(&self, memory: MemoryId) -> Result<(), GpuError>;
    /// Reads pinned memory that no work under way writes.
    fn read(&self, at: Place, into: &mut [u8]) -> Result<(), GpuError>;
    /// Writes pinned memory that no work under way uses.
    fn write(&self, at: Place, from: &[u8]) -> Result<(), GpuError>;
    /// Puts copies on a lane, in one call of the driver where it can. All ranges are checked before the first is put;
    /// after an error of the driver some may be under way: mark and wait.
    fn copy(&self, lane: Lane, runs: &[Run]) -> Result<(), GpuError>;
    /// Puts a gather or scatter between a worker's KV memory and blocks on a lane.
    fn shuffle(&self, lane: Lane, shuffle: &Shuffle) -> Result<(), GpuError>;
    /// Puts the raw CRC32 of up to [`crate::checksum::SPANS_MAX`] spans on a lane: four little-endian bytes each, to be
    /// found at `into` (pinned memory) and completed by [`crate::checksum::finish`]. Spans begin at multiples of 16.
    fn checksum(&self, lane: Lane, spans: &[Span], into: Place) -> Result<(), GpuError>;
    /// An event behind what is on the lane.
    fn mark(&self, lane: Lane) -> Result<Mark, GpuError>;
    /// Blocks until the mark is reached, without spinning. Any error is [`GpuError::Lost`]; nothing before the mark
    /// runs after this returns.
    fn wait(&self, mark: Mark) -> Result<(), GpuError>;
    /// Blocks until nothing is under way on any lane.
    fn quiesce(&self) -> Result<(), GpuError>;
}
