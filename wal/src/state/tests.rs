use std::time::Duration;

use kvtier_engine::place::Slot;

use super::*;

fn settings() -> Settings {
    Settings { queue_bytes_max: 64 << 10, ..Settings::default() }
}

fn state() -> State {
    let mut state = State::new(&settings(), Table::default(), 0, 1, 1);
    state.table.push(crate::segment::SegmentHeader {
        first_seq: 1,
        epoch: 1,
        log_id: 1,
        previous_first_seq: 0,
        previous_last_seq: 0,
        created_unix_ms: 0,
    });
    state
}

fn append(state: &mut State, count: usize, bytes: usize) -> Result<Appended, Overflow> {
    let record = Record::Quarantined { slot: Slot { device: 0, offset: 0, bytes: 4096 } };
    state.append(vec![record; count], bytes, Moment(Duration::ZERO), &settings())
}

fn commit(state: &mut State, run: Run) {
    let (durable, grown) = state.commit(run, 100, &[]);
    durable.tell();
    grown.tell();
}

#[test]
fn a_full_queue_refuses_at_the_soft_bound_and_takes_more_up_to_the_hard_one() {
    let mut state = state();
    let soft = 64 << 10;
    append(&mut state, 1, soft - 1).expect("below the soft bound");
    assert_eq!(state.ready(soft), Ok(()));
    append(&mut state, 1, 1).expect("at the soft bound");
    assert_eq!(state.ready(soft), Err(AppendRefused::Busy));
    append(&mut state, 1, soft).expect("what was decided before fits in the slack");
    let overflow = append(&mut state, 1, 1).expect_err("beyond the hard bound");
    assert!(matches!(overflow.refused, AppendRefused::Suspended(_)));
    assert!(matches!(state.condition, JournalState::Suspended(_)));
    assert_eq!(state.queued(), None, "the queue is dropped");
    assert_eq!(state.next_seq, 4, "the refused record has no number");
}

#[test]
fn a_group_in_flight_counts_against_the_bounds_until_it_is_durable() {
    let mut state = state();
    let soft = 64 << 10;
    append(&mut state, 3, soft).expect("taken");
    let run = state.take_group(usize::MAX);
    assert_eq!((run.first_seq, run.last_seq()), (1, 3));
    assert_eq!(state.ready(soft), Err(AppendRefused::Busy));
    commit(&mut state, run);
    assert_eq!(state.ready(soft), Ok(()));
}

#[test]
fn a_group_ends_when_it_is_large_enough() {
    let mut state = state();
    for _ in 0..5 {
        append(&mut state, 2, 100).expect("taken");
    }
    let run = state.take_group(250);
    assert_eq!((run.first_seq, run.last_seq(), run.bytes), (1, 6, 300));
    let rest = state.take_group(usize::MAX);
    assert_eq!((rest.first_seq, rest.last_seq()), (7, 10));
}

#[test]
fn an_overflow_spares_the_group_in_flight() {
    let mut state = state();
    append(&mut state, 2, 100).expect("taken");
    let run = state.take_group(usize::MAX);
    append(&mut state, 2, 100).expect("taken");
    append(&mut state, 1, 1 << 20).expect_err("overflow");
    assert_eq!(state.durability(2), None, "still in flight");
    assert!(matches!(state.durability(3), Some(Err(JournalError::Suspended(_)))));
    commit(&mut state, run);
    assert_eq!(state.durability(2), Some(Ok(())));
    assert!(matches!(state.durability(3), Some(Err(JournalError::Suspended(_)))));
}

#[test]
fn a_lost_number_is_never_called_durable() {
    let mut state = state();
    append(&mut state, 4, 100).expect("taken");
    let run = state.take_group(usize::MAX);
    append(&mut state, 1, 1 << 20).expect_err("overflow");
    state.forget_group(&run);
    state.suspend(run.first_seq, "disk full").tell();
    state.table.push(crate::segment::SegmentHeader {
        first_seq: 5,
        epoch: 2,
        log_id: 1,
        previous_first_seq: 1,
        previous_last_seq: 0,
        created_unix_ms: 0,
    });
    let reset = Record::Reset { epoch: 2, reason: String::new() };
    let (durable, grown) = state.resume(Run { epoch: 2, first_seq: 5, records: vec![reset], bytes: 50 }, 99);
    durable.tell();
    grown.tell();
    assert_eq!(state.durable_seq, 5);
    assert_eq!(state.durability(5), Some(Ok(())));
    for lost in 1..=4 {
        assert!(matches!(state.durability(lost), Some(Err(JournalError::Suspended(_)))), "{lost}");
    }
    assert_eq!(state.outstanding_bytes, 0);
    assert_eq!(state.outstanding_records, 0);
}

#[test]
fn the_first_reason_of_a_poisoned_journal_stays() {
    let mut state = state();
    state.poison("syncing failed").tell();
    state.poison("the writer has ended").tell();
    assert_eq!(state.ready(1), Err(AppendRefused::Poisoned("syncing failed".into())));
}
