//! GPU memory: the worker's KV cache lent to the daemon, which moves blocks between it and the cache by itself.
//!
//! **Not yet verified on hardware.** A [`GpuMemory`] belongs to one connection: when that breaks, or the daemon restarts, its
//! calls are refused as lost and the memory is lent again. The daemon closes it behind its last move, whatever becomes of
//! this process; the worker must keep the allocation until [`GpuMemory::release`] has been answered or the connection
//! has ended, and must not write blocks that are being saved or loaded.

use std::sync::Arc;
use std::time::Duration;

use kvtier_proto::local::Method;

use super::attach::Attachment;
use super::chain::pack;
use super::client::{LocalClient, Shared, decoded};
use super::slots::{self, Committed};
use crate::call::Call;
use crate::lookup::check_key;
use crate::{ClientError, Durability, SpaceDigest, why, wire};

const IMPORT: Call = Call::changing("import GPU memory");
const RELEASE: Call = Call::changing("release GPU memory");
const LOAD: Call = Call::reading("load");
const WAIT: Call = Call::reading("wait for a load");
const SAVE: Call = Call::changing("save");

/// Bytes of what cuIpcGetMemHandle writes.
pub const IPC_HANDLE_BYTES: usize = 64;

/// How the worker's KV memory is laid out; see `GpuLayout` in local.proto. Checked by the daemon against what the driver says
/// of each allocation.
pub use crate::wire::GpuLayout;

/// Memory the daemon has opened. Clones are the same; released when the last one is dropped.
#[derive(Debug, Clone)]
pub struct GpuMemory {
    lent: Arc<Lent>,
}

#[derive(Debug)]
struct Lent {
    number: u64,
    block_bytes: u64,
    layers: u32,
    attachment: Arc<Attachment>,
    shared: Arc<Shared>,
}

/// A chain to be loaded.
#[derive(Debug, Clone)]
pub struct LoadChain<'a, K> {
    /// The space.
    pub space: SpaceDigest,
    /// Its keys, first block first.
    pub keys: &'a [K],
    /// The block of the worker's memory that each is loaded into.
    pub blocks: &'a [u64],
    /// Which part of each block is this worker's.
    pub part: u32,
    /// Ends of the ranges of layers that will be waited for, in order; empty: all at once.
    pub layer_ends: &'a [u32],
    /// Verify host copies before they are uploaded.
    pub verify: bool,
    /// Name of the request it is for, for `kvtier why`.
    pub request: Option<&'a str>,
}

/// Which GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuName<'a> {
    /// Its place among the daemon's, from 0.
    Place(u32),
    /// Its UUID, as nvidia-smi or PyTorch shows it: the same in every process, whatever CUDA_VISIBLE_DEVICES says.
    Uuid(&'a str),
}

impl From<u32> for GpuName<'_> {
    fn from(place: u32) -> Self {
        Self::Place(place)
    }
}

impl<'a> From<&'a str> for GpuName<'a> {
    fn from(uuid: &'a str) -> Self {
        Self::Uuid(uuid)
    }
}

/// A chain to be saved.
#[derive(Debug, Clone)]
pub struct SaveChain<'a, K> {
    /// The space.
    pub space: SpaceDigest,
    /// Their keys. Every block comes after the one before it.
    pub keys: &'a [K],
    /// The block of the worker's memory that each is in.
    pub blocks: &'a [u64],
    /// Key of the block before the first; none: it is the first of its chain.
    pub parent: Option<&'a [u8]>,
    /// Which part of each block is this worker's.
    pub part: u32,
    /// When it is answered.
    pub durability: Durability,
    /// Keep the blocks in the daemon's pool in GPU memory, too, as far as there is room: the next load finds them there.
    pub to_pool: bool,
    /// Name of the request it is for, for `kvtier why`.
    pub request: Option<&'a str>,
}

impl<'a, K> LoadChain<'a, K> {
    /// A whole chain, verified, all layers at once.
    pub fn new(space: SpaceDigest, keys: &'a [K], blocks: &'a [u64]) -> Self {
        Self { space, keys, blocks, part: 0, layer_ends: &[], verify: true, request: None }
    }
}

impl<'a, K> SaveChain<'a, K> {
    /// Blocks of one part, volatile, from the beginning of a chain.
    pub fn new(space: SpaceDigest, keys: &'a [K], blocks: &'a [u64]) -> Self {
        Self {
            space,
            keys,
            blocks,
            parent: None,
            part: 0,
            durability: Durability::Volatile,
            to_pool: false,
            request: None,
        }
    }
}

