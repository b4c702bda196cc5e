use std::cell::Cell;

use kvtier_device::LocalBoxFuture;
use kvtier_engine::place::Slot;
use kvtier_engine::port::Record;

use super::*;
use crate::frame::EncodedGroup;

/// A file in memory that counts what is read from it.
struct Bytes {
    bytes: Vec<u8>,
    read_bytes: Cell<usize>,
}

impl LogFile for Bytes {
    fn write_at(&self, _: u64, _: Vec<u8>) -> LocalBoxFuture<io::Result<()>> {
        unreachable!("a scan writes nothing")
    }
    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>> {
        let from = (offset as usize).min(self.bytes.len());
        let to = (from + bytes).min(self.bytes.len());
        self.read_bytes.set(self.read_bytes.get() + (to - from));
        let read = self.bytes[from..to].to_vec();
        Box::pin(async move { Ok(read) })
    }
    fn truncate(&self, _: u64) -> LocalBoxFuture<io::Result<()>> {
        unreachable!("a scan writes nothing")
    }
    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        unreachable!("a scan writes nothing")
    }
}

const SEED: u32 = 0xabcd;

fn group(first_seq: u64, count: u64) -> Vec<u8> {
    let record = |seq| Record::Quarantined { slot: Slot { device: 0, offset: seq, bytes: 4096 } };
    let records: Vec<_> = (first_seq..first_seq + count).map(record).collect();
    let mut group = EncodedGroup::encode(first_seq, &records).expect("small");
    group.seal(SEED);
    group.bytes
}

fn file(parts: &[&[u8]]) -> Bytes {
    Bytes { bytes: parts.concat(), read_bytes: Cell::new(0) }
}

fn walk(cursor: &mut FrameCursor<'_>) -> (u64, Step) {
    futures::executor::block_on(async {
        let mut frames = 0;
        loop {
            match cursor.step().await.expect("memory") {
                Step::Frame(..) => frames += 1,
                other => return (frames, other),
            }
        }
    })
}

fn resynchronise(cursor: &mut FrameCursor<'_>) -> Option<(u64, u64)> {
    let found = futures::executor::block_on(cursor.resynchronise()).expect("memory");
    found.map(|header| (header.seq, cursor.offset))
}

#[test]
fn a_walk_ends_exactly_behind_the_last_frame() {
    let file = file(&[&group(1, 3), &group(4, 20_000), &group(20_004, 1)]);
    let end = file.bytes.len() as u64;
    let mut cursor = FrameCursor::new(&file, SEED, 0, 1, end);
    let (frames, last) = walk(&mut cursor);
    assert_eq!(last, Step::End);
    assert!(frames > 5, "a large group has several frames");
    assert_eq!((cursor.offset, cursor.next_seq), (end, 20_005));
    assert_eq!(file.read_bytes.get() as u64 / end, 1, "every byte is read about once");
}

#[test]
fn nothing_behind_the_end_is_looked_at() {
    let first = group(1, 3);
    let file = file(&[&first, &group(4, 3)]);
    let mut cursor = FrameCursor::new(&file, SEED, 0, 1, first.len() as u64);
    assert_eq!(walk(&mut cursor), (1, Step::End));
    let mut cursor = FrameCursor::new(&file, SEED, 0, 1, first.len() as u64 - 1);
    assert_eq!(walk(&mut cursor), (0, Step::Fault(FrameFault::Short)));
}

#[test]
fn a_frame_with_another_number_is_a_fault() {
    let file = file(&[&group(1, 3), &group(5, 3)]);
    let mut cursor = FrameCursor::new(&file, SEED, 0, 1, file.bytes.len() as u64);
    assert_eq!(walk(&mut cursor), (1, Step::Fault(FrameFault::Sequence { found: 5, expected: 4 })));
    assert_eq!(resynchronise(&mut cursor).map(|(seq, _)| seq), Some(5), "it is sound all the same");
}

/// The search reads in chunks; a header that lies across two of them must not be missed.
#[test]
fn the_next_sound_frame_is_found_wherever_it_lies() {
    let chunk = 256 << 10;
    for gap in (chunk - 2 * FRAME_HEADER_BYTES..chunk + FRAME_HEADER_BYTES).chain([0, 1, 27, 28, 29, 3 * chunk + 5]) {
        let file = file(&[&vec![0xaa; gap], &group(9, 2)]);
        let mut cursor = FrameCursor::new(&file, SEED, 0, 7, file.bytes.len() as u64);
        assert_eq!(resynchronise(&mut cursor), Some((9, gap as u64)));
        assert_eq!(walk(&mut cursor), (1, Step::End));
    }
}

#[test]
fn frames_of_the_past_and_of_other_segments_are_not_found() {
    let mut other = EncodedGroup::encode(9, &[Record::Reset { epoch: 1, reason: "x".into() }]).expect("small");
    other.seal(SEED + 1);
    let file = file(&[&[1; 50], &group(3, 2), &other.bytes]);
    let mut cursor = FrameCursor::new(&file, SEED, 0, 7, file.bytes.len() as u64);
    assert_eq!(resynchronise(&mut cursor), None);
    assert_eq!(cursor.offset, file.bytes.len() as u64, "the search has ended");
}

/// Somebody who may choose keys writes one that looks like a frame. Without the log's seed it does not verify.
#[test]
fn a_key_that_looks_like_a_frame_is_not_taken_for_one() {
    let mut forged = EncodedGroup::encode(8, &[Record::Reset { epoch: 1, reason: String::new() }]).expect("small");
    forged.seal(0);
    assert!(forged.bytes.len() <= 64, "it fits into a key");
    let key = kvtier_identity::Key::new(&forged.bytes).expect("1 to 64 bytes");
    let record = Record::StoredHost { block: kvtier_identity::BlockId(1), space: 1, key, parent: None, length: 1 };
    let mut carrier = EncodedGroup::encode(7, &[record]).expect("small");
    carrier.seal(SEED);
    carrier.bytes.pop();
    let file = file(&[&carrier.bytes]);
    let mut cursor = FrameCursor::new(&file, SEED, 0, 7, file.bytes.len() as u64);
    assert_eq!(walk(&mut cursor), (0, Step::Fault(FrameFault::Short)));
    assert_eq!(resynchronise(&mut cursor), None);
}

#[test]
fn zeros_end_a_walk_and_a_search() {
    let file = file(&[&group(1, 2), &vec![0; 1 << 20]]);
    let mut cursor = FrameCursor::new(&file, SEED, 0, 1, file.bytes.len() as u64);
    assert_eq!(walk(&mut cursor), (1, Step::Fault(FrameFault::Field("length"))));
    assert_eq!(resynchronise(&mut cursor), None);
}

#[test]
fn a_payload_is_what_stands_behind_the_header() {
    let file = file(&[&group(1, 2)]);
    let mut cursor = FrameCursor::new(&file, SEED, 0, 1, file.bytes.len() as u64);
    futures::executor::block_on(async {
        let Ok(Step::Frame(header, at)) = cursor.step().await else { panic!("one sound frame") };
        let payload = cursor.payload(&header, at).await.expect("memory").to_vec();
        assert_eq!(payload, file.bytes[FRAME_HEADER_BYTES..]);
        assert_eq!(crate::codec::decode_payload(&payload, header.count).map(|records| records.len()), Ok(2));
    });
}
