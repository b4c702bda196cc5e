//! The ring with devices of special behaviour; what all disks have in common is in `crate::conformance`.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::task::{Context, Waker};
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::aligned::AlignedBuffer;
use crate::conformance::block_on;

fn settings(path: &Path) -> DiskSettings {
    DiskSettings { bytes: Some(1 << 20), ..DiskSettings::new(path) }
}

/// A disk over a real file, or nothing where io_uring is refused.
fn disk_on_file(folder: &TempDir, change: impl FnOnce(&mut DiskSettings)) -> Option<UringDisk> {
    let mut settings = settings(&folder.path().join("disk"));
    change(&mut settings);
    let backing = Backing::open(&settings).expect("a file");
    start(backing, &settings)
}

/// A disk over a character device, taken for one of 1 MiB.
fn disk_on_device(path: &str) -> Option<UringDisk> {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the device");
    start(Backing::assume(file, Path::new(path), 1 << 20), &settings(Path::new(path)))
}

fn start(backing: Backing, settings: &DiskSettings) -> Option<UringDisk> {
    match probe() {
        UringProbe::Usable => Some(UringDisk::start(Arc::new(backing), settings).expect("the probe said so")),
        UringProbe::Refused(_) => None,
    }
}

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn write(disk: &UringDisk, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
    let op = DiskOp::Write { offset, from: buffer.disk_buffer() };
    block_on(disk.submit(vec![op], Priority::Store)).remove(0)
}

fn read(disk: &UringDisk, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
    let op = DiskOp::Read { offset, into: buffer.disk_buffer() };
    block_on(disk.submit(vec![op], Priority::Load)).remove(0)
}

fn await_mode(disk: &UringDisk, text: &str) {
    #[allow(clippy::disallowed_methods, reason = "a bound on a test of a real thread")]
    let began = Instant::now();
    while !disk.mode().contains(text) {
        assert!(began.elapsed().as_secs() < 20, "{text:?} never appears, only {:?}", disk.mode());
        std::thread::yield_now();
    }
}

/// `/dev/zero` takes every write, gives zeros, and cannot be synced (EINVAL).
#[test]
fn a_failed_sync_poisons_the_disk_for_good_but_reads_go_on() {
    let Some(disk) = disk_on_device("/dev/zero") else { return };
    let buffer = AlignedBuffer::zeroed(4096);
    assert_eq!(write(&disk, 0, &buffer), Ok(()));
    assert_eq!(disk.poisoned(), None);
    let first = block_on(disk.sync()).expect_err("it cannot be synced");
    assert!(matches!(&first, DiskError::Poisoned(reason) if reason.contains("fdatasync failed")), "{first}");
    assert_eq!(block_on(disk.sync()), Err(first.clone()));
    assert_eq!(write(&disk, 0, &buffer), Err(first));
    assert_eq!(read(&disk, 0, &buffer), Ok(()));
    assert!(disk.poisoned().is_some_and(|reason| reason.contains("fdatasync")));
    assert_eq!(disk.counters().sync_count, 0);
}

#[test]
fn syncs_that_wait_behind_a_failed_one_fail_too() {
    let Some(disk) = disk_on_device("/dev/zero") else { return };
    let calls: Vec<_> = (0..50).map(|_| disk.sync()).collect();
    for call in calls {
        assert!(matches!(block_on(call), Err(DiskError::Poisoned(_))));
    }
}

/// `/dev/full` answers every write with ENOSPC.
#[test]
fn a_device_error_reaches_every_operation_of_the_batch() {
    let Some(disk) = disk_on_device("/dev/full") else { return };
    let buffer = AlignedBuffer::zeroed(4 * 4096);
    let op = |page: usize| DiskOp::Write { offset: page as u64 * 4096, from: buffer.part(page * 4096, 4096) };
    let answers = block_on(disk.submit((0..4).map(op).collect(), Priority::Store));
    for (page, answer) in answers.iter().enumerate() {
        let expected = format!("a write of 4096 bytes at offset {} failed: No space left", page * 4096);
        assert!(matches!(answer, Err(DiskError::Io(reason)) if reason.starts_with(&expected)), "{answer:?}");
    }
    assert_eq!(disk.poisoned(), None);
    let counters = disk.counters();
    assert_eq!((counters.in_flight_count, counters.queued_count, counters.written_bytes), (0, 0, 0));
}

