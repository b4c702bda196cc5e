//! The KV memory of one worker, opened here.

use std::sync::Arc;

use crate::device::Device;
use crate::gpu::{GpuError, IpcHandle, MemoryId, Place};
use crate::layout::{KvLayout, LayoutProblem, Shape};
use crate::tier::HbmTier;

/// Most handles of one import: every layer's K and V in allocations of their own.
const HANDLES_MAX: usize = KvLayout::SURFACES_MAX;

/// Why a worker's memory was not imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// There is no such GPU in the tier.
    #[error("GPU {asked} is not there: the tier has {count}; see `kvtier status` for why")]
    NoGpu {
        /// Asked for.
        asked: u16,
        /// There are.
        count: usize,
    },
    /// Too many handles, or none.
    #[error("{0} handles were given; give 1 to {HANDLES_MAX}")]
    HandleCount(usize),
    /// The layout does not fit the memory.
    #[error("the layout does not hold: {}", list(.0))]
    Layout(Vec<LayoutProblem>),
    /// The driver did not open a handle.
    #[error("handle {number} was not opened: {source}; is its process alive, and on this machine?")]
    Handle {
        /// Its place in the list.
        number: usize,
        /// Why.
        source: GpuError,
    },
}

fn list(problems: &[LayoutProblem]) -> String {
    problems.iter().map(LayoutProblem::to_string).collect::<Vec<_>>().join("; ")
}

/// A worker's KV memory. Closed when the last user, moves under way included, has let go of it (INV-8).
pub struct WorkerMemory {
    pub(super) device: Arc<Device>,
    memories: Vec<MemoryId>,
    pub(super) layout: KvLayout,
    pub(super) shape: Shape,
    pub(super) surfaces: Vec<Place>,
}

impl WorkerMemory {
    /// Opens every handle and checks the layout against what the driver says of each. A worker shares allocations of whole
    /// 2 MiB only: CUDA shares smaller ones together with their neighbours, and states the size of all.
    pub fn import(
        tier: &HbmTier,
        device: u16,
        handles: &[IpcHandle],
        layout: KvLayout,
    ) -> Result<Arc<Self>, ImportError> {
        if !(1..=HANDLES_MAX).contains(&handles.len()) {
            return Err(ImportError::HandleCount(handles.len()));
        }
        let opened = |device: &Arc<Device>, memories: &mut Vec<MemoryId>| {
            let open = |(number, handle)| {
                let imported = device.gpu().import(handle).map_err(|source| ImportError::Handle { number, source })?;
                memories.push(imported.memory);
                Ok(imported.bytes)
            };
            handles.iter().enumerate().map(open).collect()
        };
        Self::build(tier, device, layout, opened)
    }

    /// The same with memory of this process: for checks and benchmarks. It is released with the rest.
    pub fn of_own(tier: &HbmTier, device: u16, bytes: &[u64], layout: KvLayout) -> Result<Arc<Self>, ImportError> {
        let made = |device: &Arc<Device>, memories: &mut Vec<MemoryId>| {
            let make = |(number, bytes): (usize, &u64)| {
                let memory = device.gpu().allocate(*bytes).map_err(|source| ImportError::Handle { number, source })?;
                memories.push(memory);
                Ok(*bytes)
            };
            bytes.iter().enumerate().map(make).collect()
        };
        Self::build(tier, device, layout, made)
    }

    fn build(
        tier: &HbmTier,
        number: u16,
        layout: KvLayout,
        open: impl FnOnce(&Arc<Device>, &mut Vec<MemoryId>) -> Result<Vec<u64>, ImportError>,
    ) -> Result<Arc<Self>, ImportError> {
        let count = tier.device_count();
        let device = tier.device(number).ok_or(ImportError::NoGpu { asked: number, count })?;
        let mut memories = Vec::new();
        let checked =
            open(device, &mut memories).and_then(|sizes| layout.validate(&sizes).map_err(ImportError::Layout));
        if let Err(error) = checked {
            release(device, &memories);
            return Err(error);
        }
        let place = |surface: &crate::layout::Surface| Place {
            memory: memories[surface.memory as usize],
            offset: surface.offset,
        };
        let surfaces = layout.surfaces.iter().map(place).collect();
        let shape = layout.shape();
        Ok(Arc::new(Self { device: Arc::clone(device), memories, layout, shape, surfaces }))
    }

    /// How it is laid out.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// The memories, in the order of the handles.
    pub fn memories(&self) -> &[MemoryId] {
        &self.memories
    }
}

impl std::fmt::Debug for WorkerMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerMemory").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl Drop for WorkerMemory {
    fn drop(&mut self) {
        release(&self.device, &self.memories);
    }
}

fn release(device: &Device, memories: &[MemoryId]) {
    if device.queue.is_hung() {
        // The call might never return; the end of the process closes it.
        return;
    }
    for memory in memories {
        if let Err(error) = device.gpu().release(*memory) {
            tracing::debug!(%error, "a worker's memory was not closed");
        }
    }
}
