//! The host tier's memory: one arena per domain, cut into slots by the catalog.
//!
//! The catalog decides who owns a slot; this port only touches bytes. Whoever calls must own the slot for writing, or
//! hold it pinned for reading (INV-2, INV-4). Offsets are relative to the slot's payload, which begins one page after
//! the slot does. `Slot::device` is the number of the arena.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use super::tier::DeviceGeometry;
use crate::place::Slot;

/// A slot's bytes as a device sees them: header page and payload. Keeps the arena mapped for as long as it lives.
#[derive(Clone)]
pub struct Region {
    /// Address of the header page in this process.
    pub address: usize,
    /// Offset in its arena: a registered buffer is found by the address.
    pub arena_offset: u64,
    /// Bytes from the header page to the end of the slot.
    pub bytes: u32,
    /// Keeps the mapping alive (INV-8).
    pub keep: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("arena_offset", &self.arena_offset).field("bytes", &self.bytes).finish()
    }
}

/// Host memory.
pub trait Memory: Send + Sync + 'static {
    /// One geometry per arena, in the order of `Slot::device`; never empty.
    fn geometry(&self) -> Vec<DeviceGeometry>;
    /// The slot's bytes, for a device. Panics if the slot lies outside its arena.
    fn region(&self, slot: Slot) -> Region;
    /// Copies `bytes` to the payload at `offset` and returns their CRC32, taken from the copy.
    fn write(&self, slot: Slot, offset: u32, bytes: &[u8]) -> u32;
    /// Writes the encoded header to the start of the slot's header page and zeroes the rest of the page.
    fn write_header(&self, slot: Slot, header: &[u8]);
    /// The first bytes of the header page, as written by [`Memory::write_header`] or read from a device.
    fn read_header(&self, slot: Slot, header: &mut [u8]);
    /// CRC32 of `length` payload bytes from `offset`.
    fn checksum(&self, slot: Slot, offset: u32, length: u32) -> u32;
    /// CRC32 of the concatenation of two pieces, from their CRC32s and the second's length.
    fn combine(&self, first: u32, second: u32, second_length: u64) -> u32;
    /// The slot was given back: whoever still reads it without a hold can tell, because its generation has grown. Called
    /// before the slot, or any part of it, is handed out again.
    fn renew(&self, _arena: u16, _slot_offset: u64) {}
    /// How often the slot that begins where this one does was given back. A memory that shares nothing counts nothing.
    fn generation(&self, _slot: Slot) -> u64 {
        0
    }
    /// A view of payload bytes without a copy. `pin` is dropped when the last clone of the view is: it must keep the
    /// slot from being reused.
    fn view(&self, slot: Slot, offset: u32, length: u32, pin: Box<dyn Any + Send + Sync>) -> Bytes;
}
