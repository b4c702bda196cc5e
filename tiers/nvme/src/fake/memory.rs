//! Host memory in a vector.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::{DeviceGeometry, Memory, Region};

const PAGE: usize = PAGE_BYTES as usize;
const EXTENT_BYTES: u64 = 64 << 10;

/// The bytes. What a region keeps alive, and how [`super::HeapDisk`] finds its way back to them.
pub(crate) struct Heap {
    bytes: Mutex<Vec<u8>>,
}

impl Heap {
    pub(crate) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Safe memory: addresses are offsets, and views are copies that hold their pin.
pub struct HeapMemory {
    heap: Arc<Heap>,
    geometry: DeviceGeometry,
}

impl HeapMemory {
    /// Zeroed memory of at least `bytes` bytes, rounded up to extents of 64 KiB.
    pub fn of_bytes(bytes: u64) -> Self {
        let bytes = bytes.next_multiple_of(EXTENT_BYTES);
        let heap = Arc::new(Heap { bytes: Mutex::new(vec![0; bytes as usize]) });
        Self { heap, geometry: DeviceGeometry { bytes, extent_bytes: EXTENT_BYTES, first_extent_offset: 0 } }
    }

    fn start(&self, slot: Slot) -> usize {
        let end = slot.offset.checked_add(u64::from(slot.bytes));
        assert!(
            slot.device == 0 && end.is_some_and(|end| end <= self.geometry.bytes),
            "{slot:?} lies outside the memory"
        );
        assert!(slot.offset.is_multiple_of(PAGE_BYTES), "{slot:?} is not aligned to pages");
        slot.offset as usize
    }

    fn payload(&self, slot: Slot, offset: u32, bytes: usize) -> std::ops::Range<usize> {
        let start = self.start(slot) + PAGE + offset as usize;
        assert!(offset as usize + bytes <= slot.payload_bytes_max() as usize, "payload lies outside {slot:?}");
        start..start + bytes
    }
}

/// A copy of bytes that keeps its pin.
struct Pinned {
    bytes: Vec<u8>,
    _pin: Box<dyn Any + Send + Sync>,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory for HeapMemory {
    fn geometry(&self) -> Vec<DeviceGeometry> {
        vec![self.geometry]
    }

    fn region(&self, slot: Slot) -> Region {
        let address = self.start(slot);
        Region { address, arena_offset: slot.offset, bytes: slot.bytes, keep: self.heap.clone() }
    }

    fn write(&self, slot: Slot, offset: u32, bytes: &[u8]) -> u32 {
        let range = self.payload(slot, offset, bytes.len());
        self.heap.bytes()[range].copy_from_slice(bytes);
        crc32fast::hash(bytes)
    }

    fn write_header(&self, slot: Slot, header: &[u8]) {
        let start = self.start(slot);
        let page = &mut self.heap.bytes()[start..start + PAGE];
        page.fill(0);
        page[..header.len()].copy_from_slice(header);
    }

    fn read_header(&self, slot: Slot, header: &mut [u8]) {
        let start = self.start(slot);
        header.copy_from_slice(&self.heap.bytes()[start..start + PAGE][..header.len()]);
    }

    fn checksum(&self, slot: Slot, offset: u32, length: u32) -> u32 {
        let range = self.payload(slot, offset, length as usize);
        crc32fast::hash(&self.heap.bytes()[range])
    }

    fn combine(&self, first: u32, second: u32, second_length: u64) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(first);
        hasher.combine(&crc32fast::Hasher::new_with_initial_len(second, second_length));
        hasher.finalize()
    }

    fn view(&self, slot: Slot, offset: u32, length: u32, pin: Box<dyn Any + Send + Sync>) -> Bytes {
        let range = self.payload(slot, offset, length as usize);
        Bytes::from_owner(Pinned { bytes: self.heap.bytes()[range].to_vec(), _pin: pin })
    }
}
