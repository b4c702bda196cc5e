//! The HBM tier as the local path's port.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kvtier_engine::flow::hold::KnownBlock;
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::Slot;
use kvtier_engine::port::TierError;
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove, ImportError, MoveError, MoveProgress, MoveRefused, PartOf};
use kvtier_hbm::gpu::{GpuError, IPC_HANDLE_BYTES, IpcHandle};
use kvtier_hbm::layout::{Direction, KvLayout, Surface};
use kvtier_hbm::pool::{Fresh, Piece, Promotion, Room};
use kvtier_hbm::{HbmTier, HotPool, WorkerMemory};
use kvtier_identity::BlockId;
use kvtier_proto::v1;

use super::domain_pools::DomainPools;
use super::hbm::Found;
use super::opening::Opening;
use crate::local::gpu::{
    FreshBlock, GpuRefusal, Gpus, HotBlock, HotRooms, KvBlock, KvMemory, KvMove, KvProgress, KvWay, MoveFailure,
};

/// The node's GPUs, once they are open.
pub(super) struct NodeGpus {
    /// `hbm.workers`.
    allowed: bool,
    opening: Arc<Opening>,
}

impl NodeGpus {
    pub(super) fn new(allowed: bool, opening: Arc<Opening>) -> Self {
        Self { allowed, opening }
    }

    fn pools(&self) -> Option<&DomainPools> {
        self.opening.outcome()?.as_ref().ok().map(|found| &found.pools)
    }
}

impl Gpus for NodeGpus {
    fn import(&self, request: &v1::ImportGpuMemoryRequest, domain: u16) -> Result<Arc<dyn KvMemory>, GpuRefusal> {
        if !self.allowed {
            return Err(GpuRefusal::Absent("workers may not lend GPU memory: set hbm.workers to true".into()));
        }
        let Found { tier, pools, .. } = match self.opening.outcome() {
            None => {
                let still = GpuRefusal::Busy("the GPUs are still being opened: try again".into());
                return Err(self.opening.late().map_or(still, GpuRefusal::Absent));
            }
            Some(Err(why)) => return Err(GpuRefusal::Absent(format!("there is no GPU to lend memory of: {why}"))),
            Some(Ok(opened)) => opened,
        };
        let handles = handles_of(&request.handles)?;
        let layout = layout_of(request.layout.as_ref())?;
        let gpu = place_of(tier, request)?;
        let memory = WorkerMemory::import(tier, gpu, &handles, layout).map_err(|error| refused(error, request.gpu))?;
        Ok(Arc::new(Lent { tier: tier.clone(), pool: pools.of(domain).cloned(), gpu, memory }))
    }

    fn wish(&self, domain: u16, space: u32, name: &str, blocks: &[BlockId], ttl: Duration) {
        if let Some(pool) = self.pools().and_then(|pools| pools.of(domain))
            && !pool.wish(space, name, blocks, ttl)
        {
            tracing::warn!(name, "too many blocks are wished for in GPU memory; these are kept in host memory only");
        }
    }

    fn unwish(&self, space: u32, name: &str) {
        // Only one of them knows the space.
        self.pools().into_iter().flat_map(DomainPools::all).for_each(|pool| _ = pool.unpin(space, name));
    }

    fn has_pool(&self) -> bool {
        self.pools().is_some_and(|pools| pools.all().next().is_some())
    }
}

fn invalid(field: impl Into<String>, value: impl ToString, remedy: impl Into<String>) -> GpuRefusal {
    GpuRefusal::Invalid { field: field.into(), value: value.to_string(), remedy: remedy.into() }
}

fn handles_of(handles: &[Vec<u8>]) -> Result<Vec<IpcHandle>, GpuRefusal> {
    let read = |(at, bytes): (usize, &Vec<u8>)| {
        let remedy = format!("a handle is the {IPC_HANDLE_BYTES} bytes that cuIpcGetMemHandle wrote");
        let handle = <[u8; IPC_HANDLE_BYTES]>::try_from(&bytes[..]);
        let wrong = |_| invalid(format!("handles[{at}]"), format!("{} bytes long", bytes.len()), remedy);
        handle.map(IpcHandle).map_err(wrong)
    };
    handles.iter().enumerate().map(read).collect()
}

