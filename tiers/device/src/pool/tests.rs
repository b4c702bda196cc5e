//! The pool with devices of special behaviour; what all disks have in common is in `crate::conformance`.

use std::fs::OpenOptions;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::aligned::AlignedBuffer;
use crate::conformance::block_on;

fn settings(path: &Path) -> DiskSettings {
    DiskSettings { bytes: Some(1 << 20), pool_thread_count: 3, ..DiskSettings::new(path) }
}

fn disk_on_file(folder: &TempDir) -> PoolDisk {
    let settings = settings(&folder.path().join("disk"));
    let backing = Backing::open(&settings).expect("a file");
    PoolDisk::start(Arc::new(backing), &settings, "as the test wants").expect("threads")
}

fn disk_on_device(path: &str) -> PoolDisk {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the device");
    let backing = Backing::assume(file, Path::new(path), 1 << 20);
    PoolDisk::start(Arc::new(backing), &settings(Path::new(path)), "as the test wants").expect("threads")
}

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn one(disk: &PoolDisk, op: DiskOp) -> Result<(), DiskError> {
    block_on(disk.submit(vec![op], Priority::Load)).remove(0)
}

#[test]
fn a_failed_sync_poisons_the_disk_for_good_but_reads_go_on() {
    let disk = disk_on_device("/dev/zero");
    let buffer = AlignedBuffer::zeroed(4096);
    let write = || DiskOp::Write { offset: 0, from: buffer.disk_buffer() };
    assert_eq!(one(&disk, write()), Ok(()));
    let calls: Vec<_> = (0..20).map(|_| disk.sync()).collect();
    for call in calls {
        assert!(matches!(block_on(call), Err(DiskError::Poisoned(_))));
    }
    assert!(matches!(one(&disk, write()), Err(DiskError::Poisoned(_))));
    assert_eq!(one(&disk, DiskOp::Read { offset: 0, into: buffer.disk_buffer() }), Ok(()));
    assert!(disk.poisoned().is_some());
}

#[test]
fn a_device_error_reaches_every_operation_of_the_batch() {
    let disk = disk_on_device("/dev/full");
    let buffer = AlignedBuffer::zeroed(4 * 4096);
    let op = |page: usize| DiskOp::Write { offset: page as u64 * 4096, from: buffer.part(page * 4096, 4096) };
    let answers = block_on(disk.submit((0..4).map(op).collect(), Priority::Store));
    assert!(answers.iter().all(|answer| matches!(answer, Err(DiskError::Io(_)))), "{answers:?}");
    assert_eq!(disk.counters().queued_count, 0);
}

#[test]
fn reads_behind_the_end_of_a_truncated_file_fail_and_those_before_it_do_not() {
    let folder = folder();
    let disk = disk_on_file(&folder);
    OpenOptions::new().write(true).open(disk.backing().path()).expect("the file").set_len(10_000).expect("a cut");
    let buffer = AlignedBuffer::zeroed(4 * 4096);
    let op = |page: usize| DiskOp::Read { offset: page as u64 * 4096, into: buffer.part(page * 4096, 4096) };
    let answers = block_on(disk.submit((0..4).map(op).collect(), Priority::Load));
    let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, true, false, false], "{answers:?}");
}

#[test]
fn dropping_the_disk_finishes_what_was_submitted() {
    let folder = folder();
    let disk = disk_on_file(&folder);
    let buffer = AlignedBuffer::holding(&vec![9; 1 << 20]);
    let op = |page: usize| DiskOp::Write { offset: page as u64 * 4096, from: buffer.part(page * 4096, 4096) };
    (0..256).rev().for_each(|page| drop(disk.submit(vec![op(page)], Priority::Store)));
    let sync = disk.sync();
    drop(disk);
    assert_eq!(block_on(sync), Ok(()));
    assert!(std::fs::read(folder.path().join("disk")).expect("the file").iter().all(|byte| *byte == 9));
}

#[test]
fn the_mode_says_why_there_are_threads() {
    let folder = folder();
    assert_eq!(disk_on_file(&folder).mode(), "pool of 3 threads (as the test wants)");
}
