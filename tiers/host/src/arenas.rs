//! The host tier's memory: one arena per security domain, numbered as `Slot::device`.
//!
//! Whoever is given an arena's descriptor can map that arena and nothing else: domains are kept apart by the kernel, not
//! by offsets. Each has its own file, mapping, generation table and lock on its pages. The arenas live and end together.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{DeviceGeometry, Memory, Region};

use crate::arena::{Arena, ArenaError};
use crate::machine;
use crate::settings::ArenaSettings;

/// All arenas of a node. At least one.
#[derive(Debug, Clone)]
pub struct Arenas {
    arenas: Vec<Arc<Arena>>,
}

impl Arenas {
    /// Maps one arena per settings, in this order. Either all of them can be had, or none is kept.
    pub fn create(settings: &[ArenaSettings]) -> Result<Self, ArenaError> {
        assert!(!settings.is_empty(), "a host tier has an arena");
        let bytes = settings.iter().fold(0_u64, |sum, arena| sum.saturating_add(arena.bytes));
        let memory_bytes = machine::memory_bytes();
        if settings.len() > 1 && bytes > memory_bytes {
            return Err(ArenaError::ExceedsMemory { bytes, memory_bytes });
        }
        let arenas = settings.iter().map(|settings| Arena::create(settings).map(Arc::new));
        Ok(Self { arenas: arenas.collect::<Result<_, _>>()? })
    }

    /// The arenas, in the order of their numbers.
    pub fn all(&self) -> &[Arc<Arena>] {
        &self.arenas
    }

    /// The arena a slot lies in, and the slot as that arena knows it.
    fn locate(&self, slot: Slot) -> (&Arena, Slot) {
        let arena = self.arenas.get(usize::from(slot.device));
        let arena = arena.unwrap_or_else(|| panic!("{slot:?} lies in none of {} arenas", self.arenas.len()));
        (arena, Slot { device: 0, ..slot })
    }
}

impl Memory for Arenas {
    fn geometry(&self) -> Vec<DeviceGeometry> {
        self.arenas.iter().flat_map(|arena| arena.geometry()).collect()
    }

    fn region(&self, slot: Slot) -> Region {
        let (arena, slot) = self.locate(slot);
        arena.region(slot)
    }

    fn write(&self, slot: Slot, offset: u32, bytes: &[u8]) -> u32 {
        let (arena, slot) = self.locate(slot);
        arena.write(slot, offset, bytes)
    }

    fn write_header(&self, slot: Slot, header: &[u8]) {
        let (arena, slot) = self.locate(slot);
        arena.write_header(slot, header);
    }

    fn read_header(&self, slot: Slot, header: &mut [u8]) {
        let (arena, slot) = self.locate(slot);
        arena.read_header(slot, header);
    }

    fn checksum(&self, slot: Slot, offset: u32, length: u32) -> u32 {
        let (arena, slot) = self.locate(slot);
        arena.checksum(slot, offset, length)
    }

    fn combine(&self, first: u32, second: u32, second_length: u64) -> u32 {
        self.arenas[0].combine(first, second, second_length)
    }

    fn renew(&self, arena: u16, slot_offset: u64) {
        self.arenas[usize::from(arena)].renew(0, slot_offset);
    }

    fn generation(&self, slot: Slot) -> u64 {
        let (arena, slot) = self.locate(slot);
        arena.generation(slot)
    }

    fn view(&self, slot: Slot, offset: u32, length: u32, pin: Box<dyn Any + Send + Sync>) -> Bytes {
        let (arena, slot) = self.locate(slot);
        arena.view(slot, offset, length, pin)
    }
}
