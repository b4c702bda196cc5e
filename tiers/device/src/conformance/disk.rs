//! The suite for [`Disk`].

use crate::aligned::AlignedBuffer;
use crate::port::{Disk, DiskBuffer, DiskError, DiskOp, Priority};
use crate::sim::Dice;

/// Size of the disk a stand must bring.
pub const DISK_BYTES: u64 = 12 << 20;

const PAGE: u64 = 4096;

/// A disk of [`DISK_BYTES`] on media of its own.
pub trait DiskStand {
    /// The disk.
    fn disk(&self) -> &dyn Disk;
    /// Drives a future of this disk to its end.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T;
    /// Stops the disk and opens the same media again.
    fn restart(self) -> Self;
}

/// Checks every claim, each on a fresh stand. Panics at the first that does not hold.
pub fn check_disk<S: DiskStand>(make: impl Fn() -> S) {
    what_was_written_is_read_back(&make());
    answers_are_in_the_order_of_the_batch(&make());
    an_empty_batch_is_answered(&make());
    what_is_not_aligned_is_refused(&make());
    what_lies_outside_is_refused(&make());
    neighbours_keep_their_bytes_in_any_order(&make());
    a_transfer_of_many_megabytes_is_whole(&make());
    a_dropped_future_does_not_stop_its_write(&make());
    the_memory_is_free_when_the_answer_comes(&make());
    many_syncs_are_all_answered(&make());
    synced_bytes_outlive_a_restart(make());
    counters_add_up(&make());
    every_priority_makes_progress(&make());
    for seed in 0..4 {
        random_operations_match_a_plain_vector(&make(), seed);
    }
}

fn submit<S: DiskStand>(stand: &S, batch: Vec<DiskOp>) -> Vec<Result<(), DiskError>> {
    let answers = stand.disk().submit(batch, Priority::Load);
    stand.wait(answers)
}

fn store<S: DiskStand>(stand: &S, offset: u64, bytes: &[u8]) {
    let from = AlignedBuffer::holding(bytes).disk_buffer();
    assert_eq!(submit(stand, vec![DiskOp::Write { offset, from }]), [Ok(())], "write at {offset}");
}

fn load<S: DiskStand>(stand: &S, offset: u64, bytes: usize) -> Vec<u8> {
    let buffer = AlignedBuffer::zeroed(bytes);
    let into = buffer.disk_buffer();
    assert_eq!(submit(stand, vec![DiskOp::Read { offset, into }]), [Ok(())], "read at {offset}");
    buffer.copy_out(0, bytes)
}

/// Bytes that differ from page to page and from `salt` to `salt`.
fn pattern(salt: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(salt);
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        content.extend_from_slice(&dice.next_u64().to_le_bytes());
    }
    content.truncate(bytes);
    content
}

fn what_was_written_is_read_back<S: DiskStand>(stand: &S) {
    assert_eq!(stand.disk().bytes(), DISK_BYTES);
    let places = [(0, 4096), (8192, 65_536), (DISK_BYTES - 4096, 4096), (1 << 20, 1 << 20)];
    for (offset, bytes) in places {
        store(stand, offset, &pattern(offset, bytes));
    }
    for (offset, bytes) in places {
        assert!(load(stand, offset, bytes) == pattern(offset, bytes), "{bytes} bytes at {offset}");
    }
}

fn answers_are_in_the_order_of_the_batch<S: DiskStand>(stand: &S) {
    let buffer = AlignedBuffer::holding(&pattern(1, 4 * 4096));
    let write = |offset, page: usize| DiskOp::Write { offset, from: buffer.part(page * 4096, 4096) };
    let batch = vec![write(3 * PAGE, 0), write(DISK_BYTES, 1), write(0, 2), write(PAGE + 1, 3)];
    let answers = submit(stand, batch);
    let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, false, true, false], "{answers:?}");
    assert_eq!(load(stand, 3 * PAGE, 4096), buffer.copy_out(0, 4096));
    assert_eq!(load(stand, 0, 4096), buffer.copy_out(2 * 4096, 4096));
}

fn an_empty_batch_is_answered<S: DiskStand>(stand: &S) {
    assert_eq!(submit(stand, Vec::new()), []);
}

