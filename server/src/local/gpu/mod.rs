//! GPU memory of workers: lent by handle, moved to and from blocks without the worker's help.
//!
//! **Not yet verified on hardware.** What is behind [`Gpus`] is the assembly's: a real GPU or a simulated one.
//!
//! ```text
//!   ImportGpuMemory ─► shelf of the session ─► Load, Save ─► one job each, which holds the memory (INV-8)
//!        connection ends ─► shelf is emptied ─► the memory is closed behind its last job
//!
//!   Load   prospect ─► in the pool? held there ─► the rest, window by window: held in host memory, staged up ─► a job each ─► WaitLoad per range of layers
//!   Save   reserve ─► job gathers into the slots ─► checksummed and committed as Commit does
//!          into the pool: reserve there, too ─► job gathers into the pool, sums on the GPU, copies on ─► committed if the sums agree ─► found in the pool
//! ```
//!
//! # Who may go away when
//!
//! | when | what happens |
//! |---|---|
//! | a worker dies while a load is under way | the job ends by itself; its host blocks are let go of then, not before |
//! | a worker dies while a save is under way | the job ends; nothing is committed, because nobody says that the memory was still the worker's; the slots are free then |
//! | the GPU hangs | its tier is poisoned, whoever waits is told; slots and holds stay with the job until it answers |
//! | the daemon dies | the worker's memory is as it was, or half loaded: it hears so and recomputes |
//!
//! Bounds: [`MEMORIES_MAX`] and [`MOVES_MAX`] per connection, the GPU's own queue, and for saves those of reservations.

mod load;
mod save;
mod shelf;
mod windows;

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kvtier_engine::flow::hold::{KnownBlock, NamedChain};
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::Slot;
use kvtier_identity::{BlockId, Key, SpaceDigest};
use kvtier_proto::v1;
use tonic::Status;

use crate::service::answer::BadField;

pub(crate) use shelf::{MoveCount, Shelf};

/// Memories one connection may have lent.
pub const MEMORIES_MAX: usize = 16;
/// Loads one connection may have begun and not waited for to their end.
pub const MOVES_MAX: usize = 64;
/// Chains longer than this are worked on off the thread that answers everybody.
const TURN_KEYS: usize = 1024;

/// The GPUs of the node, as the local path needs them.
pub trait Gpus: Send + Sync + 'static {
    /// Opens the memory of a worker whose tenant is in this domain. Calls of a driver: may take milliseconds.
    fn import(&self, request: &v1::ImportGpuMemoryRequest, domain: u16) -> Result<Arc<dyn KvMemory>, GpuRefusal>;
    /// Blocks of a domain that somebody has pinned: they are kept in GPU memory from their next load on, until the deadline.
    fn wish(&self, domain: u16, space: u32, name: &str, blocks: &[BlockId], ttl: Duration);
    /// Ends such a wish.
    fn unwish(&self, space: u32, name: &str);
    /// Whether blocks are kept in GPU memory at all.
    fn has_pool(&self) -> bool;
}

/// A worker's memory, opened. Closed when the last one who has it, moves included, lets go of it.
pub trait KvMemory: Send + Sync + 'static {
    /// Canonical bytes of a block, or of this rank's part.
    fn block_bytes(&self) -> u32;
    /// Blocks it holds.
    fn block_count(&self) -> u64;
    /// Its layers.
    fn layer_count(&self) -> u32;
    /// Holds this memory's part of the longest prefix of a chain that is in the pool of its GPU, of the bytes the engine knows.
    /// `part_offset`: where the part begins in the blocks.
    fn hold_hot(&self, part_offset: u32, blocks: &[KnownBlock]) -> Vec<HotBlock>;
    /// Whether the part of a block that was just loaded from the host is worth a place in the pool.
    fn wants(&self, part_offset: u32, known: &KnownBlock) -> bool;
    /// Copies this memory's part of a block to the pool, if there is room; goes on when the future is dropped. `header` is the
    /// whole block's, `keep` holds its host slot. False: the host copy does not verify.
    fn promote(
        &self,
        part_offset: u32,
        header: SlotHeader,
        space: u32,
        from: Slot,
        keep: Box<dyn Any + Send>,
    ) -> BoxFuture<'static, bool>;
    /// Room in the pool for the beginning of a chain that is about to be saved; none: there is none.
    fn reserve_hot(&self, chain: Vec<FreshBlock>) -> Option<Box<dyn HotRooms>>;
    /// A block is not to be in the pool any more.
    fn forget_hot(&self, block: BlockId);
    /// A copy in the pool does not verify: nobody finds it any more.
    fn forget_corrupt(&self, part_offset: u32, known: &KnownBlock);
    /// Begins a move. It goes on whoever goes away.
    fn begin(&self, call: KvMove) -> Result<Arc<dyn KvProgress>, GpuRefusal>;
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvWay {
    /// To the worker.
    Load,
    /// From the worker.
    Save,
}

/// One block of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvBlock {
    /// Its number in the worker's memory.
    pub number: u64,
    /// Its slot in host memory, or in the pool.
    pub slot: Slot,
    /// CRC32 of the whole block, for a load that verifies.
    pub crc: Option<u32>,
}

