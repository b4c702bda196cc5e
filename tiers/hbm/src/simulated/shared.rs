//! Memory of another process: what a worker without a GPU exports to a simulated device.
//!
//! The worker keeps its KV memory in a file of its own (a memfd) and names it by process and descriptor. The device opens it
//! through /proc, as a driver would open an allocation: it stays reachable here when that process dies. Bytes are read and
//! written through the file, never mapped, so that a worker that shortens it harms nobody but the device: that is how freed
//! memory looks here, and the device is lost then.
//!
//! A *gate*, the reading end of a pipe, makes time visible: the device takes one byte from it before it begins work that
//! touches the memory, and waits while there is none. So a test decides what has arrived when a worker dies, and a gate
//! that is never fed is a device that hangs. A closed gate is open.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::gpu::IpcHandle;

/// Where the handle says what it is; exports of the same process say something else.
const MAGIC_AT: usize = 8;
const MAGIC: &[u8; 8] = b"KVTIERSF";
/// Where it has the number of the file, or zero.
const INODE_AT: usize = 24;
/// No gate.
const NONE: i32 = -1;

fn path(process: impl Display, descriptor: RawFd) -> String {
    format!("/proc/{process}/fd/{descriptor}")
}

/// The handle of a file of a process, which must keep the descriptors open until it was imported. As a driver's, it is
/// another one for a new file under an old descriptor: two imports of one handle share one opening.
pub fn shared_handle(process: u32, file: RawFd, gate: Option<RawFd>) -> IpcHandle {
    let mut handle = IpcHandle([0; 64]);
    handle.0[..4].copy_from_slice(&process.to_le_bytes());
    handle.0[4..8].copy_from_slice(&file.to_le_bytes());
    handle.0[MAGIC_AT..16].copy_from_slice(MAGIC);
    handle.0[16..20].copy_from_slice(&gate.unwrap_or(NONE).to_le_bytes());
    // Whoever names a file that is not there is told so when it is opened.
    let inode = std::fs::metadata(path(process, file)).map_or(0, |found| found.ino());
    handle.0[INODE_AT..INODE_AT + 8].copy_from_slice(&inode.to_le_bytes());
    handle
}

/// The file, opened here.
pub(super) struct Shared {
    file: File,
    pub(super) bytes: u64,
    gate: Option<File>,
}

impl Shared {
    /// Opens what a handle names; `None`: it is no such handle.
    pub(super) fn open(handle: &IpcHandle) -> Option<io::Result<Self>> {
        let word = |at: usize| i32::from_le_bytes(handle.0[at..at + 4].try_into().expect("four bytes"));
        (handle.0[MAGIC_AT..16] == *MAGIC).then(|| Self::open_now(word(0), word(4), word(16)))
    }

    fn open_now(process: i32, file: i32, gate: i32) -> io::Result<Self> {
        let path = |descriptor: i32| path(process, descriptor);
        let opened = File::options().read(true).write(true).open(path(file))?;
        let found = opened.metadata()?;
        if !found.is_file() || found.len() == 0 {
            return Err(io::Error::other(format!("descriptor {file} is no file with bytes in it")));
        }
        let gate = if gate == NONE { None } else { Some(File::open(path(gate))?) };
        Ok(Self { file: opened, bytes: found.len(), gate })
    }

    pub(super) fn has_gate(&self) -> bool {
        self.gate.is_some()
    }

    /// Waits for a byte of the gate.
    pub(super) fn pass(&self) {
        if let Some(mut gate) = self.gate.as_ref() {
            // Closed or broken is open.
            gate.read_exact(&mut [0]).ok();
        }
    }

    /// Whether the bytes are there.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        self.file.read_exact_at(into, offset).is_ok()
    }

    /// The same; a file that was shortened does not grow again.
    pub(super) fn write(&self, offset: u64, from: &[u8]) -> bool {
        let end = offset.saturating_add(from.len() as u64);
        let here = self.file.metadata().is_ok_and(|found| found.len() >= end);
        here && self.file.write_all_at(from, offset).is_ok()
    }
}
