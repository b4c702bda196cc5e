//! The generation table: how a reader of shared memory can tell that a slot is another block's by now.
//!
//! One counter per arena page, of which the one of a slot's first page counts how often that slot was given back. Only
//! this process can write it: after it was mapped here, the file is sealed against every further writer. Readers map it
//! read-only, note the counter with the offset they were given, and compare it after they have used the bytes.
//!
//! The catalog's rule makes one counter per slot enough: bytes of a slot are touched by another owner only after the slot
//! itself was given back, whatever sizes the extent is cut into later.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use kvtier_engine::place::PAGE_BYTES;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of one counter.
pub const ENTRY_BYTES: u64 = 8;

/// The counters. Pages of the table that no used slot falls into are never touched, so they cost no memory.
pub(crate) struct Generations {
    start: NonNull<AtomicU64>,
    count: usize,
    file: OwnedFd,
}

// SAFETY: the mapping is plain memory of the process, bound to no thread.
unsafe impl Send for Generations {}
// SAFETY: it is only accessed through atomics.
unsafe impl Sync for Generations {}

impl Generations {
    /// A table of zeros for an arena of this size.
    pub(crate) fn of_arena(arena_bytes: u64) -> io::Result<Self> {
        let count = usize::try_from(arena_bytes / PAGE_BYTES).expect("an arena fits the address space");
        let bytes = count as u64 * ENTRY_BYTES;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match rustix::fs::memfd_create("kvtier-generations", flags | MemfdFlags::NOEXEC_SEAL) {
            // Kernels before 6.3 do not know the flag.
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("kvtier-generations", flags)?,
            other => other?,
        };
        rustix::fs::ftruncate(&file, bytes)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes as usize, access, MapFlags::SHARED, &file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        let table = Self { start, count, file };
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&table.file, seals)?;
        Ok(table)
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.count as u64 * ENTRY_BYTES
    }

    /// The counter of the slot that begins at `offset` of the arena.
    pub(crate) fn of_slot(&self, offset: u64) -> &AtomicU64 {
        let at = usize::try_from(offset / PAGE_BYTES).expect("an arena fits the address space");
        assert!(at < self.count, "offset {offset} lies outside an arena of {} pages", self.count);
        // SAFETY: the entry was asserted to lie in the mapping.
        let entry = unsafe { self.start.add(at) };
        // SAFETY: the mapping lives as long as `self`, is aligned to pages, and every access is atomic.
        unsafe { entry.as_ref() }
    }

    /// Counts a slot as given back. Whoever writes into it does so after this.
    pub(crate) fn renew(&self, offset: u64) {
        self.of_slot(offset).fetch_add(1, Ordering::SeqCst);
    }
}

impl AsFd for Generations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        // SAFETY: every borrow of an entry borrows this value, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.count * ENTRY_BYTES as usize) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_slot_has_a_counter_of_its_own() {
        let table = Generations::of_arena(16 * PAGE_BYTES).unwrap();
        table.renew(3 * PAGE_BYTES);
        table.renew(3 * PAGE_BYTES);
        let seen: Vec<u64> = (0..16).map(|page| table.of_slot(page * PAGE_BYTES).load(Ordering::Relaxed)).collect();
        assert_eq!(seen.iter().sum::<u64>(), 2);
        assert_eq!(seen[3], 2);
        assert!(catch_unwind(AssertUnwindSafe(|| table.renew(16 * PAGE_BYTES))).is_err(), "bounds are checked");
    }

    #[test]
    fn nobody_else_can_write_the_table() {
        let table = Generations::of_arena(16 * PAGE_BYTES).unwrap();
        assert_eq!(rustix::io::write(&table, &[1; 8]), Err(rustix::io::Errno::PERM));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing; it is refused anyway.
        let mapped = unsafe { rustix::mm::mmap(ptr::null_mut(), 128, access, MapFlags::SHARED, &table, 0) };
        assert_eq!(mapped.err(), Some(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&table, 0), Err(rustix::io::Errno::PERM));
    }
}
