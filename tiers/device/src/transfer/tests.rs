use proptest::prelude::*;

use super::*;
use crate::aligned::AlignedBuffer;

const MAX: u32 = 1 << 20;

fn limits() -> Limits<'static> {
    Limits { disk_bytes: 1 << 30, transfer_bytes_max: MAX, poisoned: None }
}

fn read(offset: u64, into: DiskBuffer) -> DiskOp {
    DiskOp::Read { offset, into }
}

fn write(offset: u64, from: DiskBuffer) -> DiskOp {
    DiskOp::Write { offset, from }
}

fn shapes(plan: &Plan) -> Vec<(Direction, u64, u32)> {
    plan.transfers.iter().map(|transfer| (transfer.direction, transfer.offset, transfer.bytes)).collect()
}

fn finish_all(plan: Plan) -> Answers {
    let Plan { transfers, mut answers } = plan;
    for transfer in transfers {
        transfer.finish(Ok(()));
    }
    answers.try_recv().expect("not dropped").expect("all are finished")
}

fn single(bytes: usize) -> (Transfer, oneshot::Receiver<Answers>) {
    let buffer = AlignedBuffer::zeroed(bytes);
    let Plan { mut transfers, answers } = plan(vec![read(0, buffer.disk_buffer())], Priority::Load, limits());
    assert_eq!(transfers.len(), 1);
    (transfers.remove(0), answers)
}

#[test]
fn neighbours_on_disk_and_in_memory_are_joined_whatever_their_order() {
    let buffer = AlignedBuffer::zeroed(4 * 4096);
    let ops = [2, 0, 3, 1].map(|page| read(page * 4096, buffer.part(page as usize * 4096, 4096)));
    let plan = plan(ops.to_vec(), Priority::Load, limits());
    assert_eq!(shapes(&plan), [(Direction::Read, 0, 4 * 4096)]);
    assert_eq!(plan.transfers[0].address, buffer.disk_buffer().address);
    assert_eq!(finish_all(plan), vec![Ok(()); 4]);
}

#[test]
fn neighbours_on_disk_alone_are_not_joined() {
    let buffer = AlignedBuffer::zeroed(2 * 4096);
    let ops = vec![read(0, buffer.part(4096, 4096)), read(4096, buffer.part(0, 4096))];
    let plan = plan(ops, Priority::Load, limits());
    assert_eq!(shapes(&plan), [(Direction::Read, 0, 4096), (Direction::Read, 4096, 4096)]);
}

#[test]
fn a_read_is_never_joined_with_a_write() {
    let buffer = AlignedBuffer::zeroed(2 * 4096);
    let ops = vec![read(0, buffer.part(0, 4096)), write(4096, buffer.part(4096, 4096))];
    let plan = plan(ops, Priority::Load, limits());
    assert_eq!(shapes(&plan), [(Direction::Read, 0, 4096), (Direction::Write, 4096, 4096)]);
}

#[test]
fn joining_stops_at_the_longest_transfer() {
    let buffer = AlignedBuffer::zeroed(2 * MAX as usize + 4096);
    let half = MAX as usize / 2;
    let ops = (0..4).map(|index| read((index * half) as u64, buffer.part(index * half, half))).collect();
    let plan = plan(ops, Priority::Load, limits());
    assert_eq!(shapes(&plan), [(Direction::Read, 0, MAX), (Direction::Read, u64::from(MAX), MAX)]);
}

#[test]
fn a_giant_is_cut_and_answered_once() {
    let buffer = AlignedBuffer::zeroed(2 * MAX as usize + 8192);
    let plan = plan(vec![write(4096, buffer.disk_buffer())], Priority::Store, limits());
    let bytes: Vec<u32> = plan.transfers.iter().map(|transfer| transfer.bytes).collect();
    assert_eq!(bytes, [MAX, MAX, 8192]);
    assert_eq!(plan.transfers[2].offset, 4096 + 2 * u64::from(MAX));
    assert_eq!(plan.transfers[2].address, buffer.disk_buffer().address + 2 * MAX as usize);
    assert_eq!(finish_all(plan), [Ok(())]);
}

