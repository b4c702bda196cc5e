//! Memory a disk takes: 4 KiB-aligned and kept alive by whoever still uses it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::any::Any;
use std::sync::Arc;

use crate::memory::{copy_in, copy_out};
use crate::port::DiskBuffer;
use crate::transfer::ALIGNMENT_BYTES;

/// Large buffers ask for huge pages: a transfer from scattered small pages takes a device one descriptor a page, and a
/// virtual disk whose ring has 256 of them then does one megabyte at a time.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A range of memory offered to a disk for registration, e.g. the host tier's arena.
///
/// Whoever makes one promises that `bytes` bytes from `address` are mapped for as long as `keep` lives.
#[derive(Clone)]
pub struct Arena {
    /// First byte in this process; a multiple of 4 KiB.
    pub address: usize,
    /// Length; a multiple of 4 KiB.
    pub bytes: u64,
    /// Keeps the memory mapped. The disk holds it until its ring is gone (INV-8).
    pub keep: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Zeroed heap memory at a multiple of 4 KiB, for headers, tests and tools.
///
/// Clones share the memory. It may be looked at as a slice only while nothing else holds it, neither a clone nor an
/// operation at a device; copies go at any time.
///
/// ```
/// use kvtier_device::AlignedBuffer;
///
/// let mut buffer = AlignedBuffer::zeroed(8192);
/// buffer.copy_in(4096, b"hello");
/// let at_the_device = buffer.disk_buffer();
/// assert!(buffer.bytes_mut().is_none());
/// drop(at_the_device);
/// assert_eq!(&buffer.bytes_mut().unwrap()[4096..4101], b"hello");
/// ```
#[derive(Clone)]
pub struct AlignedBuffer {
    region: Arc<Region>,
}

struct Region {
    address: usize,
    layout: Layout,
}

impl AlignedBuffer {
    /// Zeroed memory. Panics if `bytes` is 0 or no multiple of 4 KiB.
    pub fn zeroed(bytes: usize) -> Self {
        let aligned = bytes > 0 && bytes.is_multiple_of(ALIGNMENT_BYTES as usize);
        assert!(aligned, "an aligned buffer of {bytes} bytes: not a multiple of {ALIGNMENT_BYTES}");
        let is_large = bytes >= HUGE_PAGE_BYTES;
        let alignment = if is_large { HUGE_PAGE_BYTES } else { ALIGNMENT_BYTES as usize };
        let layout = Layout::from_size_align(bytes, alignment).expect("the alignment is a power of two");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        if is_large {
            // Refused advice does no harm: small pages do as well, at more cost for the device.
            // SAFETY: the range was just allocated, and the advice changes no byte of it.
            let _advised = unsafe { rustix::mm::madvise(start.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
        }
        // SAFETY: the range was just allocated and nobody else knows it.
        unsafe { std::ptr::write_bytes(start, 0, bytes) };
        Self { region: Arc::new(Region { address: start.expose_provenance(), layout }) }
    }

    /// A buffer holding `bytes`, filled up with zeros to a multiple of 4 KiB.
    pub fn holding(bytes: &[u8]) -> Self {
        let buffer = Self::zeroed(bytes.len().max(1).next_multiple_of(ALIGNMENT_BYTES as usize));
        buffer.copy_in(0, bytes);
        buffer
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.region.layout.size()
    }

    /// Copies `bytes` in at `offset`. Panics if they do not fit.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: inside the region, which `self` keeps; no slice of it exists, for that takes `&mut` of the only
        // handle.
        unsafe { copy_in(self.region.address + offset, bytes) };
    }

    /// Copies `bytes` bytes out from `offset`. Panics if there are not so many.
    pub fn copy_out(&self, offset: usize, bytes: usize) -> Vec<u8> {
        self.check(offset, bytes);
        let mut copy = vec![0; bytes];
        // SAFETY: as in `copy_in`.
        unsafe { copy_out(self.region.address + offset, &mut copy) };
        copy
    }

    /// The memory itself, or nothing while a clone or an operation holds it.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let region = Arc::get_mut(&mut self.region)?;
        let start = std::ptr::with_exposed_provenance_mut(region.address);
        // SAFETY: `region` is the only handle, is borrowed for the slice's life, and its bytes are initialised.
        Some(unsafe { std::slice::from_raw_parts_mut(start, region.layout.size()) })
    }

    /// All of it, for a device.
    pub fn disk_buffer(&self) -> DiskBuffer {
        self.part(0, self.size())
    }

    /// A part of it, for a device. Panics if it reaches over the end; that it is aligned the disk checks.
    pub fn part(&self, offset: usize, bytes: usize) -> DiskBuffer {
        self.check(offset, bytes);
        DiskBuffer {
            address: self.region.address + offset,
            bytes: u32::try_from(bytes).expect("a transfer of less than 4 GiB"),
            arena_offset: None,
            keep: Arc::clone(&self.region) as Arc<dyn Any + Send + Sync>,
        }
    }

    /// All of it, to be registered with a disk.
    pub fn arena(&self) -> Arena {
        let keep = Arc::clone(&self.region) as Arc<dyn Any + Send + Sync>;
        Arena { address: self.region.address, bytes: self.size() as u64, keep }
    }

    fn check(&self, offset: usize, bytes: usize) {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.size()), "{bytes} bytes at {offset} of a buffer of {}", self.size());
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuffer").field("bytes", &self.size()).finish()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let start = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: allocated in `zeroed` with this layout, and this is the last handle.
        unsafe { dealloc(start, self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_zeroed() {
        for bytes in [4096, 12_288, (2 << 20) + 4096] {
            let mut buffer = AlignedBuffer::zeroed(bytes);
            assert_eq!(buffer.disk_buffer().address % 4096, 0);
            let content = buffer.bytes_mut().expect("the only handle");
            assert!(content.len() == bytes && content.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_shared_buffer_gives_no_slice() {
        let mut buffer = AlignedBuffer::zeroed(4096);
        let clone = buffer.clone();
        assert!(buffer.bytes_mut().is_none());
        drop(clone);
        assert!(buffer.bytes_mut().is_some());
        let arena = buffer.arena();
        assert!(buffer.bytes_mut().is_none());
        drop(arena);
        assert!(buffer.bytes_mut().is_some());
    }

    #[test]
    fn copies_land_where_they_were_aimed() {
        let mut buffer = AlignedBuffer::holding(&[7; 5000]);
        assert_eq!(buffer.size(), 8192);
        buffer.copy_in(8190, &[1, 2]);
        assert_eq!(buffer.copy_out(4998, 4), [7, 7, 0, 0]);
        assert_eq!(&buffer.bytes_mut().expect("the only handle")[8189..], [0, 1, 2]);
    }

    #[test]
    fn memory_lives_as_long_as_the_device_holds_it() {
        let buffer = AlignedBuffer::holding(b"still here");
        let at_the_device = buffer.part(0, 4096);
        drop(buffer);
        let mut bytes = [0; 10];
        // SAFETY: `at_the_device` keeps the memory.
        unsafe { copy_out(at_the_device.address, &mut bytes) };
        assert_eq!(&bytes, b"still here");
    }

    #[test]
    #[should_panic(expected = "not a multiple of 4096")]
    fn a_size_that_no_device_takes_is_refused() {
        AlignedBuffer::zeroed(4095);
    }

    #[test]
    #[should_panic(expected = "2 bytes at 4095")]
    fn a_copy_over_the_end_is_refused() {
        AlignedBuffer::zeroed(4096).copy_in(4095, &[0; 2]);
    }
}
