//! The pages themselves: the only unsafe code of the crate.
//!
//! Safety rests on two things. *Bounds*: every access asserts that its range lies in the mapping. *Aliasing*: the
//! catalog gives each byte of a slot one writer or any number of readers at a time (INV-2, INV-4); the callers of the
//! `Memory` port promise to hold what they touch. The mapping lives as long as this value, and every borrowed slice
//! borrows it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags};

use crate::settings::HUGE_PAGE_BYTES;

/// Tells the kernel to put 2 MiB of small pages into one huge page now. Linux 6.1 and newer for shared memory; `libc` and
/// `rustix` do not name it yet.
const MADV_COLLAPSE: libc::c_int = 25;

/// A shared, writable mapping of a whole sealed file, at a multiple of 2 MiB if it is that large: a huge page has room
/// only where address and file agree.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
    /// Addresses taken, the mapping among them.
    reserved: NonNull<c_void>,
    reserved_bytes: usize,
}

// SAFETY: the mapping is plain memory of the process, bound to no thread.
unsafe impl Send for Mapping {}
// SAFETY: shared access follows the aliasing rule above, which the catalog upholds across threads.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all `bytes` of `file`, a file of small pages.
    pub(crate) fn of_file(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        let huge = HUGE_PAGE_BYTES as usize;
        let alignment = if bytes >= huge { huge } else { 1 };
        let reserved_bytes = bytes.checked_add(alignment).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_bytes, ProtFlags::empty(), MapFlags::PRIVATE)
        }?;
        let skip = reserved.expose_provenance().next_multiple_of(alignment) - reserved.addr();
        // SAFETY: `skip` is less than the alignment by which the reservation is larger than the mapping.
        let place = unsafe { reserved.byte_add(skip) };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // If this fails the reservation is left alone: the kernel may have made a hole of it, and somebody else's memory
        // may lie there by now.
        // SAFETY: it replaces a part of the reservation just made, which nobody else knows.
        let start = unsafe { rustix::mm::mmap(place, bytes, ACCESS, flags, &file, 0) }?;
        Ok(Self { start: not_null(start)?.cast(), bytes, file, reserved: not_null(reserved)?, reserved_bytes })
    }

    /// Maps all `bytes` of `file`, a file of reserved huge pages, which the kernel aligns by itself.
    pub(crate) fn of_huge_file(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, ACCESS, MapFlags::SHARED, &file, 0) }?;
        let start = not_null(start)?;
        Ok(Self { start: start.cast(), bytes, file, reserved: start, reserved_bytes: bytes })
    }

    /// Address of the first byte.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr().expose_provenance()
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `from` to `at`. The caller is the range's only user.
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        let into = self.pointer(at, from.len());
        // SAFETY: the range was asserted to lie in the mapping; by the aliasing rule nobody else uses it, so `from`
        // does not overlap it either.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) }
    }

    /// Fills `into` from `at`. Nobody writes the range meanwhile.
    pub(crate) fn copy_out(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(self.slice(at, into.len()));
    }

    /// Zeroes `bytes` bytes from `at`. The caller is the range's only user.
    pub(crate) fn zero(&self, at: usize, bytes: usize) {
        let into = self.pointer(at, bytes);
        // SAFETY: the range was asserted to lie in the mapping and, by the aliasing rule, has no other user.
        unsafe { ptr::write_bytes(into, 0, bytes) }
    }

    /// `bytes` bytes from `at`. Nobody writes them while the slice lives: its user holds the slot for reading.
    pub(crate) fn slice(&self, at: usize, bytes: usize) -> &[u8] {
        let from = self.pointer(at, bytes);
        // SAFETY: the range was asserted to lie in the mapping, which outlives the borrow; pages of a memfd are
        // initialised (zero); by the aliasing rule nobody writes them while a reader holds the slot.
        unsafe { std::slice::from_raw_parts(from, bytes) }
    }

    /// Gives the kernel advice for the whole mapping.
    pub(crate) fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(0, self.bytes, advice)
    }

    /// Touches the pages of a range for writing, without changing a byte; safe while others use them.
    pub(crate) fn populate(&self, at: usize, bytes: usize) -> io::Result<()> {
        match self.advise_range(at, bytes, Advice::LinuxPopulateWrite) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.allocate(at, bytes),
            other => other,
        }
    }

    /// Puts every whole 2 MiB of a range into a huge page and maps it as one; changes no byte and is safe while others
    /// use them. Each must have a page already. An error tells about at least one of them, others may have been done.
    pub(crate) fn collapse(&self, at: usize, bytes: usize) -> io::Result<()> {
        let from = self.pointer(at, bytes).cast::<c_void>();
        // SAFETY: the range lies in this mapping, and collapsing keeps its bytes.
        match unsafe { libc::madvise(from, bytes, MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Locks each page once it has been touched.
    pub(crate) fn lock_on_fault(&self) -> io::Result<()> {
        // SAFETY: locking changes no byte and the range is exactly this mapping.
        unsafe { rustix::mm::mlock_with(self.start.as_ptr().cast(), self.bytes, MlockFlags::ONFAULT) }?;
        Ok(())
    }

    /// For kernels before 5.14: gives the file its pages; mapping them is left to the first touch.
    fn allocate(&self, at: usize, bytes: usize) -> io::Result<()> {
        let _ = self.pointer(at, bytes);
        rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), at as u64, bytes as u64)?;
        Ok(())
    }

    /// Only for advice that changes no byte.
    fn advise_range(&self, at: usize, bytes: usize, advice: Advice) -> io::Result<()> {
        let from = self.pointer(at, bytes).cast::<c_void>();
        assert!(harmless(advice), "{advice:?} could change bytes");
        // SAFETY: the range lies in this mapping and the advice was asserted to keep its bytes.
        unsafe { rustix::mm::madvise(from, bytes, advice) }?;
        Ok(())
    }

    fn pointer(&self, at: usize, bytes: usize) -> *mut u8 {
        let end = at.checked_add(bytes).expect("a range of memory does not wrap");
        assert!(end <= self.bytes, "bytes {at}..{end} lie outside the arena of {} bytes", self.bytes);
        // SAFETY: `at` is at most the mapping's size, which is one allocation.
        unsafe { self.start.as_ptr().add(at) }
    }
}

