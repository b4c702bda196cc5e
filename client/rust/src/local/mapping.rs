//! The daemon's memory in this process: the only unsafe code of the crate.
//!
//! Safety rests on three things. *Bounds*: every range is checked against the mapping, whose file the daemon has sealed
//! against shrinking, so no access can fault. *Life*: whoever hands out a slice keeps the mapping alive. *Values*: bytes of
//! a block may change under a reader who has outlived its lease, as with any file that is mapped; no length, pointer or
//! enum is ever read from them, and [`super::Acquired::is_intact`] tells.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Where the kernel can map a huge page of the file as one: addresses and offsets agree below this.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A shared mapping of a whole file of the daemon.
///
/// It begins at a multiple of 2 MiB. The daemon makes huge pages of its memory, and only a mapping that lies like the file
/// gets them as such: one fault and one entry of the page tables for 2 MiB instead of 512.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    writable: bool,
    /// Addresses taken, the mapping among them.
    reserved: NonNull<c_void>,
    reserved_bytes: usize,
}

// SAFETY: the mapping is plain memory of the process, bound to no thread.
unsafe impl Send for Mapping {}
// SAFETY: shared access only reads; exclusive ranges are handed out once, as `Region`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `file`. The descriptor is not needed afterwards.
    pub(super) fn of_file(file: &OwnedFd, bytes: u64, writable: bool) -> io::Result<Self> {
        let found = rustix::fs::fstat(file)?.st_size;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0 && found >= *bytes as i64);
        let Some(bytes) = bytes else {
            return Err(io::Error::other(format!("the daemon announced more than the {found} bytes it shares")));
        };
        let access = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let alignment = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { 1 };
        let reserved_bytes = bytes.checked_add(alignment).ok_or(io::ErrorKind::InvalidInput)?;
        let nothing = ProtFlags::empty();
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_bytes, nothing, MapFlags::PRIVATE) };
        let reserved = reserved?;
        let skip = reserved.expose_provenance().next_multiple_of(alignment) - reserved.addr();
        // SAFETY: `skip` is less than the alignment by which the reservation is larger than the mapping.
        let place = unsafe { reserved.byte_add(skip) };
        // If this fails the reservation is left alone: the kernel may have made a hole of it already.
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: it replaces a part of the reservation just made, which nobody else knows.
        let start = unsafe { rustix::mm::mmap(place, bytes, access, flags, file, 0) }?;
        let at_zero = || io::Error::other("mapped at address zero");
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(at_zero)?;
        let reserved = NonNull::new(reserved).ok_or_else(at_zero)?;
        let mapping = Self { start, bytes, writable, reserved, reserved_bytes };
        if writable {
            // A forked child could write slots after the daemon has seen this process end.
            // SAFETY: the advice changes no byte, and the range is exactly this mapping.
            unsafe { rustix::mm::madvise(mapping.start.as_ptr().cast(), bytes, Advice::LinuxDontFork) }?;
        }
        Ok(mapping)
    }

    /// Whether a range lies inside.
    pub(super) fn contains(&self, at: u64, length: u32) -> bool {
        at.checked_add(u64::from(length)).is_some_and(|end| end <= self.bytes as u64)
    }

    /// `length` bytes from `at`, which was checked with [`Mapping::contains`].
    pub(super) fn slice(&self, at: u64, length: u32) -> &[u8] {
        let from = self.pointer(at, length);
        // SAFETY: the range lies in the mapping, which outlives the borrow, and is initialised. That the daemon may
        // write it once the lease has ended is the caller's to check; see the module.
        unsafe { std::slice::from_raw_parts(from, length as usize) }
    }

    /// The 64-bit counter at `index`.
    pub(super) fn counter(&self, index: u64) -> Option<u64> {
        let at = index.checked_mul(8).filter(|at| self.contains(*at, 8))?;
        let entry = self.pointer(at, 8).cast::<AtomicU64>();
        // SAFETY: the entry lies in the mapping, which is aligned to pages, and is only ever accessed atomically. A
        // 64-bit atomic load writes nothing on the platforms kvtier runs on, so a read-only page will do.
        let entry = unsafe { &*entry };
        Some(entry.load(Ordering::Acquire))
    }

    fn pointer(&self, at: u64, length: u32) -> *mut u8 {
        assert!(self.contains(at, length), "bytes {at} and {length} more lie outside {} mapped bytes", self.bytes);
        // SAFETY: `at` is at most the mapping's size, which is one allocation.
        unsafe { self.start.as_ptr().add(at as usize) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: every slice borrows this value, and regions hold a reference to it, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.reserved.as_ptr(), self.reserved_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// A range that only its owner writes.
#[derive(Debug)]
pub(super) struct Region {
    mapping: Arc<Mapping>,
    at: u64,
    length: u32,
}

impl Region {
    /// A range the daemon has given to this client alone, until it is committed or given up. `None`: it does not lie in
    /// the mapping, or may not be written.
    pub(super) fn exclusive(mapping: &Arc<Mapping>, at: u64, length: u32) -> Option<Self> {
        (mapping.writable && mapping.contains(at, length)).then(|| Self { mapping: Arc::clone(mapping), at, length })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.mapping.slice(self.at, self.length)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let into = self.mapping.pointer(self.at, self.length);
        // SAFETY: the range lies in the mapping, which this value keeps alive; the daemon hands each range out once, and
        // `self` is borrowed exclusively, so there is no other reference to it in this process.
        unsafe { std::slice::from_raw_parts_mut(into, self.length as usize) }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::fs::MemfdFlags;

    use super::*;

    fn file(bytes: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("kvtier-client-test", MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&file, bytes).expect("its size");
        file
    }

    #[test]
    fn nothing_outside_a_mapping_can_be_reached() {
        let mapping = Arc::new(Mapping::of_file(&file(8192), 8192, true).expect("mapped"));
        for (at, length) in [(0, 8193), (8192, 1), (u64::MAX, 2), (8000, u32::MAX)] {
            assert!(!mapping.contains(at, length));
            assert!(Region::exclusive(&mapping, at, length).is_none());
            assert!(catch_unwind(AssertUnwindSafe(|| _ = mapping.slice(at, length))).is_err());
        }
        assert_eq!(mapping.counter(1023), Some(0));
        assert_eq!(mapping.counter(1024), None);
        assert_eq!(mapping.counter(u64::MAX / 2), None);
    }

    #[test]
    fn a_mapping_lies_as_its_file_does_so_that_huge_pages_stay_whole() {
        for bytes in [2 << 20, 6 << 20] {
            // Twice, so that the second one does not find a fitting address by chance.
            let mappings = [(); 2].map(|()| Mapping::of_file(&file(bytes + 4096), bytes, true).expect("mapped"));
            for mapping in mappings {
                assert_eq!(mapping.start.addr().get() % HUGE_PAGE_BYTES, 0);
            }
        }
    }

    #[test]
    fn a_file_smaller_than_announced_is_not_mapped() {
        assert!(Mapping::of_file(&file(4096), 8192, false).is_err());
        assert!(Mapping::of_file(&file(4096), 0, false).is_err());
    }

    #[test]
    fn what_is_written_to_a_region_is_seen_and_a_reader_gets_none() {
        let file = file(8192);
        let writer = Arc::new(Mapping::of_file(&file, 8192, true).expect("mapped"));
        let reader = Arc::new(Mapping::of_file(&file, 8192, false).expect("mapped"));
        let mut region = Region::exclusive(&writer, 100, 5).expect("inside");
        region.bytes_mut().copy_from_slice(b"bytes");
        assert_eq!(reader.slice(100, 5), b"bytes");
        assert!(Region::exclusive(&reader, 100, 5).is_none());
    }
}