fn what_is_not_aligned_is_refused<S: DiskStand>(stand: &S) {
    store(stand, 0, &pattern(3, 8192));
    let buffer = AlignedBuffer::zeroed(8192);
    let whole = buffer.disk_buffer();
    let odd = [
        (1, whole.clone()),
        (512, whole.clone()),
        (0, DiskBuffer { bytes: 4095, ..whole.clone() }),
        (0, DiskBuffer { bytes: 0, ..whole.clone() }),
        (0, DiskBuffer { address: whole.address + 8, bytes: 4096, ..whole.clone() }),
    ];
    for (offset, from) in odd {
        let answer = submit(stand, vec![DiskOp::Write { offset, from: from.clone() }]);
        assert!(matches!(answer[..], [Err(DiskError::Io(_))]), "{from:?} at {offset}: {answer:?}");
        let answer = submit(stand, vec![DiskOp::Read { offset, into: from.clone() }]);
        assert!(matches!(answer[..], [Err(DiskError::Io(_))]), "{from:?} at {offset}: {answer:?}");
    }
    assert!(load(stand, 0, 8192) == pattern(3, 8192), "a refused write touches nothing");
}

fn what_lies_outside_is_refused<S: DiskStand>(stand: &S) {
    let buffer = AlignedBuffer::zeroed(8192);
    for offset in [DISK_BYTES, DISK_BYTES - PAGE, u64::MAX - 4095, u64::MAX - 8191] {
        let write = DiskOp::Write { offset, from: buffer.disk_buffer() };
        let read = DiskOp::Read { offset, into: buffer.disk_buffer() };
        let answers = submit(stand, vec![write, read]);
        assert!(answers.iter().all(|answer| matches!(answer, Err(DiskError::Io(_)))), "{offset}: {answers:?}");
    }
}

fn neighbours_keep_their_bytes_in_any_order<S: DiskStand>(stand: &S) {
    let count = 64;
    let mut dice = Dice::new(5);
    for is_memory_in_order in [true, false] {
        let content = pattern(u64::from(is_memory_in_order), count * 4096);
        let source = AlignedBuffer::holding(&content);
        let target = AlignedBuffer::zeroed(count * 4096);
        let place = |page: usize| if is_memory_in_order { page } else { count - 1 - page };
        let mut pages: Vec<usize> = (0..count).collect();
        shuffle(&mut pages, &mut dice);
        let write =
            |page: &usize| DiskOp::Write { offset: *page as u64 * PAGE, from: source.part(place(*page) * 4096, 4096) };
        assert!(submit(stand, pages.iter().map(write).collect()).iter().all(Result::is_ok));
        shuffle(&mut pages, &mut dice);
        let read =
            |page: &usize| DiskOp::Read { offset: *page as u64 * PAGE, into: target.part(place(*page) * 4096, 4096) };
        assert!(submit(stand, pages.iter().map(read).collect()).iter().all(Result::is_ok));
        assert!(target.copy_out(0, count * 4096) == content, "memory in order: {is_memory_in_order}");
        let on_disk = load(stand, 7 * PAGE, 4096);
        assert!(on_disk == content[place(7) * 4096..][..4096], "page 7 is where it belongs");
    }
}

fn a_transfer_of_many_megabytes_is_whole<S: DiskStand>(stand: &S) {
    let bytes = (DISK_BYTES - PAGE) as usize;
    store(stand, PAGE, &pattern(9, bytes));
    assert!(load(stand, PAGE, bytes) == pattern(9, bytes));
}

fn a_dropped_future_does_not_stop_its_write<S: DiskStand>(stand: &S) {
    let content = pattern(11, 65_536);
    let from = AlignedBuffer::holding(&content).disk_buffer();
    // The future is the only one who knows the memory, besides the operation.
    drop(stand.disk().submit(vec![DiskOp::Write { offset: PAGE, from }], Priority::Store));
    // Memory that was given back would soon hold something else.
    let _others: Vec<AlignedBuffer> = (0..16).map(|_| AlignedBuffer::holding(&[0xee; 65_536])).collect();
    let deadline_rounds = 1_000_000;
    let is_there = (0..deadline_rounds).any(|_| {
        let _progress = load(stand, 0, 4096);
        stand.disk().counters().in_flight_count + stand.disk().counters().queued_count == 0
    });
    assert!(is_there, "the write ends");
    assert!(load(stand, PAGE, 65_536) == content);
}

fn the_memory_is_free_when_the_answer_comes<S: DiskStand>(stand: &S) {
    let mut buffer = AlignedBuffer::zeroed(64 * 4096);
    for _ in 0..50 {
        let read = |page: usize| DiskOp::Read { offset: page as u64 * PAGE, into: buffer.part(page * 4096, 4096) };
        let batch = (0..64).map(read).collect();
        assert!(submit(stand, batch).iter().all(Result::is_ok));
        assert!(buffer.bytes_mut().is_some(), "nobody else holds the memory");
    }
}

