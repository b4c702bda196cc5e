//! Slots of clients that have lost their connection and may still write: kept until their process has ended, or says that
//! it does not write them any more.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::session::Held;

/// Every slot nobody may use yet. Bounded by the quotas of the processes, which keep counting.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    wards: Mutex<Wards>,
}

#[derive(Debug, Default)]
struct Wards {
    next: u64,
    all: BTreeMap<u64, Ward>,
}

#[derive(Debug)]
struct Ward {
    attachment: u128,
    process: Arc<OwnedFd>,
    held: Vec<Held>,
}

impl Quarantine {
    /// Takes slots in. The descriptor becomes readable when their process has ended: call [`Quarantine::free`] then.
    pub(crate) fn put(&self, attachment: u128, process: Arc<OwnedFd>, held: Vec<Held>) -> u64 {
        let mut wards = self.lock();
        wards.next += 1;
        let number = wards.next;
        wards.all.insert(number, Ward { attachment, process, held });
        number
    }

    /// Calls `with` with the descriptor of a ward's process, if the ward is still there.
    pub(crate) fn watch<T>(&self, number: u64, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        use std::os::fd::AsFd;
        self.lock().all.get(&number).map(|ward| with(ward.process.as_fd()))
    }

    /// The process of a ward has ended.
    pub(crate) fn free(&self, number: u64) {
        let ward = self.lock().all.remove(&number);
        // Outside the lock: giving slots back takes the engine's.
        drop(ward);
    }

    /// An attachment writes no more. How many slots are free now.
    pub(crate) fn fence(&self, attachment: u128) -> u32 {
        let fenced: Vec<Ward> = {
            let mut wards = self.lock();
            wards.all.extract_if(.., |_, ward| ward.attachment == attachment).map(|(_, ward)| ward).collect()
        };
        fenced.iter().map(|ward| ward.held.len() as u32).sum()
    }

    /// Slots and bytes.
    pub(crate) fn count(&self) -> (u64, u64) {
        let wards = self.lock();
        let held = || wards.all.values().flat_map(|ward| &ward.held);
        (held().count() as u64, held().map(Held::bytes).sum())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wards> {
        self.wards.lock().expect("nobody panics while counting slots")
    }
}