/// A truncated file must not read as zeros.
#[test]
fn reads_behind_the_end_of_a_truncated_file_fail_and_those_before_it_do_not() {
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |_| {}) else { return };
    let buffer = AlignedBuffer::holding(&[7; 32_768]);
    assert_eq!(write(&disk, 0, &buffer), Ok(()));
    let cut = |bytes: u64| {
        let file = OpenOptions::new().write(true).open(disk.backing().path()).expect("the file");
        file.set_len(bytes).expect("a cut");
    };
    cut(16_384);
    let reason = match read(&disk, 8192, &buffer) {
        Err(DiskError::Io(reason)) => reason,
        other => panic!("half of it is gone: {other:?}"),
    };
    assert!(reason.contains("file ends"), "{reason}");
    assert!(matches!(read(&disk, 65_536, &buffer), Err(DiskError::Io(_))));
    cut(10_000);
    let page = AlignedBuffer::zeroed(4096);
    assert!(matches!(read(&disk, 8192, &page), Err(DiskError::Io(_))), "1,808 bytes are not a page");
    // Joined with pages that are gone, the page that is left is still read.
    let pages = AlignedBuffer::zeroed(4 * 4096);
    let op = |page: usize| DiskOp::Read { offset: page as u64 * 4096, into: pages.part(page * 4096, 4096) };
    let answers = block_on(disk.submit((0..4).map(op).collect(), Priority::Load));
    let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, true, false, false], "{answers:?}");
    assert_eq!(pages.copy_out(0, 8192), [7; 8192]);
    assert!(disk.backing().check_identity().is_err());
}

#[test]
fn registered_and_plain_memory_move_the_same_bytes() {
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |settings| settings.arena_chunk_bytes = 1 << 20) else { return };
    let arena = AlignedBuffer::zeroed(4 << 20);
    assert!(disk.mode().contains("plain buffers (none registered)"), "{}", disk.mode());
    disk.register_arena(arena.arena());
    await_mode(&disk, "registered buffers over 4 of 4 MiB");
    assert!(disk.mode().contains("registered file"));
    let content: Vec<u8> = (0..1_u32 << 20).map(|index| (index >> 7) as u8).collect();
    // Over the border of two pieces.
    let place = (1 << 20) - 8192;
    arena.copy_in(place, &content);
    let from = arena.part(place, 1 << 20);
    let op = DiskOp::Write { offset: 0, from };
    assert_eq!(block_on(disk.submit(vec![op], Priority::Store)), [Ok(())]);
    let plain = AlignedBuffer::zeroed(1 << 20);
    assert_eq!(read(&disk, 0, &plain), Ok(()));
    assert!(plain.copy_out(0, 1 << 20) == content);
    let into = arena.part(3 << 20, 1 << 20);
    assert_eq!(block_on(disk.submit(vec![DiskOp::Read { offset: 0, into }], Priority::Load)), [Ok(())]);
    assert!(arena.copy_out(3 << 20, 1 << 20) == content);
}

#[test]
fn memory_that_cannot_be_registered_is_said_and_transfers_go_on() {
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |_| {}) else { return };
    // Never mapped: pinning it fails (EFAULT), as it does for lack of memlock (ENOMEM).
    let arena = Arena { address: 1 << 46, bytes: 1 << 20, keep: Arc::new(()) };
    disk.register_arena(arena);
    await_mode(&disk, "plain buffers (registering 1048576 bytes failed");
    let buffer = AlignedBuffer::holding(&[3; 4096]);
    assert_eq!(write(&disk, 0, &buffer), Ok(()));
    let back = AlignedBuffer::zeroed(4096);
    assert_eq!(read(&disk, 0, &back), Ok(()));
    assert_eq!(back.copy_out(0, 4096), [3; 4096]);
}

