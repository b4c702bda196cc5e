//! What every journal must do. Each check takes a fresh, open journal and panics with what it found; [`check_all`]
//! makes one for each.
//!
//! The checks are async and use no runtime: whoever calls them drives them, and the journal.

use std::sync::Arc;

use kvtier_engine::place::{Slot, TierKind};
use kvtier_engine::port::{Journal, JournalState, Position, ReadRefused, Record, RemovalCause};
use kvtier_identity::BlockId;

/// Runs every check, each on a journal of its own.
pub async fn check_all(mut make: impl AsyncFnMut() -> Arc<dyn Journal>) {
    a_journal_begins_with_a_reset(make().await).await;
    positions_are_consecutive(make().await).await;
    an_append_of_nothing_changes_nothing(make().await).await;
    what_is_durable_is_read_back(make().await).await;
    pages_join_without_hole_or_overlap(make().await).await;
    a_position_ahead_is_refused(make().await).await;
    growth_wakes_a_reader(make().await).await;
    dropped_futures_are_harmless(make().await).await;
    coverage_beyond_the_log_is_harmless(make().await).await;
}

/// A record that tells itself from others by `number`.
pub fn sample(number: u32) -> Record {
    match number % 3 {
        0 => Record::Quarantined { slot: Slot { device: 1, offset: u64::from(number) * 4096, bytes: 8192 } },
        1 => Record::Removed {
            block: BlockId(u128::from(number) << 64),
            space: number,
            tier: TierKind::Nvme,
            cause: RemovalCause::Evicted,
        },
        _ => Record::Removed {
            block: BlockId(u128::from(number)),
            space: 7,
            tier: TierKind::Host,
            cause: RemovalCause::Deleted,
        },
    }
}

async fn append(journal: &Arc<dyn Journal>, numbers: std::ops::Range<u32>) -> Position {
    let position = journal.append(numbers.map(sample).collect()).expect("an open journal takes records");
    journal.durable(position.seq).await.expect("and makes them durable");
    position
}

/// The first durable record of an epoch is its reset (INV-6).
pub async fn a_journal_begins_with_a_reset(journal: Arc<dyn Journal>) {
    append(&journal, 0..1).await;
    let read = journal.read(0, 10).await.expect("nothing is forgotten");
    let (position, record) = &read[0];
    assert!(matches!(record, Record::Reset { epoch, .. } if *epoch == position.epoch), "{record:?} at {position:?}");
    assert_eq!(journal.status().state, JournalState::Open);
    assert_eq!(journal.status().epoch, position.epoch);
}

/// Numbers grow by one per record, in the order of the appends.
pub async fn positions_are_consecutive(journal: Arc<dyn Journal>) {
    let first = journal.append(vec![sample(0)]).expect("taken");
    let third = journal.append(vec![sample(1), sample(2)]).expect("taken");
    assert_eq!(third.seq, first.seq + 2);
    assert_eq!(third.epoch, first.epoch);
    assert_eq!(journal.status().appended_seq, third.seq);
    journal.durable(third.seq).await.expect("durable");
    journal.durable(first.seq).await.expect("durable before the third");
    assert_eq!(journal.status().durable_seq, third.seq);
}

/// No records, no numbers.
pub async fn an_append_of_nothing_changes_nothing(journal: Arc<dyn Journal>) {
    let before = append(&journal, 0..1).await;
    assert_eq!(journal.append(vec![]).expect("taken"), before);
    assert_eq!(append(&journal, 1..2).await.seq, before.seq + 1);
}

/// Reading gives exactly what was appended.
pub async fn what_is_durable_is_read_back(journal: Arc<dyn Journal>) {
    let start = append(&journal, 0..1).await.seq;
    append(&journal, 1..40).await;
    let read = journal.read(start, 100).await.expect("readable");
    let expect: Vec<_> = (1..40)
        .map(|number| (Position { epoch: journal.status().epoch, seq: start + u64::from(number) }, sample(number)))
        .collect();
    assert_eq!(read, expect);
    assert_eq!(journal.read(start + 39, 100).await, Ok(vec![]), "nothing after the newest");
}

/// Paging through the log meets every record once.
pub async fn pages_join_without_hole_or_overlap(journal: Arc<dyn Journal>) {
    for round in 0..20 {
        append(&journal, round * 10..round * 10 + 10).await;
    }
    let newest = journal.status().durable_seq;
    let all = journal.read(0, 1000).await.expect("readable");
    let (mut after, mut paged) = (0, Vec::new());
    while after < newest {
        let page = journal.read(after, 7).await.expect("readable");
        assert!(!page.is_empty() && page.len() <= 7, "{} records after {after}", page.len());
        after = page.last().expect("not empty").0.seq;
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(all.len(), 201);
}

/// A position nobody has written is refused, and says what is the newest.
pub async fn a_position_ahead_is_refused(journal: Arc<dyn Journal>) {
    let newest = append(&journal, 0..3).await.seq;
    let refused = journal.read(newest + 1, 10).await;
    assert_eq!(refused, Err(ReadRefused::Future { asked: newest + 1, newest }));
}

/// A reader that has everything is woken by the next durable record, not before.
pub async fn growth_wakes_a_reader(journal: Arc<dyn Journal>) {
    let newest = append(&journal, 0..1).await.seq;
    journal.grown(newest - 1).await;
    let mut grown = journal.grown(newest);
    let early = std::future::poll_fn(|context| std::task::Poll::Ready(grown.as_mut().poll(context).is_ready())).await;
    assert!(!early, "nothing has been appended");
    append(&journal, 1..2).await;
    grown.await;
    assert_eq!(journal.read(newest, 10).await.expect("readable").len(), 1);
}

/// Whoever stops waiting disturbs nobody.
pub async fn dropped_futures_are_harmless(journal: Arc<dyn Journal>) {
    let position = journal.append(vec![sample(0)]).expect("taken");
    for _ in 0..100 {
        drop(journal.durable(position.seq));
        drop(journal.grown(position.seq));
        drop(journal.read(0, 10));
    }
    let kept = journal.durable(position.seq);
    drop(journal.durable(position.seq));
    kept.await.expect("durable");
    assert_eq!(append(&journal, 1..2).await.seq, position.seq + 1);
}

/// A wrong claim of the index deletes nothing that is needed.
pub async fn coverage_beyond_the_log_is_harmless(journal: Arc<dyn Journal>) {
    let newest = append(&journal, 0..3).await.seq;
    journal.covered(newest + 1000);
    assert_eq!(append(&journal, 3..4).await.seq, newest + 1);
    assert_eq!(journal.read(newest, 10).await.expect("readable").len(), 1);
}
