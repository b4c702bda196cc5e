//! The shared file as words that both ends read and write atomically: the only unsafe code of the crate.
//!
//! Safety rests on two things. The file is sealed against shrinking before anybody else has it, and a mapping of a file
//! that is too short or may shrink is refused, so no access can fault. And every access is atomic, so that what the other
//! end writes meanwhile is a wrong value at worst.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{FILE_BYTES, WORD};

/// A shared mapping of a ring's file.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<AtomicU64>,
}

// SAFETY: the mapping is plain memory of the process, bound to no thread.
unsafe impl Send for Memory {}
// SAFETY: it is only ever accessed as atomic words.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps a ring's file. The descriptor is not needed afterwards.
    pub(crate) fn of_file(file: &OwnedFd) -> io::Result<Self> {
        let bytes = rustix::fs::fstat(file)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(file)?;
        if bytes != FILE_BYTES as i64 || !seals.contains(SealFlags::SHRINK) {
            return Err(io::Error::other(format!("a file of {bytes} bytes with seals {seals:?} is no ring")));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), FILE_BYTES as usize, access, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start })
    }

    /// The word at `index`.
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < FILE_BYTES as usize / WORD, "word {index} lies outside the ring");
        // SAFETY: the index is inside the mapping, which is one allocation.
        let word = unsafe { self.start.add(index) };
        // SAFETY: the mapping is aligned to pages, lives as long as `self`, and is only ever accessed atomically.
        unsafe { word.as_ref() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: every word borrows this value, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), FILE_BYTES as usize) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// A file in memory whose size nobody can change.
pub(crate) fn sealed_file(bytes: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create("kvtier-ring", flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("kvtier-ring", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}
