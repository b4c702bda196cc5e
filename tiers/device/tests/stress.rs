//! Real disks under many callers at once: nothing is lost, mixed up or left waiting.

use std::sync::Arc;

use kvtier_device::conformance::block_on;
use kvtier_device::sim::Dice;
use kvtier_device::{
    AlignedBuffer, Disk, DiskCounters, DiskOp, DiskSettings, Driver, LocalDisk, Priority, UringProbe, open_disk, probe,
};
use tempfile::TempDir;

const PAGE: u64 = 4096;
const THREAD_COUNT: u64 = 4;
const REGION_PAGES: u64 = 256;
const CLASSES: [Priority; 3] = [Priority::Load, Priority::Store, Priority::Idle];

struct Rig {
    disk: Arc<LocalDisk>,
    _folder: TempDir,
}

fn rig(driver: Driver, change: impl FnOnce(&mut DiskSettings)) -> Rig {
    let folder = TempDir::new().expect("a temporary folder");
    let mut settings = DiskSettings::new(folder.path().join("disk"));
    settings.bytes = Some(THREAD_COUNT * REGION_PAGES * PAGE);
    settings.driver = driver;
    change(&mut settings);
    Rig { disk: Arc::new(open_disk(&settings).expect("a disk")), _folder: folder }
}

fn drivers() -> Vec<Driver> {
    let mut drivers = vec![Driver::Pool];
    if probe() == UringProbe::Usable {
        drivers.push(Driver::Uring);
    }
    drivers
}

/// Each thread works in a region of its own, with a model of it, all on one disk.
fn work(disk: &LocalDisk, thread: u64, rounds: u64) {
    let mut dice = Dice::new(thread);
    let base = thread * REGION_PAGES;
    let mut model = vec![0_u64; REGION_PAGES as usize];
    let arena = AlignedBuffer::zeroed((REGION_PAGES * PAGE) as usize);
    disk.register_arena(arena.arena());
    let page_of = |page: u64| arena.part((page * PAGE) as usize, PAGE as usize);
    let zero = (0..REGION_PAGES).map(|page| DiskOp::Write { offset: (base + page) * PAGE, from: page_of(page) });
    assert!(block_on(disk.submit(zero.collect(), Priority::Store)).iter().all(Result::is_ok));
    for round in 1..=rounds {
        let first = dice.below(REGION_PAGES);
        let count = (1 + dice.below(40)).min(REGION_PAGES - first);
        let pages = first..first + count;
        let priority = CLASSES[dice.below(3) as usize];
        if dice.one_in(2) {
            for page in pages.clone() {
                arena.copy_in((page * PAGE) as usize, &round.to_le_bytes().repeat(PAGE as usize / 8));
                model[page as usize] = round;
            }
            let writes = pages.map(|page| DiskOp::Write { offset: (base + page) * PAGE, from: page_of(page) });
            let call = disk.submit(writes.collect(), priority);
            assert!(block_on(call).iter().all(Result::is_ok), "thread {thread} round {round}");
        } else {
            pages.clone().for_each(|page| arena.copy_in((page * PAGE) as usize, &[0xee; PAGE as usize]));
            let reads = pages.clone().map(|page| DiskOp::Read { offset: (base + page) * PAGE, into: page_of(page) });
            let call = disk.submit(reads.collect(), priority);
            assert!(block_on(call).iter().all(Result::is_ok), "thread {thread} round {round}");
            for page in pages {
                let expected = model[page as usize].to_le_bytes().repeat(PAGE as usize / 8);
                let content = arena.copy_out((page * PAGE) as usize, PAGE as usize);
                assert!(content == expected, "thread {thread} round {round} page {page}");
            }
        }
        if dice.one_in(16) {
            assert_eq!(block_on(disk.sync()), Ok(()));
        }
        if dice.one_in(8) {
            // A caller that goes away: its read still lands somewhere that stays mapped.
            let into = AlignedBuffer::zeroed(16 * PAGE as usize).disk_buffer();
            drop(disk.submit(vec![DiskOp::Read { offset: base * PAGE, into }], priority));
        }
    }
}

