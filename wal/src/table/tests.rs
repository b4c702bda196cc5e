use super::*;

fn header(first_seq: u64, previous: (u64, u64), created_unix_ms: u64) -> SegmentHeader {
    let (previous_first_seq, previous_last_seq) = previous;
    SegmentHeader { first_seq, epoch: 1, log_id: 1, previous_first_seq, previous_last_seq, created_unix_ms }
}

/// Records 1..=10, 11..=20, a gap, 31..=40; 1,000 bytes each; begun at 0, 100 and 200 ms.
fn three() -> Table {
    let mut table = Table::default();
    for (first_seq, previous, created, last_seq) in
        [(1, (0, 0), 0, 10), (11, (1, 10), 100, 20), (31, (11, 20), 200, 40)]
    {
        table.push(header(first_seq, previous, created));
        let newest = table.newest_mut().expect("just pushed");
        newest.bytes = 1000;
        newest.last_seq = last_seq;
    }
    table
}

fn keep() -> Keep {
    Keep { bytes: 10_000, ms: 10_000, covered_seq: 40, now_unix_ms: 300 }
}

#[test]
fn a_record_is_found_in_its_segment_and_behind_gaps() {
    let table = three();
    let first = |after| table.locate(after).map(|place| place.header.first_seq);
    assert_eq!(
        [first(0), first(9), first(10), first(19), first(20), first(25), first(39), first(40)],
        [Some(1), Some(1), Some(11), Some(11), Some(31), Some(31), Some(31), None]
    );
}

#[test]
fn a_read_begins_at_the_nearest_frame_remembered() {
    let mut table = three();
    table.mark(11, 11, 80);
    table.mark(11, 13, 90);
    table.mark(11, 17, 80 + MARK_EVERY_BYTES);
    table.mark(12, 99, 1 << 40);
    let place = |after| table.locate(after).map(|place| (place.seq, place.offset));
    assert_eq!(place(15), Some((11, 80)), "13 was too near to be remembered, and 17 lies ahead");
    assert_eq!(place(16), Some((17, 80 + MARK_EVERY_BYTES)));
}

#[test]
fn retention_takes_only_covered_segments_and_never_the_newest() {
    let mut table = three();
    assert!(!table.may_retire(keep()));
    assert!(table.may_retire(Keep { bytes: 2999, ..keep() }), "too many bytes");
    assert!(table.may_retire(Keep { ms: 200, ..keep() }), "its newest record is 200 ms old");
    assert!(!table.may_retire(Keep { ms: 201, ..keep() }));
    assert!(!table.may_retire(Keep { bytes: 0, covered_seq: 9, ..keep() }), "the index lacks record 10");
    assert_eq!(table.retire().header.first_seq, 1);
    assert_eq!(table.oldest_after(), 10);
    assert_eq!(table.retire().header.first_seq, 11);
    assert_eq!(table.oldest_after(), 20, "nothing between 20 and 31 has been deleted");
    assert!(!table.may_retire(Keep { bytes: 0, ms: 0, ..keep() }), "the newest is written to");
}

#[test]
fn many_small_segments_are_too_many() {
    let mut table = Table::default();
    for number in 1..=SEGMENTS_RETAINED_MAX as u64 + 1 {
        table.push(header(number * 10, (0, 0), 0));
    }
    assert!(table.may_retire(Keep { covered_seq: u64::MAX, bytes: u64::MAX, ..keep() }));
    table.retire();
    assert!(!table.may_retire(Keep { covered_seq: u64::MAX, bytes: u64::MAX, ..keep() }));
}