#[test]
fn the_disk_lets_an_arena_go_when_it_is_dropped() {
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |_| {}) else { return };
    let mut arena = AlignedBuffer::zeroed(1 << 20);
    disk.register_arena(arena.arena());
    await_mode(&disk, "registered buffers over 1 of 1 MiB");
    assert!(arena.bytes_mut().is_none());
    drop(disk);
    assert!(arena.bytes_mut().is_some());
}

#[test]
fn dropping_the_disk_finishes_what_was_submitted() {
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |settings| settings.depth = 2) else { return };
    let content: Vec<u8> = (0..1_u32 << 20).map(|index| (index >> 12) as u8).collect();
    let buffer = AlignedBuffer::holding(&content);
    let op = |page: usize| DiskOp::Write { offset: page as u64 * 4096, from: buffer.part(page * 4096, 4096) };
    // One batch a page, in an order that cannot be joined; nobody waits for them.
    (0..256).rev().for_each(|page| drop(disk.submit(vec![op(page)], Priority::Idle)));
    let sync = disk.sync();
    drop(disk);
    assert_eq!(block_on(sync), Ok(()));
    assert!(std::fs::read(folder.path().join("disk")).expect("the file") == content);
    assert_eq!(Arc::strong_count(&buffer.arena().keep), 2, "only the buffer and this question hold the memory");
}

/// A future polled by nobody but the waker's owner: the last handle goes away on the ring's own thread.
#[test]
fn the_last_handle_may_be_dropped_on_the_rings_own_thread() {
    struct DropInWake(std::sync::Mutex<Option<UringDisk>>, mpsc::Sender<()>);
    impl std::task::Wake for DropInWake {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().expect("not poisoned").take());
            self.1.send(()).expect("the test waits");
        }
    }
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |_| {}) else { return };
    let buffer = AlignedBuffer::zeroed(1 << 20);
    let mut future = disk.submit(vec![DiskOp::Read { offset: 0, into: buffer.disk_buffer() }], Priority::Load);
    let (woken, wakes) = mpsc::channel();
    let owner = Arc::new(DropInWake(std::sync::Mutex::new(None), woken));
    let waker = Waker::from(Arc::clone(&owner));
    let is_pending = future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
    *owner.0.lock().expect("not poisoned") = Some(disk);
    if is_pending {
        wakes.recv().expect("the ring goes on");
    }
}

#[test]
fn a_batch_that_can_never_fit_the_queue_is_refused_with_a_remedy() {
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |settings| settings.queue_count_max = 4) else { return };
    let buffer = AlignedBuffer::zeroed(4096);
    let op = |page: u64| DiskOp::Write { offset: page * 8192, from: buffer.disk_buffer() };
    let answers = block_on(disk.submit((0..5).map(op).collect(), Priority::Store));
    assert!(answers.iter().all(|answer| matches!(answer, Err(DiskError::Io(text)) if text.contains("split it"))));
    let answers = block_on(disk.submit((0..4).map(op).collect(), Priority::Store));
    assert_eq!(answers, vec![Ok(()); 4]);
}

/// A disk that is the reading end of a pipe: a read completes when the test lets a page through, and gets that page.
fn disk_on_pipe(change: impl FnOnce(&mut DiskSettings)) -> Option<(UringDisk, File)> {
    let (from, to) = std::io::pipe().expect("a pipe");
    let mut settings = settings(Path::new("pipe"));
    change(&mut settings);
    let from = File::from(std::os::fd::OwnedFd::from(from));
    let disk = start(Backing::assume(from, Path::new("pipe"), 1 << 20), &settings)?;
    Some((disk, File::from(std::os::fd::OwnedFd::from(to))))
}

