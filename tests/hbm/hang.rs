//! Memory of another process, gates, and a device that does not answer any more.

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use futures::executor::block_on;
use kvtier_engine::port::{DeviceState, Memory, Tier, TierError};
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove, MoveError, MoveRefused};
use kvtier_hbm::conformance::Dice;
use kvtier_hbm::gpu::{Gpu, GpuError, IpcHandle};
use kvtier_hbm::layout::Direction;
use kvtier_hbm::simulated::{Machine, Simulated, shared_handle};
use kvtier_hbm::{Drive, HbmSettings, HbmTier, WorkerMemory};
use kvtier_nvme::fake::HeapMemory;
use rustix::fs::MemfdFlags;

use super::faults::plain;
use super::rig::{MIB, arena, settings, slot};

const BLOCK_BYTES: usize = 32_768;
const PATIENCE: Duration = Duration::from_secs(30);

/// A tier on a simulated device with threads of its own.
struct Site {
    tier: HbmTier,
    memory: Arc<HeapMemory>,
}

impl Site {
    fn new(hang_timeout: Duration) -> Self {
        let gpu: Arc<dyn Gpu> = Arc::new(Simulated::new(&Machine::new(), 5, 64 * MIB));
        let memory = Arc::new(HeapMemory::of_bytes(16 * MIB));
        let settings = HbmSettings { hang_timeout, ..settings(4 * MIB) };
        let tier = HbmTier::open(&settings, vec![gpu], memory.clone(), &[arena(&memory)], Drive::Threads);
        Self { tier: tier.expect("a simulated tier"), memory }
    }

    fn import(&self, handle: IpcHandle) -> Arc<WorkerMemory> {
        WorkerMemory::import(&self.tier, 0, &[handle], plain(MIB)).expect("imported")
    }
}

/// KV memory as a worker lends it.
struct Lent {
    file: File,
    gate: PipeReader,
    feed: PipeWriter,
}

impl Lent {
    fn new() -> Self {
        let file = rustix::fs::memfd_create("kvtier-test", MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&file, MIB).expect("its size");
        let (gate, feed) = std::io::pipe().expect("a pipe");
        Self { file: file.into(), gate, feed }
    }

    fn handle(&self, gated: bool) -> IpcHandle {
        let gate = gated.then(|| self.gate.as_raw_fd());
        shared_handle(std::process::id(), self.file.as_raw_fd(), gate)
    }
}

/// Says when it is let go of.
struct Kept(Sender<()>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

fn kept() -> (Box<Kept>, Receiver<()>) {
    let (sender, receiver) = channel();
    (Box::new(Kept(sender)), receiver)
}

fn chain(direction: Direction, blocks: u64, keep: Box<Kept>) -> ChainMove {
    let block = |number| ChainBlock { number, place: BlockPlace::Host(slot(number, 32_768)), expect_crc: None };
    let blocks = (0..blocks).map(block).collect();
    ChainMove::new(direction, blocks, keep)
}

#[test]
fn bytes_of_another_process_come_and_go_through_its_file() {
    let (site, lent) = (Site::new(PATIENCE), Lent::new());
    let bytes = Dice::new(1).bytes(4 * BLOCK_BYTES);
    lent.file.write_all_at(&bytes, 0).expect("written");
    let worker = site.import(lent.handle(false));
    let saved = worker.begin(&site.tier, chain(Direction::Gather, 4, kept().0)).expect("begun");
    assert_eq!(block_on(saved.wait_end()), Ok(()));
    for number in 0..4 {
        let seen = site.memory.view(slot(number as u64, 32_768), 0, 32_768, Box::new(()));
        assert!(seen[..] == bytes[number * BLOCK_BYTES..][..BLOCK_BYTES], "block {number}");
    }
    let other = Lent::new();
    let loaded = site.import(other.handle(false)).begin(&site.tier, chain(Direction::Scatter, 4, kept().0));
    assert_eq!(block_on(loaded.expect("begun").wait_end()), Ok(()));
    let mut found = vec![0; bytes.len()];
    other.file.read_exact_at(&mut found, 0).expect("read");
    assert!(found == bytes);
}

#[test]
fn a_gpu_that_hangs_is_given_up_and_what_it_may_touch_stays_until_it_answers() {
    let (site, lent) = (Site::new(Duration::from_millis(40)), Lent::new());
    let worker = site.import(lent.handle(true));
    let (keep, let_go) = kept();
    let hung = worker.begin(&site.tier, chain(Direction::Gather, 4, keep)).expect("begun");
    // More than may fly at a time: some are never seen by the device.
    let behind: Vec<_> = (0..40)
        .map(|_| {
            let (keep, let_go) = kept();
            (worker.begin(&site.tier, chain(Direction::Gather, 1, keep)).expect("begun"), let_go)
        })
        .collect();
    let told = block_on(hung.wait_end());
    assert!(
        matches!(&told, Err(MoveError::Failed(GpuError::Lost(why))) if why.contains("does not answer")),
        "{told:?}"
    );
    for (progress, _) in &behind {
        assert!(matches!(block_on(progress.wait(0)), Err(MoveError::Failed(GpuError::Lost(_)))));
    }
    behind[39].1.recv_timeout(PATIENCE).expect("what no device has seen is let go of");
    assert!(let_go.try_recv().is_err(), "INV-8: the device may still write there");
    let health = site.tier.health().remove(0);
    assert!(health.state == DeviceState::Poisoned && health.detail.contains("does not answer"), "{health:?}");
    let refused = worker.begin(&site.tier, chain(Direction::Gather, 1, kept().0)).map(drop);
    assert!(matches!(refused, Err(MoveRefused::Tier(TierError::Poisoned { .. }))), "{refused:?}");
    // Nobody waits for the device, whatever goes away.
    drop(worker);
    drop(site);
    drop(lent.feed);
    let_go.recv_timeout(PATIENCE).expect("the device has answered after all");
}

#[test]
fn memory_that_is_freed_under_the_device_poisons_it_and_nothing_is_kept() {
    let (site, lent) = (Site::new(PATIENCE), Lent::new());
    let worker = site.import(lent.handle(true));
    let (keep, let_go) = kept();
    let load = worker.begin(&site.tier, chain(Direction::Scatter, 4, keep)).expect("begun");
    lent.file.set_len(0).expect("shortened");
    drop(lent.feed);
    let told = block_on(load.wait_end());
    assert!(matches!(&told, Err(MoveError::Failed(GpuError::Lost(why))) if why.contains("freed")), "{told:?}");
    let_go.recv_timeout(PATIENCE).expect("the device is lost, and touches nothing any more");
    assert_eq!(site.tier.health()[0].state, DeviceState::Poisoned);
}

#[test]
fn what_is_no_memory_is_not_imported() {
    let (site, lent) = (Site::new(PATIENCE), Lent::new());
    let gone = u32::MAX >> 1;
    for handle in [
        shared_handle(gone, lent.file.as_raw_fd(), None),
        shared_handle(std::process::id(), lent.gate.as_raw_fd(), None),
        shared_handle(std::process::id(), lent.file.as_raw_fd(), Some(-2)),
        IpcHandle([7; 64]),
    ] {
        let refused = WorkerMemory::import(&site.tier, 0, &[handle], plain(MIB)).map(drop);
        assert!(refused.is_err(), "{handle:?}");
    }
}