/// Why bytes did not move. A value, not an error: recompute, or take the host path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotMoved {
    /// A block does not verify: nothing of the chain may be used.
    Corrupt {
        /// Its place in the chain.
        index: u32,
    },
    /// The GPU's tier is poisoned until the daemon is started again; the host path goes on.
    GpuLost(String),
    /// Too much is under way: try again.
    Busy(String),
    /// This move only.
    Failed(String),
}

impl NotMoved {
    fn read(outcome: i32, index: u32, detail: String, call: Call) -> Result<Option<Self>, ClientError> {
        use wire::MoveOutcome as Outcome;
        Ok(match Outcome::try_from(outcome) {
            Ok(Outcome::Done) => None,
            Ok(Outcome::Corrupt) => Some(Self::Corrupt { index }),
            Ok(Outcome::GpuLost) => Some(Self::GpuLost(detail)),
            Ok(Outcome::Busy) => Some(Self::Busy(detail)),
            Ok(Outcome::Failed) => Some(Self::Failed(detail)),
            Err(_) => return Err(ClientError::protocol(call.name, format!("outcome {outcome} is unknown"))),
        })
    }
}

impl std::fmt::Display for NotMoved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Corrupt { index } => write!(f, "block {index} does not verify: recompute it"),
            Self::GpuLost(why) | Self::Busy(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A load under way. Dropping it lets it go on, and forgets how it ends.
#[derive(Debug)]
pub struct Loading {
    number: u64,
    blocks: u32,
    /// Of the blocks, those that come from the daemon's pool in GPU memory.
    pub from_pool: u32,
    /// Why the block after the last one is missing; absent when the whole chain is loaded.
    pub miss: Option<wire::Miss>,
    /// Why nothing moves although blocks are there.
    pub refused: Option<NotMoved>,
    lent: Arc<Lent>,
}

impl LocalClient {
    /// Lends KV memory on a GPU to the daemon, by the handles of its allocations.
    pub fn import_gpu_memory<'a>(
        &self,
        gpu: impl Into<GpuName<'a>>,
        handles: &[[u8; IPC_HANDLE_BYTES]],
        layout: &GpuLayout,
    ) -> Result<GpuMemory, ClientError> {
        let handles = handles.iter().map(|handle| handle.to_vec()).collect();
        let (gpu, gpu_uuid) = match gpu.into() {
            GpuName::Place(place) => (place, String::new()),
            GpuName::Uuid(uuid) => (0, uuid.to_owned()),
        };
        let request = wire::ImportGpuMemoryRequest { gpu, handles, layout: Some(layout.clone()), gpu_uuid };
        let shared = self.shared();
        let timeout = shared.options.wait_timeout;
        let (line, message) = shared.ask(IMPORT, Method::ImportGpuMemory, &request, timeout)?;
        let answer: wire::ImportGpuMemoryResponse = decoded(IMPORT, &message)?;
        let (attachment, shared) = (Arc::clone(line.attachment()), Arc::clone(shared));
        let wire::ImportGpuMemoryResponse { memory: number, block_bytes, layers } = answer;
        Ok(GpuMemory { lent: Arc::new(Lent { number, block_bytes, layers, attachment, shared }) })
    }
}

impl GpuMemory {
    /// Bytes of a block, or of this rank's part of it.
    pub fn block_bytes(&self) -> u64 {
        self.lent.block_bytes
    }

    /// Layers.
    pub fn layer_count(&self) -> u32 {
        self.lent.layers
    }

    /// Loads the longest resident prefix of a chain: what is in memory at once, what is on NVMe as it comes up. Answered when
    /// the last block is on its way.
    pub fn load<K: AsRef<[u8]>>(&self, wanted: &LoadChain<'_, K>) -> Result<Loading, ClientError> {
        let (keys, key_bytes, key_lengths) = pack(wanted.keys)?;
        let request = wire::LoadRequest {
            memory: self.lent.number,
            space: wanted.space.0.to_vec(),
            keys,
            key_bytes,
            key_lengths,
            blocks: wanted.blocks.to_vec(),
            part: wanted.part,
            layer_ends: wanted.layer_ends.to_vec(),
            unverified: !wanted.verify,
            request: why::name(wanted.request)?,
        };
        let message = self.lent.ask(LOAD, Method::Load, &request, self.lent.shared.options.wait_timeout)?;
        let answer: wire::LoadResponse = decoded(LOAD, &message)?;
        let refused = NotMoved::read(answer.outcome, 0, answer.detail, LOAD)?;
        if answer.blocks as usize > wanted.keys.len() || (answer.blocks > 0) != (answer.load != 0) {
            return Err(ClientError::protocol("load", format!("{} blocks of {}", answer.blocks, wanted.keys.len())));
        }
        let wire::LoadResponse { load: number, blocks, from_pool, miss, .. } = answer;
        Ok(Loading { number, blocks, from_pool, miss, refused, lent: Arc::clone(&self.lent) })
    }

