//! What can be measured: a store of numbered chains of blocks, whatever it is behind.
//!
//! ```text
//!   engine ── one thread per lane (numjobs × iodepth) ──> Session ──┐ put(chain) · lookup(chain) · get(chain)
//!                                                         Session ──┤ blocking, one request at a time each
//!                                                         …         ┘
//!                                                                 Target: the server, its folder, its connections
//! ```
//!
//! A [`Target`] is opened once for a run and shared; a [`Session`] belongs to one lane, which is a thread. A request is a
//! whole chain, so a target may batch or pipeline inside of it, and more in flight are more lanes: the same for a library
//! call, a pipelined socket and a child process that speaks lines.
//!
//! **Every get ends with every byte read once by the consumer.** A target never says "done": it hands what it has to the
//! [`Consumer`], which reads it (see [`consumer`]); a byte nobody handed over is an error of the run. What may be handed
//! over is the memory where the bytes arrived, without a copy made for the harness. A target whose bytes arrive in another
//! process sums them there with CRC-32 and hands over the sum ([`Consumer::summed`]).
//!
//! The clock of a request runs from the call to its return. Payloads of puts are made before, keys too.
//!
//! What a crash does: a target owns its processes and folders; dropping it ends them. A session that fails ends the run.

pub mod consumer;
pub mod files;
pub mod grpc;
pub mod known;
pub mod local;
pub mod memory;
pub mod mooncake;
mod node;
pub mod nvme;
pub mod redis;

use std::path::PathBuf;

use bytes::Bytes;

pub use consumer::{Consumer, Reading};

/// What ends a run. It crosses threads.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A block's key: 32 bytes, as vLLM has them.
pub const KEY_BYTES: usize = 32;

/// What a target needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Setup {
    /// A folder of the run's own, on the file system that is measured. What is left in it is removed with it.
    pub folder: PathBuf,
    /// The largest block of the run in bytes.
    pub block_bytes_max: u32,
    /// Payload bytes that the run can put at most: what the target must be able to hold below all.
    pub data_bytes: u64,
    /// Payload bytes that may stay in memory; the rest belongs to the target's lower tier, if it has one.
    pub memory_bytes: u64,
    /// Sessions that will be opened.
    pub lanes: usize,
    /// Whether a put waits until its blocks would survive a crash. A target that cannot refuses to open.
    pub durable: bool,
    /// An existing server to use instead of starting one; a target that has none refuses it.
    pub endpoint: Option<String>,
}

/// One block to be put.
#[derive(Debug, Clone)]
pub struct Put {
    /// Its key, of [`KEY_BYTES`] bytes.
    pub key: Bytes,
    /// Its payload. Shared, so that a client that can send it as it is need not copy it.
    pub bytes: Bytes,
}

/// What became of a chain that was put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutTally {
    /// Blocks that are there now and were not before, or were overwritten.
    pub stored: usize,
    /// Blocks that were there already and were not written again.
    pub duplicate: usize,
    /// Blocks the target would not take (full, busy). They are counted and the run goes on.
    pub declined: usize,
}

/// A store, open for a run.
pub trait Target: Send + Sync {
    /// What the report calls it.
    fn name(&self) -> String;

    /// What it promises that another may not, in a sentence: checksums, durability, eviction, who may read.
    fn guarantees(&self) -> String;

    /// Versions, command lines and settings that somebody needs who runs it again: name and value.
    fn facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// What it counted since it started (hits and bytes of each tier, say), to be compared before and after a run.
    fn counters(&self) -> Result<Vec<(String, u64)>, Failure> {
        Ok(Vec::new())
    }

    /// A session for one lane. Called once for each, before the run.
    fn session(&self, lane: usize) -> Result<Box<dyn Session>, Failure>;

    /// Waits until everything put so far has reached the tier where the run wants it, so that a measurement does not pay
    /// for work that is left over from preparing. Default: nothing is ever left over.
    fn settle(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Drops what memory holds of it, so that the next get of every block is answered by the tier below. A target that
    /// has no tier below refuses.
    fn chill(&self) -> Result<(), Failure> {
        Err(format!("{} has no tier below memory, so nothing can be made cold", self.name()).into())
    }

    /// Ends it, and says what went wrong while it ran. Dropping it ends it too.
    fn teardown(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// One lane's way to a target. Calls block.
pub trait Session: Send {
    /// Told before the clock starts what the next puts will carry: a client in another process has it there, as clients in
    /// this one have it here.
    fn prepare(&mut self, _blocks: &[Put]) -> Result<(), Failure> {
        Ok(())
    }

    /// Removes blocks between two measurements. Default: nothing, for a target that makes room by itself.
    fn forget(&mut self, _keys: &[Bytes]) -> Result<(), Failure> {
        Ok(())
    }

    /// Puts blocks of one chain, in order. `parent` is the key of the block before the first; none: the chain begins here.
    /// Every block must be counted in the tally.
    fn put(&mut self, parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure>;

    /// How many blocks are there, from the first one up to the first that is not.
    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure>;

    /// Gets the blocks of a chain from the first up to the first that is not there, and hands every byte of each to the
    /// consumer. Blocks after the first that is missing need not be asked for.
    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure>;
}
