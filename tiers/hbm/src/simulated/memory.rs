//! Memory of a simulated machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared::Shared;
use crate::gpu::{HostMemory, IpcHandle};

/// Bytes of a device, or pinned ones.
pub(super) type Bytes = Arc<Mutex<Vec<u8>>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver of one simulated computer: what its processes have exported to each other.
#[derive(Default)]
pub struct Machine {
    exported: Mutex<BTreeMap<IpcHandle, Bytes>>,
}

impl Machine {
    /// One without exports.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn export(&self, bytes: &Bytes) -> IpcHandle {
        let mut exported = lock(&self.exported);
        if let Some((handle, _)) = exported.iter().find(|(_, known)| Arc::ptr_eq(known, bytes)) {
            return *handle;
        }
        let mut handle = IpcHandle([0; 64]);
        handle.0[..8].copy_from_slice(&(exported.len() as u64 + 1).to_le_bytes());
        handle.0[8..16].copy_from_slice(b"KVTIERSM");
        exported.insert(handle, Arc::clone(bytes));
        handle
    }

    pub(super) fn find(&self, handle: &IpcHandle) -> Option<Bytes> {
        lock(&self.exported).get(handle).cloned()
    }
}

/// How a memory came about.
#[derive(Clone)]
pub(super) enum Stored {
    Device(Bytes),
    Pinned(Bytes),
    Imported(Bytes),
    Shared(Arc<Shared>),
    Host(HostMemory),
}

impl Stored {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Device(bytes) | Self::Pinned(bytes) | Self::Imported(bytes) => lock(bytes).len() as u64,
            Self::Shared(shared) => shared.bytes,
            Self::Host(host) => host.bytes,
        }
    }

    /// Whether the bytes are still there.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        match self {
            Self::Device(bytes) | Self::Pinned(bytes) | Self::Imported(bytes) => {
                let at = offset as usize;
                into.copy_from_slice(&lock(bytes)[at..at + into.len()]);
            }
            Self::Shared(shared) => return shared.read(offset, into),
            Self::Host(host) => host.access.read(offset, into),
        }
        true
    }

    /// The same.
    pub(super) fn write(&self, offset: u64, from: &[u8]) -> bool {
        match self {
            Self::Device(bytes) | Self::Pinned(bytes) | Self::Imported(bytes) => {
                let at = offset as usize;
                lock(bytes)[at..at + from.len()].copy_from_slice(from);
            }
            Self::Shared(shared) => return shared.write(offset, from),
            Self::Host(host) => host.access.write(offset, from),
        }
        true
    }

    /// What must be passed before work on it begins.
    pub(super) fn gate(&self) -> Option<&Arc<Shared>> {
        match self {
            Self::Shared(shared) if shared.has_gate() => Some(shared),
            _ => None,
        }
    }
}