    /// Copies blocks of the worker's memory into the cache and waits until they are visible, or durable if that was asked
    /// for. One answer per block, as from a commit. The daemon reads on a stream of its own: synchronize the one that has
    /// written the blocks before.
    pub fn save<K: AsRef<[u8]>>(
        &self,
        wanted: &SaveChain<'_, K>,
    ) -> Result<Result<Vec<Committed>, NotMoved>, ClientError> {
        let (keys, key_bytes, key_lengths) = pack(wanted.keys)?;
        if let Some(parent) = wanted.parent {
            check_key("parent", parent)?;
        }
        let request = wire::SaveRequest {
            memory: self.lent.number,
            space: wanted.space.0.to_vec(),
            keys,
            key_bytes,
            key_lengths,
            parent: wanted.parent.map(<[u8]>::to_vec),
            part: wanted.part,
            blocks: wanted.blocks.to_vec(),
            durability: wanted.durability.into(),
            request: why::name(wanted.request)?,
            to_pool: wanted.to_pool,
        };
        let message = self.lent.ask(SAVE, Method::Save, &request, self.lent.shared.options.wait_timeout)?;
        let wire::SaveResponse { outcomes, crc32, refusals, outcome, detail } = decoded(SAVE, &message)?;
        if let Some(why) = NotMoved::read(outcome, 0, detail, SAVE)? {
            return Ok(Err(why));
        }
        let committed = wire::CommitResponse { outcomes, crc32, refusals };
        slots::read_committed(committed, wanted.keys.len()).map(Ok)
    }

    /// Takes the memory back and waits until the daemon has closed it, unless moves are under way: it is closed behind
    /// them, and until then the allocation must stay.
    pub fn release(self) -> Result<(), ClientError> {
        let request = wire::ReleaseGpuMemoryRequest { memory: self.lent.number };
        let timeout = self.lent.shared.options.call_timeout;
        self.lent.ask(RELEASE, Method::ReleaseGpuMemory, &request, timeout).map(drop)
    }
}

impl Lent {
    fn ask(
        &self,
        call: Call,
        method: Method,
        request: &impl prost::Message,
        timeout: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        let line = self.shared.line()?;
        if line.attachment().name != self.attachment.name {
            return Err(self
                .shared
                .unavailable("what was lent was lost with its connection: lend it again".to_owned()));
        }
        self.shared.ask_on(&line, call, method, request, timeout)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shared.release_gpu(self.attachment.name, self.number);
    }
}

impl Loading {
    /// How many of the chain's first blocks are loaded.
    pub fn len(&self) -> usize {
        self.blocks as usize
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// Waits until a range of layers, and all before it, have arrived; or why they will not.
    pub fn wait(&self, range: u32) -> Result<Result<(), NotMoved>, ClientError> {
        self.ask(Some(range))
    }

    /// Waits for the end. Nothing is moved after it, whatever it says.
    pub fn finish(mut self) -> Result<Result<(), NotMoved>, ClientError> {
        let ended = self.ask(None);
        self.number = 0;
        ended
    }

    fn ask(&self, range: Option<u32>) -> Result<Result<(), NotMoved>, ClientError> {
        if let Some(why) = &self.refused {
            return Ok(Err(why.clone()));
        }
        if self.number == 0 {
            return Ok(Ok(()));
        }
        let request = wire::WaitLoadRequest { load: self.number, range };
        let message = self.lent.ask(WAIT, Method::WaitLoad, &request, self.lent.shared.options.wait_timeout)?;
        let wire::WaitLoadResponse { outcome, index, detail } = decoded(WAIT, &message)?;
        Ok(NotMoved::read(outcome, index, detail, WAIT)?.map_or(Ok(()), Err))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if self.number != 0 {
            self.lent.shared.forget_load(self.lent.attachment.name, self.number);
        }
    }
}
