//! What a memory's number stands for, and whether a range lies inside it.

use std::collections::BTreeMap;

use crate::gpu::{GpuError, HostMemory, IpcHandle, MemoryId, Place};

/// How a memory came about: decides how it is let go.
pub(super) enum Kind {
    /// Allocated here.
    Device,
    /// Pinned here; its host address.
    Pinned,
    /// Opened; how many numbers share the one opening.
    Imported(IpcHandle),
    /// Registered; kept mapped.
    Host(HostMemory),
}

/// One memory. Its address is the same for the CPU and the GPU where both reach it.
pub(super) struct Stored {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// All memories of one GPU.
#[derive(Default)]
pub(super) struct Memories {
    stored: BTreeMap<MemoryId, Stored>,
    next: u32,
}

impl Memories {
    pub(super) fn add(&mut self, stored: Stored) -> MemoryId {
        self.next += 1;
        let id = MemoryId(self.next);
        self.stored.insert(id, stored);
        id
    }

    pub(super) fn remove(&mut self, memory: MemoryId) -> Result<Stored, GpuError> {
        self.stored.remove(&memory).ok_or_else(|| GpuError::Invalid(format!("there is no memory {}", memory.0)))
    }

    pub(super) fn find(&self, memory: MemoryId) -> Result<&Stored, GpuError> {
        self.stored.get(&memory).ok_or_else(|| GpuError::Invalid(format!("there is no memory {}", memory.0)))
    }

    /// An opening of the same handle, if there is one.
    pub(super) fn opened(&self, handle: &IpcHandle) -> Option<(u64, u64)> {
        let same = |stored: &&Stored| matches!(&stored.kind, Kind::Imported(known) if known == handle);
        self.stored.values().find(same).map(|stored| (stored.address, stored.bytes))
    }

    /// The address of a range that lies inside its memory.
    pub(super) fn address(&self, at: Place, bytes: u64) -> Result<u64, GpuError> {
        let stored = self.find(at.memory)?;
        let inside = at.offset.checked_add(bytes).is_some_and(|end| end <= stored.bytes);
        let (from, memory, size) = (at.offset, at.memory.0, stored.bytes);
        let refused = || GpuError::Invalid(format!("{bytes} bytes from {from} lie outside memory {memory} of {size}"));
        inside.then_some(stored.address + at.offset).ok_or_else(refused)
    }

    /// The same in pinned memory of our own.
    pub(super) fn pinned(&self, at: Place, bytes: u64) -> Result<u64, GpuError> {
        match self.find(at.memory)?.kind {
            Kind::Pinned => self.address(at, bytes),
            _ => Err(GpuError::Invalid(format!("memory {} is not pinned memory of our own", at.memory.0))),
        }
    }
}
