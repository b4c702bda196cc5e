//! One GPU of the tier: its queue, its pool and the host arenas it reaches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_engine::port::{DeviceGeometry, DeviceHealth, DeviceState, TierError};

use crate::gpu::{Gpu, GpuError, HostMemory, MemoryId, Place};
use crate::queue::{Queue, Refused};
use crate::settings::HbmSettings;
use crate::ways::CopiedFrom;

/// A GPU the tier works with. Pool and arenas are let go when the last operation is.
pub(crate) struct Device {
    pub(crate) number: u16,
    pub(crate) queue: Arc<Queue>,
    pool: Option<MemoryId>,
    pub(crate) geometry: DeviceGeometry,
    arenas: Vec<MemoryId>,
    copied_from: [AtomicU64; 2],
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

impl Device {
    /// Takes the pool and registers the arenas. An error gives back what was taken.
    pub(crate) fn open(
        gpu: Arc<dyn Gpu>,
        number: u16,
        settings: &HbmSettings,
        arenas: &[HostMemory],
    ) -> Result<Self, GpuError> {
        let queue = Arc::new(Queue::new(Arc::clone(&gpu), settings.queue_operations)?);
        let bytes = settings.pool_bytes(gpu.properties().total_bytes);
        let mut device = Self {
            number,
            queue,
            pool: None,
            geometry: DeviceGeometry { bytes, extent_bytes: settings.extent_bytes, first_extent_offset: 0 },
            arenas: Vec::with_capacity(arenas.len()),
            copied_from: [settings.copied_from.load, settings.copied_from.save].map(AtomicU64::new),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        };
        if bytes > 0 {
            device.pool = Some(gpu.allocate(bytes)?);
        }
        for arena in arenas {
            device.arenas.push(gpu.register(arena.clone())?);
        }
        Ok(device)
    }

    pub(crate) fn copied_from(&self) -> CopiedFrom {
        let [load, save] = [0, 1].map(|at| self.copied_from[at].load(Ordering::Relaxed));
        CopiedFrom { load, save }
    }

    /// For moves that begin from now on.
    pub(crate) fn set_copied_from(&self, from: CopiedFrom) {
        self.copied_from[0].store(from.load, Ordering::Relaxed);
        self.copied_from[1].store(from.save, Ordering::Relaxed);
    }

    pub(crate) fn gpu(&self) -> &Arc<dyn Gpu> {
        self.queue.gpu()
    }

    /// The header page of a slot of the pool; why not, if no block of that length can be there.
    pub(crate) fn pool_place(&self, slot: Slot, length: u32) -> Result<Place, &'static str> {
        let memory = self.pool.ok_or("the GPU has no pool")?;
        let end = slot.offset.checked_add(u64::from(slot.bytes));
        if end.is_none_or(|end| end > self.geometry.bytes) {
            Err("slot lies outside the pool")
        } else if !slot.offset.is_multiple_of(PAGE_BYTES) || !u64::from(slot.bytes).is_multiple_of(PAGE_BYTES) {
            Err("slot is not aligned to pages")
        } else if length == 0
            || u64::from(length) + PAGE_BYTES > u64::from(slot.bytes)
            || slot_bytes(length) > slot.bytes
        {
            Err("slot is too small for the block")
        } else {
            Ok(Place { memory, offset: slot.offset })
        }
    }

    /// The header page of a slot of a host arena.
    pub(crate) fn host_place(&self, slot: Slot) -> Result<Place, TierError> {
        let memory = self.arenas.get(usize::from(slot.device));
        let memory = memory.ok_or_else(|| TierError::Io(format!("arena {} is not known to the GPU", slot.device)))?;
        Ok(Place { memory: *memory, offset: slot.offset })
    }

    pub(crate) fn pool_memory(&self) -> Option<MemoryId> {
        self.pool
    }

    pub(crate) fn error_of(&self, error: &GpuError) -> TierError {
        match error {
            GpuError::Lost(cause) => TierError::Poisoned { device: self.number, cause: cause.clone() },
            other => TierError::Io(other.to_string()),
        }
    }

    pub(crate) fn refusal_of(&self, refused: &Refused) -> TierError {
        match refused {
            Refused::Busy => TierError::Busy,
            Refused::Closed => TierError::Closed,
            Refused::Poisoned(cause) => TierError::Poisoned { device: self.number, cause: cause.clone() },
        }
    }

    pub(crate) fn health(&self) -> DeviceHealth {
        let (properties, poison) = (self.gpu().properties(), self.queue.poison());
        let (in_flight_count, queued_count) = self.queue.counts();
        let named = format!("{} ({}), pool of {} MiB", properties.name, properties.uuid, self.geometry.bytes >> 20);
        DeviceHealth {
            state: if poison.is_some() { DeviceState::Poisoned } else { DeviceState::Up },
            detail: poison.map_or(named.clone(), |cause| format!("{named}; poisoned: {cause}; restart the daemon")),
            in_flight_count,
            queued_count,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.queue.is_hung() {
            return;
        }
        // Operations hold the device, so none is under way (INV-8).
        for memory in self.arenas.drain(..).chain(self.pool.take()) {
            if let Err(error) = self.queue.gpu().release(memory) {
                tracing::debug!(%error, "memory of a GPU was not released");
            }
        }
    }
}