fn many_callers(disk: &Arc<LocalDisk>, rounds: u64) {
    std::thread::scope(|scope| {
        for thread in 0..THREAD_COUNT {
            let disk = Arc::clone(disk);
            scope.spawn(move || work(&disk, thread, rounds));
        }
    });
}

#[test]
fn many_callers_see_only_their_own_bytes() {
    for driver in drivers() {
        many_callers(&rig(driver, |_| {}).disk, 150);
    }
}

#[test]
fn a_shallow_disk_with_short_transfers_serves_everybody() {
    for driver in drivers() {
        let narrow = |settings: &mut DiskSettings| {
            settings.depth = 2;
            settings.pool_thread_count = 2;
            settings.transfer_bytes_max = 8192;
            settings.store_bytes_in_flight_max = 4096;
        };
        many_callers(&rig(driver, narrow).disk, 40);
    }
}

#[test]
fn counters_return_to_rest_and_add_up() {
    for driver in drivers() {
        let Rig { disk, _folder } = rig(driver, |_| {});
        let buffer = AlignedBuffer::zeroed(64 * PAGE as usize);
        let calls: Vec<_> = (0..200_u64)
            .map(|number| {
                let offset = number % 16 * PAGE;
                let op = if number % 2 == 0 {
                    DiskOp::Read { offset, into: buffer.disk_buffer() }
                } else {
                    DiskOp::Write { offset, from: buffer.disk_buffer() }
                };
                disk.submit(vec![op], CLASSES[number as usize % 3])
            })
            .collect();
        calls.into_iter().for_each(|call| assert_eq!(block_on(call), [Ok(())]));
        let bytes = 100 * 64 * PAGE;
        let expected = DiskCounters { read_bytes: bytes, written_bytes: bytes, ..DiskCounters::default() };
        assert_eq!(disk.counters(), expected, "{driver:?}");
    }
}

/// Every sync call is answered after what was written before it, even when all call at once.
#[test]
fn syncs_from_many_threads_are_shared_and_all_answered() {
    for driver in drivers() {
        let Rig { disk, _folder } = rig(driver, |_| {});
        std::thread::scope(|scope| {
            for thread in 0..THREAD_COUNT {
                let disk = &disk;
                scope.spawn(move || {
                    let page = AlignedBuffer::holding(&[thread as u8; PAGE as usize]);
                    for round in 0..20 {
                        let offset = (thread * 20 + round) * PAGE;
                        let write = DiskOp::Write { offset, from: page.disk_buffer() };
                        assert_eq!(block_on(disk.submit(vec![write], Priority::Store)), [Ok(())]);
                        assert_eq!(block_on(disk.sync()), Ok(()));
                    }
                });
            }
        });
        let syncs = disk.counters().sync_count;
        assert!((20..=80).contains(&syncs), "{syncs} syncs for 80 calls of 4 threads");
    }
}

#[test]
fn a_disk_dropped_under_load_ends_everything_first() {
    for driver in drivers() {
        let Rig { disk, _folder } = rig(driver, |_| {});
        let buffers: Vec<AlignedBuffer> = (0..64).map(|_| AlignedBuffer::zeroed(16 * PAGE as usize)).collect();
        let calls: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(number, buffer)| {
                let write = DiskOp::Write { offset: number as u64 * 16 * PAGE, from: buffer.disk_buffer() };
                disk.submit(vec![write], CLASSES[number % 3])
            })
            .collect();
        drop(disk);
        calls.into_iter().for_each(|call| assert_eq!(block_on(call), [Ok(())], "{driver:?}"));
        for mut buffer in buffers {
            assert!(buffer.bytes_mut().is_some(), "{driver:?}: nobody holds the memory any more");
        }
    }
}