const ACCESS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn not_null(address: *mut c_void) -> io::Result<NonNull<c_void>> {
    NonNull::new(address).ok_or_else(|| io::Error::other("mapped at address zero"))
}

fn harmless(advice: Advice) -> bool {
    matches!(advice, Advice::LinuxPopulateWrite | Advice::LinuxHugepage | Advice::LinuxDontDump)
}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: views and regions hold a reference to this value, so none is left (INV-8).
        let unmapped = unsafe { rustix::mm::munmap(self.reserved.as_ptr(), self.reserved_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::fs::MemfdFlags;

    use super::*;

    #[test]
    fn the_mapping_checks_bounds_whatever_the_arena_has_checked() {
        let file = rustix::fs::memfd_create("kvtier-host-test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        let mapping = Mapping::of_file(file, 8192).unwrap();
        assert!(mapping.slice(0, 8192).iter().all(|&byte| byte == 0));
        assert!(mapping.slice(8192, 0).is_empty());
        let refuses = |act: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(act)).is_err());
        for (at, bytes) in [(0, 8193), (8192, 1), (usize::MAX, 2), (1, usize::MAX)] {
            refuses(&|| _ = mapping.slice(at, bytes));
            refuses(&|| mapping.zero(at, bytes));
            refuses(&|| _ = mapping.populate(at, bytes));
        }
        refuses(&|| mapping.copy_in(8190, b"abc"));
        refuses(&|| mapping.copy_out(8190, &mut [0; 3]));
        refuses(&|| _ = mapping.advise(Advice::DontNeed));
    }
}