fn many_syncs_are_all_answered<S: DiskStand>(stand: &S) {
    store(stand, 0, &pattern(1, 4096));
    let before = stand.disk().counters().sync_count;
    let calls: Vec<_> = (0..100).map(|_| stand.disk().sync()).collect();
    for call in calls {
        assert_eq!(stand.wait(call), Ok(()));
    }
    let done = stand.disk().counters().sync_count - before;
    assert!((1..=100).contains(&done), "{done} syncs for 100 calls");
    assert_eq!(stand.disk().poisoned(), None);
}

fn synced_bytes_outlive_a_restart<S: DiskStand>(stand: S) {
    store(&stand, 3 * PAGE, &pattern(21, 65_536));
    let sync = stand.disk().sync();
    assert_eq!(stand.wait(sync), Ok(()));
    let stand = stand.restart();
    assert!(load(&stand, 3 * PAGE, 65_536) == pattern(21, 65_536));
}

fn counters_add_up<S: DiskStand>(stand: &S) {
    let before = stand.disk().counters();
    store(stand, 0, &pattern(1, 65_536));
    load(stand, 0, 8192);
    load(stand, 0, 4096);
    let after = stand.disk().counters();
    assert_eq!(after.written_bytes - before.written_bytes, 65_536);
    assert_eq!(after.read_bytes - before.read_bytes, 12_288);
    assert_eq!((after.in_flight_count, after.queued_count), (0, 0));
}

fn every_priority_makes_progress<S: DiskStand>(stand: &S) {
    let buffer = AlignedBuffer::holding(&pattern(2, 4096));
    let classes = [Priority::Idle, Priority::Store, Priority::Load];
    let calls: Vec<_> = (0..300_usize)
        .map(|index| {
            let write = DiskOp::Write { offset: index as u64 * PAGE, from: buffer.disk_buffer() };
            stand.disk().submit(vec![write], classes[index % 3])
        })
        .collect();
    for call in calls {
        assert_eq!(stand.wait(call), [Ok(())]);
    }
}

/// Several batches of operations that do not overlap are under way at once; then everything is compared.
fn random_operations_match_a_plain_vector<S: DiskStand>(stand: &S, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut model = vec![0_u8; DISK_BYTES as usize];
    let page_count = DISK_BYTES / PAGE;
    let classes = [Priority::Load, Priority::Store, Priority::Idle];
    store(stand, 0, &model);
    for round in 0..12 {
        let mut page = 0;
        let mut calls = Vec::new();
        let mut reads = Vec::new();
        let mut batch = Vec::new();
        while page < page_count {
            let longest = if dice.one_in(8) { 1200 } else { 24 };
            let count = (1 + dice.below(longest)).min(page_count - page);
            let (offset, bytes) = (page * PAGE, (count * PAGE) as usize);
            let range = offset as usize..offset as usize + bytes;
            if dice.one_in(2) {
                let content = pattern(dice.next_u64(), bytes);
                let from = AlignedBuffer::holding(&content).disk_buffer();
                model[range].copy_from_slice(&content);
                batch.push(DiskOp::Write { offset, from });
            } else {
                let buffer = AlignedBuffer::zeroed(bytes);
                batch.push(DiskOp::Read { offset, into: buffer.disk_buffer() });
                reads.push((buffer, range));
            }
            if dice.one_in(4) {
                let class = classes[dice.below(3) as usize];
                calls.push(stand.disk().submit(std::mem::take(&mut batch), class));
            }
            page += count + dice.below(16);
        }
        calls.push(stand.disk().submit(batch, Priority::Load));
        for call in calls {
            assert!(stand.wait(call).iter().all(Result::is_ok), "seed {seed} round {round}");
        }
        for (buffer, range) in reads {
            let is_equal = buffer.copy_out(0, range.len()) == model[range.clone()];
            assert!(is_equal, "seed {seed} round {round}: bytes {range:?} differ");
        }
    }
    assert!(load(stand, 0, DISK_BYTES as usize) == model, "seed {seed}: the disks differ in the end");
}

fn shuffle(items: &mut [usize], dice: &mut Dice) {
    for last in (1..items.len()).rev() {
        items.swap(last, dice.below(last as u64 + 1) as usize);
    }
}