/// A block in the pool, which stays there until this is dropped.
pub struct HotBlock {
    /// Where.
    pub slot: Slot,
    /// CRC32 of what is there: the block, or the memory's part of it.
    pub crc: u32,
    /// What keeps it.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// A block that is about to be saved.
#[derive(Debug, Clone)]
pub struct FreshBlock {
    /// The block.
    pub block: BlockId,
    /// Its space's number.
    pub space: u32,
    /// The engine's key.
    pub key: Key,
    /// The block before it in its chain.
    pub parent: Option<BlockId>,
    /// Its payload's bytes.
    pub length: u32,
}

impl FreshBlock {
    /// The block at a place of a chain.
    fn of(chain: &NamedChain, at: usize, key: Key, length: u32) -> Self {
        let parent = if at == 0 { chain.parent } else { Some(chain.blocks[at - 1]) };
        Self { block: chain.blocks[at], space: chain.space, key, parent, length }
    }

    /// Its header in the pool, once its checksum is known.
    fn header(self, space: SpaceDigest, crc: u32) -> SlotHeader {
        let Self { block, key, parent, length, .. } = self;
        SlotHeader { block, space, key, parent, length, crc, generation: 0 }
    }
}

/// Slots of the pool for the beginning of a chain. Dropped, they are free again: not while a device may write to them.
pub trait HotRooms: Send {
    /// One for each block.
    fn slots(&self) -> Vec<Slot>;
    /// Lets the first blocks be found, as they have arrived; the others' slots are free. Goes on when the future is dropped.
    fn fill(self: Box<Self>, headers: Vec<SlotHeader>) -> BoxFuture<'static, ()>;
}

/// A move of a chain.
pub struct KvMove {
    /// Which way.
    pub way: KvWay,
    /// Its slots are in the pool.
    pub in_pool: bool,
    /// The chain.
    pub blocks: Vec<KvBlock>,
    /// First byte of this rank's part, and bytes of the whole block.
    pub part: (u32, u32),
    /// Slots in host memory that blocks saved into the pool are copied on to; empty: none.
    pub onward: Vec<Slot>,
    /// Layers in the order in which they shall arrive; empty: all at once.
    pub layers: Vec<Range<u32>>,
    /// Owns the slots. Let go of when the device is done with them.
    pub keep: Box<dyn Any + Send>,
}

/// A move under way.
pub trait KvProgress: Send + Sync + 'static {
    /// Resolves when a range of layers has arrived.
    fn wait(&self, range: usize) -> BoxFuture<'static, Result<(), MoveFailure>>;
    /// Resolves when it is over.
    fn wait_end(&self) -> BoxFuture<'static, Result<(), MoveFailure>>;
    /// Whether it is over.
    fn is_over(&self) -> bool;
    /// After the end of a save into the pool: CRC32 of each block, by the GPU. Otherwise empty.
    fn checksums(&self) -> Vec<u32>;
}

/// Why a GPU was not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuRefusal {
    /// A field of the request, its value, and what would do.
    Invalid {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// The remedy.
        remedy: String,
    },
    /// The settings do not allow it, or there is no GPU.
    Absent(String),
    /// Too much is under way.
    Busy(String),
    /// The GPU is lost until the daemon is started again.
    Lost(String),
}

/// Why a move did not happen, or what was left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveFailure {
    /// The block at this place of the chain does not verify.
    Corrupt(usize),
    /// The GPU is lost until the daemon is started again.
    Lost(String),
    /// This move failed; others may not.
    Failed(String),
}

impl MoveFailure {
    /// As it is told: outcome, place of the block, words.
    fn told(self) -> (v1::MoveOutcome, u32, String) {
        match self {
            Self::Corrupt(index) => {
                let told = format!("block {index} does not verify: nothing of the chain may be used; recompute it");
                (v1::MoveOutcome::Corrupt, index as u32, told)
            }
            Self::Lost(why) => (v1::MoveOutcome::GpuLost, 0, why),
            Self::Failed(why) => (v1::MoveOutcome::Failed, 0, why),
        }
    }
}

impl GpuRefusal {
    /// What a call answers that could not begin: outcome and words, or an error when the request is wrong.
    fn told(self) -> Result<(v1::MoveOutcome, String), Status> {
        match self {
            Self::Busy(why) => Ok((v1::MoveOutcome::Busy, why)),
            Self::Lost(why) => Ok((v1::MoveOutcome::GpuLost, why)),
            other => Err(other.into()),
        }
    }
}

impl From<GpuRefusal> for Status {
    fn from(refusal: GpuRefusal) -> Self {
        match refusal {
            GpuRefusal::Invalid { field, value, remedy } => BadField::new(field, value, remedy).into(),
            GpuRefusal::Absent(why) | GpuRefusal::Lost(why) => Status::failed_precondition(why),
            GpuRefusal::Busy(why) => Status::resource_exhausted(why),
        }
    }
}

/// Checks that there is a number for every key, and that each is a block of the memory.
fn check_numbers(numbers: &[u64], keys: usize, memory: &dyn KvMemory) -> Result<(), BadField> {
    if numbers.len() != keys {
        let remedy = format!("there are {keys} keys: give each the number of its block in the worker's memory");
        return Err(BadField::new("blocks", format!("{} numbers", numbers.len()), remedy));
    }
    let count = memory.block_count();
    match numbers.iter().position(|number| *number >= count) {
        Some(at) => {
            let remedy = format!("the memory was lent with {count} blocks, numbered from 0");
            Err(BadField::new(format!("blocks[{at}]"), numbers[at], remedy))
        }
        None => Ok(()),
    }
}