#[test]
fn one_failed_piece_fails_its_operation() {
    let buffer = AlignedBuffer::zeroed(3 * MAX as usize);
    let Plan { transfers, mut answers } = plan(vec![write(0, buffer.disk_buffer())], Priority::Store, limits());
    for (index, transfer) in transfers.into_iter().enumerate() {
        let result = if index == 1 { Err(DiskError::Io("bad sector".to_owned())) } else { Ok(()) };
        transfer.finish(result);
    }
    let answers = answers.try_recv().expect("not dropped").expect("all are finished");
    assert_eq!(answers, [Err(DiskError::Io("bad sector".to_owned()))]);
}

#[test]
fn a_joined_transfer_that_fails_blames_only_the_guilty() {
    let buffer = AlignedBuffer::zeroed(3 * 4096);
    let ops = [2, 0, 1].map(|page| read(page * 4096, buffer.part(page as usize * 4096, 4096)));
    let Plan { mut transfers, mut answers } = plan(ops.to_vec(), Priority::Load, limits());
    let joined = transfers.remove(0);
    assert!(joined.is_joined());
    for piece in joined.scatter() {
        assert!(!piece.is_joined());
        assert_eq!(piece.address - buffer.disk_buffer().address, piece.offset as usize);
        let result = if piece.offset == 4096 { Err(DiskError::Io("bad".to_owned())) } else { Ok(()) };
        piece.finish(result);
    }
    let answers = answers.try_recv().expect("not dropped").expect("all are finished");
    assert_eq!(answers, [Ok(()), Ok(()), Err(DiskError::Io("bad".to_owned()))]);
}

#[test]
fn a_poisoned_disk_refuses_writes_and_still_reads() {
    let buffer = AlignedBuffer::zeroed(8192);
    let ops = vec![write(0, buffer.part(0, 4096)), read(4096, buffer.part(4096, 4096))];
    let poisoned = Limits { poisoned: Some("a sync failed"), ..limits() };
    let plan = plan(ops, Priority::Load, poisoned);
    assert_eq!(shapes(&plan), [(Direction::Read, 4096, 4096)]);
    assert_eq!(finish_all(plan), [Err(DiskError::Poisoned("a sync failed".to_owned())), Ok(())]);
}

#[test]
fn a_batch_of_nothing_but_refusals_is_answered_at_once() {
    let buffer = AlignedBuffer::zeroed(4096);
    let mut plan = plan(vec![read(1, buffer.disk_buffer())], Priority::Load, limits());
    assert!(plan.transfers.is_empty());
    let answers = plan.answers.try_recv().expect("not dropped").expect("answered");
    assert!(matches!(answers[..], [Err(DiskError::Io(_))]));
}

#[test]
fn the_memory_is_let_go_before_the_answer_and_not_before_the_end() {
    let mut buffer = AlignedBuffer::zeroed(2 * MAX as usize);
    let Plan { mut transfers, answers } = plan(vec![read(0, buffer.disk_buffer())], Priority::Load, limits());
    drop(answers);
    transfers.remove(0).finish(Ok(()));
    assert!(buffer.bytes_mut().is_none(), "one piece is still at the device");
    transfers.remove(0).finish(Ok(()));
    assert!(buffer.bytes_mut().is_some());
}

#[test]
fn short_moves_are_resumed_from_the_last_whole_block() {
    let (mut transfer, _answers) = single(16 * 4096);
    assert_eq!(transfer.advance(Ok(3 * 4096)), Progress::Resume);
    assert_eq!((transfer.position(), transfer.rest_bytes()), (3 * 4096, 13 * 4096));
    assert_eq!(transfer.advance(Ok(4096 + 512)), Progress::Resume);
    assert_eq!((transfer.position(), transfer.rest_bytes()), (4 * 4096, 12 * 4096));
    assert_eq!(transfer.rest_address(), transfer.address + 4 * 4096);
    assert_eq!(transfer.advance(Ok(12 * 4096)), Progress::Whole);
}