fn let_through(mut pipe: &File, fill: u8) {
    use std::io::Write;
    pipe.write_all(&[fill; 4096]).expect("the disk reads");
}

fn await_in_flight(disk: &UringDisk, count: u64) {
    #[allow(clippy::disallowed_methods, reason = "a bound on a test of a real thread")]
    let began = Instant::now();
    while disk.counters().in_flight_count != count {
        assert!(began.elapsed().as_secs() < 20, "never {count} in flight: {:?}", disk.counters());
        std::thread::yield_now();
    }
}

fn page_read(buffer: &AlignedBuffer) -> DiskOp {
    DiskOp::Read { offset: 0, into: buffer.disk_buffer() }
}

#[test]
fn a_full_queue_is_busy_and_each_priority_has_its_own() {
    let bounds = |settings: &mut DiskSettings| (settings.depth, settings.queue_count_max) = (2, 8);
    let Some((disk, pipe)) = disk_on_pipe(bounds) else { return };
    let buffer = AlignedBuffer::zeroed(4096);
    let submit = |count: usize, priority| disk.submit(vec![page_read(&buffer); count], priority);
    let flying = submit(2, Priority::Load);
    await_in_flight(&disk, 2);
    let waiting = submit(8, Priority::Store);
    assert_eq!(block_on(submit(1, Priority::Store)), [Err(DiskError::Busy)]);
    assert_eq!(disk.counters().queued_count, 8);
    let load = submit(8, Priority::Load);
    assert_eq!(block_on(submit(3, Priority::Load)), vec![Err(DiskError::Busy); 3], "all or nothing");
    (0..18).for_each(|_| let_through(&pipe, 1));
    assert_eq!(block_on(flying), vec![Ok(()); 2]);
    assert_eq!(block_on(waiting), vec![Ok(()); 8]);
    assert_eq!(block_on(load), vec![Ok(()); 8]);
    assert_eq!(disk.counters(), DiskCounters { read_bytes: 18 * 4096, ..DiskCounters::default() });
}

#[test]
fn a_load_overtakes_what_waits_with_lower_priority() {
    let Some((disk, pipe)) = disk_on_pipe(|settings| settings.depth = 1) else { return };
    let buffers: Vec<AlignedBuffer> = (0..4).map(|_| AlignedBuffer::zeroed(4096)).collect();
    let classes = [Priority::Idle, Priority::Idle, Priority::Store, Priority::Load];
    let mut calls = Vec::new();
    for (buffer, priority) in buffers.iter().zip(classes) {
        calls.push(disk.submit(vec![page_read(buffer)], priority));
        await_in_flight(&disk, 1);
    }
    (1..=4).for_each(|fill| let_through(&pipe, fill));
    calls.into_iter().for_each(|call| assert_eq!(block_on(call), [Ok(())]));
    let order: Vec<u8> = buffers.iter().map(|buffer| buffer.copy_out(0, 1)[0]).collect();
    assert_eq!(order, [1, 4, 3, 2], "at the device first, then load, store, idle");
}

#[test]
fn the_device_keeps_the_memory_of_a_dropped_future() {
    let Some((disk, pipe)) = disk_on_pipe(|_| {}) else { return };
    let mut buffer = AlignedBuffer::zeroed(4096);
    drop(disk.submit(vec![page_read(&buffer)], Priority::Load));
    await_in_flight(&disk, 1);
    assert!(buffer.bytes_mut().is_none(), "INV-8");
    let_through(&pipe, 9);
    await_in_flight(&disk, 0);
    drop(disk);
    assert_eq!(buffer.bytes_mut().map(|bytes| bytes[4095]), Some(9));
}

