//! What each process holds reserved, so that one that hangs keeps only its share from the others (INV-5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use kvtier_engine::place::PAGE_BYTES;

/// Shares of every process that holds one.
#[derive(Debug)]
pub(crate) struct Ledger {
    processes: Mutex<BTreeMap<i32, Used>>,
    bytes_max: u64,
    blocks_max: u32,
    /// Pages of all puts of the node, gRPC's included.
    room: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Used {
    bytes: u64,
    blocks: u32,
}

/// One slot's share; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    ledger: Arc<Ledger>,
    process: i32,
    pub(crate) bytes: u64,
    _room: OwnedSemaphorePermit,
}

impl Ledger {
    pub(crate) fn new(bytes_max: u64, blocks_max: u32, room: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { processes: Mutex::default(), bytes_max, blocks_max, room })
    }

    /// A share of `bytes` for a process, or which bound is reached.
    pub(crate) fn take(self: &Arc<Self>, process: i32, bytes: u64) -> Result<Share, String> {
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(pages);
        let room = room.map_err(|_| {
            "limits.put_bytes_in_flight_max is reached by all incomplete puts of the node: commit or abort some, or try again"
                .to_owned()
        })?;
        let mut processes = self.lock();
        let used = processes.get(&process).copied().unwrap_or_default();
        if used.bytes + bytes > self.bytes_max || used.blocks >= self.blocks_max {
            return Err(format!(
                "this process holds {} bytes in {} reservations of at most {} (local.client_bytes_max) in {} \
                 (local.client_blocks_max): commit or abort some",
                used.bytes, used.blocks, self.bytes_max, self.blocks_max
            ));
        }
        processes.insert(process, Used { bytes: used.bytes + bytes, blocks: used.blocks + 1 });
        drop(processes);
        Ok(Share { ledger: Arc::clone(self), process, bytes, _room: room })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Used>> {
        self.processes.lock().expect("nobody panics while counting shares")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut processes = self.ledger.lock();
        let used = processes.get_mut(&self.process).expect("who gives back has taken");
        used.bytes -= self.bytes;
        used.blocks -= 1;
        if used.blocks == 0 {
            processes.remove(&self.process);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Ledger::new(3 * PAGE_BYTES, 2, Arc::new(Semaphore::new(4)))
    }

    #[test]
    fn a_process_gets_no_more_than_its_share_and_others_get_theirs() {
        let ledger = ledger();
        let first = ledger.take(1, 2 * PAGE_BYTES).expect("within both bounds");
        assert!(ledger.take(1, 2 * PAGE_BYTES).expect_err("4 of 3 pages").contains("client_bytes_max"));
        let _second = ledger.take(1, 1).expect("the third page");
        assert!(ledger.take(1, 0).expect_err("3 of 2 blocks").contains("client_blocks_max"));
        drop(first);
        ledger.take(2, PAGE_BYTES).expect("another process has a share of its own");
        ledger.take(1, PAGE_BYTES).expect("what was given back can be taken");
    }

    #[test]
    fn all_processes_together_get_no_more_than_the_node_has() {
        let ledger = ledger();
        let _held = (ledger.take(1, 3 * PAGE_BYTES).expect("3"), ledger.take(2, PAGE_BYTES).expect("4"));
        assert!(ledger.take(3, 1).expect_err("5 of 4 pages").contains("put_bytes_in_flight_max"));
    }
}