#[test]
fn a_read_past_the_end_of_the_file_fails() {
    for last in [0, 1, 4095] {
        let (mut transfer, _answers) = single(8 * 4096);
        assert_eq!(transfer.advance(Ok(4096)), Progress::Resume);
        let Progress::Failed(reason) = transfer.advance(Ok(last)) else { panic!("{last} more bytes are not all") };
        assert!(reason.contains("file ends before offset 8192"), "{reason}");
    }
}

#[test]
fn a_write_that_gets_nowhere_fails_after_some_tries() {
    let buffer = AlignedBuffer::zeroed(8192);
    let mut plan = plan(vec![write(0, buffer.disk_buffer())], Priority::Load, limits());
    let transfer = &mut plan.transfers[0];
    let rounds = (0..100).take_while(|_| transfer.advance(Ok(0)) == Progress::Resume).count();
    assert_eq!(rounds, usize::from(TRIES_MAX) - 1);
}

#[test]
fn an_interruption_is_no_error_unless_it_never_ends() {
    let (mut transfer, _answers) = single(4096);
    let interrupted = || Err(io::Error::from_raw_os_error(libc::EINTR));
    assert_eq!(transfer.advance(interrupted()), Progress::Resume);
    assert_eq!(transfer.advance(Err(io::Error::from_raw_os_error(libc::EAGAIN))), Progress::Resume);
    assert_eq!(transfer.rest_bytes(), 4096);
    let rounds = (0..100).take_while(|_| transfer.advance(interrupted()) == Progress::Resume).count();
    assert!(rounds < 100);
}

#[test]
fn a_device_error_is_told_with_its_place() {
    let (mut transfer, _answers) = single(8192);
    let Progress::Failed(reason) = transfer.advance(Err(io::Error::from_raw_os_error(libc::EIO))) else {
        panic!("EIO is final")
    };
    assert!(reason.starts_with("a read of 8192 bytes at offset 0 failed: Input/output error"), "{reason}");
}

proptest! {
    /// Whatever a batch looks like, its transfers move exactly its valid operations' bytes, each once, between the
    /// right places, and no transfer is longer than allowed.
    #[test]
    fn transfers_cover_the_operations_exactly(
        pages in prop::collection::vec((0_u64..64, 1_usize..12, any::<bool>(), any::<bool>()), 0..24),
        longest_pages in 1_u32..8,
    ) {
        let limits = Limits { disk_bytes: 64 * 4096, transfer_bytes_max: longest_pages * 4096, poisoned: None };
        let arena = AlignedBuffer::zeroed(128 * 4096);
        let place = |page: u64, is_shifted: bool| if is_shifted { 64 + (page * 7) % 50 } else { page };
        let ops: Vec<DiskOp> = pages
            .iter()
            .map(|(page, count, is_write, is_shifted)| {
                let buffer = arena.part(place(*page, *is_shifted) as usize * 4096, count * 4096);
                if *is_write { write(page * 4096, buffer) } else { read(page * 4096, buffer) }
            })
            .collect();
        let mut expected = Vec::new();
        for op in &ops {
            let (direction, offset, buffer) = parts(op);
            if check(op, limits).is_ok() {
                let pages = (0..buffer.bytes).step_by(4096);
                expected.extend(pages.map(|at| (direction, offset + u64::from(at), buffer.address + at as usize)));
            }
        }
        let valid: Vec<bool> = ops.iter().map(|op| check(op, limits).is_ok()).collect();
        let plan = plan(ops, Priority::Load, limits);
        let mut moved = Vec::new();
        for transfer in &plan.transfers {
            prop_assert!(transfer.bytes <= longest_pages * 4096 && transfer.bytes > 0);
            let pages = (0..transfer.bytes).step_by(4096);
            moved.extend(pages.map(|at| {
                (transfer.direction, transfer.offset + u64::from(at), transfer.address + at as usize)
            }));
        }
        expected.sort_unstable();
        moved.sort_unstable();
        prop_assert_eq!(moved, expected);
        let answers = finish_all(plan);
        prop_assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), valid);
    }
}