fn layout_of(layout: Option<&v1::GpuLayout>) -> Result<KvLayout, GpuRefusal> {
    let layout = layout.ok_or_else(|| invalid("layout", "absent", "describe how the memory is laid out"))?;
    let (memories, offsets) = (&layout.surface_memories, &layout.surface_offsets);
    if memories.len() != offsets.len() {
        let remedy = format!("there are {} surface_offsets: give each its memory", offsets.len());
        return Err(invalid("layout.surface_memories", format!("{} memories", memories.len()), remedy));
    }
    let surfaces = memories.iter().zip(offsets);
    Ok(KvLayout {
        surfaces: surfaces.map(|(memory, offset)| Surface { memory: *memory, offset: *offset }).collect(),
        surfaces_per_layer: layout.surfaces_per_layer,
        planes: layout.planes,
        tokens: layout.tokens,
        heads: layout.heads,
        head_elements: layout.head_elements,
        element_bytes: layout.element_bytes,
        block_count: layout.block_count,
        block_stride: layout.block_stride,
        plane_stride: layout.plane_stride,
        token_stride: layout.token_stride,
        head_stride: layout.head_stride,
    })
}

/// The GPU a request names.
fn place_of(tier: &HbmTier, request: &v1::ImportGpuMemoryRequest) -> Result<u16, GpuRefusal> {
    if request.gpu_uuid.is_empty() {
        return Ok(u16::try_from(request.gpu).unwrap_or(u16::MAX));
    }
    let unknown = || {
        let remedy = format!("the daemon has {}; see `kvtier status`", tier.uuids().join(", "));
        invalid("gpu_uuid", &request.gpu_uuid, remedy)
    };
    tier.find(&request.gpu_uuid).ok_or_else(unknown)
}

fn refused(error: ImportError, gpu: u32) -> GpuRefusal {
    match error {
        ImportError::NoGpu { count, .. } => {
            invalid("gpu", gpu, format!("the daemon has {count}, numbered from 0; see `kvtier status`"))
        }
        ImportError::HandleCount(count) => {
            invalid("handles", format!("a list of {count}"), "give 1 to 2048, one for each allocation")
        }
        ImportError::Layout(problems) => {
            let field = problems.first().map_or("layout".into(), |first| format!("layout.{}", first.field));
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            invalid(field, "wrong", all.join("; "))
        }
        ImportError::Handle { source: GpuError::Lost(why), .. } => GpuRefusal::Lost(lost(&why)),
        ImportError::Handle { number, source } => {
            let remedy = format!(
                "{source}; is its process alive, on this machine, in the daemon's PID namespace, and of a user the driver lets in?"
            );
            invalid(format!("handles[{number}]"), "not to be opened", remedy)
        }
    }
}

fn lost(why: &str) -> String {
    format!("the GPU is lost ({why}): use host memory, and start the daemon again when it suits")
}

/// A worker's memory and the tier that moves it.
struct Lent {
    tier: HbmTier,
    /// Of the worker's domain.
    pool: Option<Arc<HotPool>>,
    gpu: u16,
    memory: Arc<WorkerMemory>,
}

impl Lent {
    /// The pool, and what of each block this memory has a use for there.
    fn piece(&self, offset: u32) -> Option<(&Arc<HotPool>, Piece)> {
        let gpu = u8::try_from(self.gpu).ok()?;
        Some((self.pool.as_ref()?, Piece { gpu, offset, bytes: self.block_bytes() }))
    }
}

impl KvMemory for Lent {
    fn block_bytes(&self) -> u32 {
        u32::try_from(self.memory.layout().block_bytes()).expect("the layout was validated")
    }

    fn block_count(&self) -> u64 {
        self.memory.layout().block_count
    }

    fn layer_count(&self) -> u32 {
        self.memory.layout().layer_count()
    }

    fn hold_hot(&self, part_offset: u32, blocks: &[KnownBlock]) -> Vec<HotBlock> {
        let Some((pool, piece)) = self.piece(part_offset) else { return Vec::new() };
        let chain: Vec<_> = blocks.iter().map(|known| (known.block, known.length, known.crc)).collect();
        let held = pool.hold(piece, &chain).into_iter();
        held.map(|held| HotBlock { slot: held.slot, crc: held.expect.crc, keep: Box::new(held) }).collect()
    }

    fn wants(&self, part_offset: u32, known: &KnownBlock) -> bool {
        self.piece(part_offset).is_some_and(|(pool, piece)| pool.wants(piece, known.block, known.length))
    }