#[test]
fn dropping_the_disk_waits_for_what_is_at_the_device() {
    let Some((disk, pipe)) = disk_on_pipe(|settings| settings.depth = 1) else { return };
    let buffers = [AlignedBuffer::zeroed(4096), AlignedBuffer::zeroed(4096)];
    let calls: Vec<_> = buffers.iter().map(|buffer| disk.submit(vec![page_read(buffer)], Priority::Load)).collect();
    let (dropped, drops) = mpsc::channel();
    let dropper = Builder::new().spawn(move || {
        drop(disk);
        dropped.send(()).expect("the test waits");
    });
    let_through(&pipe, 1);
    assert!(drops.try_recv().is_err(), "the second read cannot have been done");
    let_through(&pipe, 2);
    drops.recv().expect("then the drop ends");
    dropper.expect("a thread").join().expect("it does not panic");
    calls.into_iter().for_each(|call| assert_eq!(block_on(call), [Ok(())]));
}

#[test]
fn short_reads_are_resumed_where_they_stopped() {
    use std::io::Write;
    let Some((disk, mut pipe)) = disk_on_pipe(|_| {}) else { return };
    let buffer = AlignedBuffer::zeroed(8 * 4096);
    let call = disk.submit(vec![page_read(&buffer)], Priority::Load);
    // A page at a time: each read finds less than it wants.
    for page in 0..8 {
        pipe.write_all(&[page; 4096]).expect("the disk reads");
        await_pipe_empty(&pipe);
    }
    assert_eq!(block_on(call), [Ok(())]);
    (0..8).for_each(|page| assert_eq!(buffer.copy_out(page * 4096, 4096), [page as u8; 4096]));
}

/// Waits until the disk has taken everything out of the pipe.
fn await_pipe_empty(pipe: &File) {
    while rustix::io::ioctl_fionread(pipe).expect("a pipe knows its length") > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_transfer_left_at_the_device_keeps_its_memory_for_ever() {
    let buffer = AlignedBuffer::zeroed(4096);
    let ledger = Ledger::new(1 << 20, 4096, 8);
    let read = DiskOp::Read { offset: 0, into: buffer.disk_buffer() };
    let Ok(mut plan) = ledger.admit(vec![read], Priority::Load) else { panic!("there is room") };
    let mut flights = flights::Flights::default();
    flights.depart(plan.transfers.remove(0));
    drop(flights);
    assert_eq!(Arc::strong_count(&buffer.arena().keep), 3, "the buffer, the leaked transfer and this question");
    assert_eq!(plan.answers.try_recv(), Ok(None), "to answer would let the memory be reused");
}

#[test]
fn a_waker_that_panics_does_not_take_the_disk_down() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of a test");
        }
    }
    let folder = folder();
    let Some(disk) = disk_on_file(&folder, |_| {}) else { return };
    let buffer = AlignedBuffer::zeroed(1 << 20);
    let waker = Waker::from(Arc::new(Panics));
    for _ in 0..20 {
        let op = DiskOp::Read { offset: 0, into: buffer.disk_buffer() };
        let mut future = disk.submit(vec![op], Priority::Load);
        let is_pending = future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
        let others: Vec<_> = (0..8).map(|_| disk.sync()).collect();
        assert!(others.into_iter().all(|other| block_on(other) == Ok(())));
        assert!(!is_pending || block_on(future) == [Ok(())]);
    }
    assert_eq!(disk.counters().in_flight_count, 0);
}

#[test]
fn a_disk_can_be_opened_and_closed_many_times() {
    let folder = folder();
    let open_files = || std::fs::read_dir("/proc/self/fd").expect("the list of open files").count();
    for _ in 0..30 {
        let Some(disk) = disk_on_file(&folder, |_| {}) else { return };
        let buffer = AlignedBuffer::zeroed(4096);
        assert_eq!(read(&disk, 0, &buffer), Ok(()));
        drop(disk);
    }
    // Other tests open files meanwhile, but not one for each of these rounds.
    assert!(open_files() < 30 * 3, "{} files are open", open_files());
    let _kept: File = File::open("/dev/null").expect("a file");
}
