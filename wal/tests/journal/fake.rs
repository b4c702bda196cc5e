//! The switches of the journal in memory, which the engine's tests rely on.

use futures::executor::block_on;
use futures::future::FutureExt;
use kvtier_engine::port::{AppendRefused, Journal, JournalError, JournalState, ReadRefused, Record};
use kvtier_wal::MemoryJournal;
use kvtier_wal::conformance::sample;

#[test]
fn held_records_become_durable_when_released() {
    let journal = MemoryJournal::new();
    journal.hold();
    let position = journal.append(vec![sample(0), sample(1)]).unwrap();
    let durable = journal.durable(position.seq);
    let mut grown = journal.grown(1);
    assert_eq!((&mut grown).now_or_never(), None);
    assert_eq!(block_on(journal.read(1, 10)), Ok(vec![]), "not readable before it is durable");
    assert_eq!(journal.records().len(), 3, "but seen by the test");
    journal.release();
    assert_eq!(durable.now_or_never(), Some(Ok(())));
    assert_eq!(grown.now_or_never(), Some(()));
    assert_eq!(block_on(journal.read(1, 10)).unwrap().len(), 2);
}

#[test]
fn a_busy_journal_refuses_decisions_and_takes_records() {
    let journal = MemoryJournal::new();
    journal.set_busy(true);
    assert_eq!(journal.ready(), Err(AppendRefused::Busy));
    assert!(journal.append(vec![sample(0)]).is_ok());
    journal.set_busy(false);
    assert_eq!(journal.ready(), Ok(()));
}

#[test]
fn a_suspension_loses_what_was_not_durable_and_a_new_epoch_follows() {
    let journal = MemoryJournal::new();
    let kept = journal.append(vec![sample(0)]).unwrap();
    journal.hold();
    let lost = journal.append(vec![sample(1), sample(2)]).unwrap();
    let waiting = journal.durable(lost.seq);
    journal.suspend("disk full");
    assert_eq!(waiting.now_or_never(), Some(Err(JournalError::Suspended("disk full".into()))));
    assert_eq!(journal.append(vec![sample(3)]), Err(AppendRefused::Suspended("disk full".into())));
    assert_eq!(journal.status().state, JournalState::Suspended("disk full".into()));
    journal.resume();
    let read = block_on(journal.read(kept.seq, 10)).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].0.seq, read[0].0.epoch), (lost.seq + 1, 2));
    assert!(matches!(read[0].1, Record::Reset { epoch: 2, .. }));
    assert!(matches!(block_on(journal.durable(lost.seq)), Err(JournalError::Suspended(_))), "lost for ever");
    assert_eq!(block_on(journal.durable(kept.seq)), Ok(()));
}

#[test]
fn a_poisoned_journal_takes_nothing_and_keeps_what_is_durable() {
    let journal = MemoryJournal::new();
    let kept = journal.append(vec![sample(0)]).unwrap();
    journal.hold();
    let lost = journal.append(vec![sample(1)]).unwrap();
    let waiting = journal.durable(lost.seq);
    journal.poison("sync failed");
    assert_eq!(waiting.now_or_never(), Some(Err(JournalError::Poisoned("sync failed".into()))));
    assert_eq!(journal.ready(), Err(AppendRefused::Poisoned("sync failed".into())));
    assert_eq!(block_on(journal.durable(kept.seq)), Ok(()));
    assert!(block_on(journal.durable(lost.seq)).is_err());
}

#[test]
fn forgotten_records_are_refused() {
    let journal = MemoryJournal::new();
    let newest = journal.append((0..5).map(sample).collect()).unwrap().seq;
    journal.forget(3);
    assert_eq!(block_on(journal.read(2, 10)), Err(ReadRefused::Forgotten { asked: 2, oldest: 3 }));
    assert_eq!(block_on(journal.read(3, 10)).unwrap().len() as u64, newest - 3);
    assert_eq!(journal.status().first_seq, 4);
    journal.covered(newest);
    assert_eq!(journal.covered_seq(), newest);
}