    fn promote(
        &self,
        part_offset: u32,
        header: SlotHeader,
        space: u32,
        from: Slot,
        keep: Box<dyn Any + Send>,
    ) -> BoxFuture<'static, bool> {
        match self.piece(part_offset) {
            Some((pool, piece)) => {
                let promoted = pool.promote(piece, header, space, from, keep);
                Box::pin(promoted.map(|promotion| !matches!(promotion, Promotion::Corrupt(_))))
            }
            None => Box::pin(std::future::ready(true)),
        }
    }

    fn reserve_hot(&self, chain: Vec<FreshBlock>) -> Option<Box<dyn HotRooms>> {
        let (pool, gpu) = (self.pool.as_ref()?, u8::try_from(self.gpu).ok()?);
        let fresh = |fresh: FreshBlock| {
            let FreshBlock { block, space, key, parent, length } = fresh;
            Fresh { block, space, key, parent, length }
        };
        let rooms = pool.reserve(gpu, chain.into_iter().map(fresh));
        (!rooms.is_empty()).then(|| Box::new(Rooms { pool: Arc::downgrade(pool), rooms }) as Box<dyn HotRooms>)
    }

    fn forget_hot(&self, block: BlockId) {
        if let Some(pool) = &self.pool {
            pool.forget(block);
        }
    }

    fn forget_corrupt(&self, part_offset: u32, known: &KnownBlock) {
        if let Some((pool, piece)) = self.piece(part_offset) {
            pool.forget_corrupt(piece, known.block, (known.length, known.crc));
        }
    }

    fn begin(&self, call: KvMove) -> Result<Arc<dyn KvProgress>, GpuRefusal> {
        let KvMove { way, in_pool, blocks, part: (offset, block_bytes), onward, layers, keep } = call;
        let block = |block: KvBlock| ChainBlock {
            number: block.number,
            place: if in_pool { BlockPlace::Pool(block.slot) } else { BlockPlace::Host(block.slot) },
            expect_crc: block.crc,
        };
        let call = ChainMove {
            direction: match way {
                KvWay::Load => Direction::Scatter,
                KvWay::Save => Direction::Gather,
            },
            blocks: blocks.into_iter().map(block).collect(),
            layers,
            part: Some(PartOf { offset, block_bytes }),
            onward,
            keep,
        };
        match self.memory.begin(&self.tier, call) {
            Ok(progress) => Ok(Arc::new(Moving(progress))),
            Err(MoveRefused::Invalid(why)) => Err(invalid("blocks", "not to be moved", why)),
            Err(MoveRefused::Tier(TierError::Poisoned { cause, .. })) => Err(GpuRefusal::Lost(lost(&cause))),
            Err(MoveRefused::Tier(TierError::Closed)) => Err(GpuRefusal::Lost("the daemon is shutting down".into())),
            Err(MoveRefused::Tier(error)) => Err(GpuRefusal::Busy(format!("the GPU's queue is full: {error}"))),
        }
    }
}

/// Slots of a pool. A job keeps them, so they do not keep the pool.
struct Rooms {
    pool: Weak<HotPool>,
    rooms: Vec<Room>,
}

impl HotRooms for Rooms {
    fn slots(&self) -> Vec<Slot> {
        self.rooms.iter().map(|room| room.slot).collect()
    }

    fn fill(self: Box<Self>, headers: Vec<SlotHeader>) -> BoxFuture<'static, ()> {
        match self.pool.upgrade() {
            Some(pool) => Box::pin(pool.fill(self.rooms.into_iter().zip(headers).collect()).map(drop)),
            None => Box::pin(std::future::ready(())),
        }
    }
}

struct Moving(MoveProgress);

fn told(ended: Result<(), MoveError>) -> Result<(), MoveFailure> {
    ended.map_err(|error| match error {
        MoveError::Corrupt { place } => MoveFailure::Corrupt(place),
        MoveError::Failed(GpuError::Lost(why)) => MoveFailure::Lost(lost(&why)),
        other => MoveFailure::Failed(other.to_string()),
    })
}

impl KvProgress for Moving {
    fn wait(&self, range: usize) -> BoxFuture<'static, Result<(), MoveFailure>> {
        Box::pin(self.0.wait(range).map(told))
    }

    fn wait_end(&self) -> BoxFuture<'static, Result<(), MoveFailure>> {
        Box::pin(self.0.wait_end().map(told))
    }

    fn is_over(&self) -> bool {
        self.0.is_over()
    }

    fn checksums(&self) -> Vec<u32> {
        self.0.checksums()
    }
}
