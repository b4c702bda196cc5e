//! The conformance suite on both indexes.
#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::sync::Arc;

use futures::executor::block_on;
use kvtier_engine::port::{Index, IndexChange, IndexError};
use kvtier_identity::BlockId;
use kvtier_index::conformance::{self, Subject, sample_entry};
use kvtier_index::{MemoryFaults, MemoryIndex};
use proptest::prelude::*;

/// Keeps the last fake, so that it can be crashed.
#[derive(Default)]
struct Fake {
    last: Option<Arc<MemoryIndex>>,
}

impl Fake {
    fn keep(&mut self, index: MemoryIndex) -> Arc<dyn Index> {
        let index = Arc::new(index);
        self.last = Some(index.clone());
        index
    }
}

impl Subject for Fake {
    fn create(&mut self) -> Arc<dyn Index> {
        self.keep(MemoryIndex::default())
    }

    fn reopen(&mut self, _: Arc<dyn Index>) -> Arc<dyn Index> {
        let survivor = self.last.take().expect("one was created").crash();
        self.keep(survivor)
    }
}

#[test]
fn the_index_on_rocksdb_keeps_every_promise() {
    block_on(conformance::all(&mut support::Rocks::default()));
}

#[test]
fn the_fake_keeps_every_promise() {
    block_on(conformance::all(&mut Fake::default()));
}

fn put(number: u128) -> Vec<IndexChange> {
    vec![IndexChange::Put(BlockId(number), sample_entry(number))]
}

#[test]
fn a_crash_of_the_fake_returns_to_the_last_flush() {
    let index = MemoryIndex::default();
    block_on(index.apply(put(1), 1)).unwrap();
    assert_eq!(block_on(index.flush()), Ok(1));
    block_on(index.apply(put(2), 2)).unwrap();
    block_on(index.apply(put(3), 3)).unwrap();
    assert_eq!((index.unflushed_len(), index.flushed()), (2, 1));
    let ids = |index: &MemoryIndex| -> Vec<u128> {
        block_on(index.scan(None, 10)).unwrap().iter().map(|(block, _)| block.0).collect()
    };
    let crashed = index.crash();
    assert_eq!((crashed.applied(), ids(&crashed)), (1, vec![1]));
    let flushed_by_itself = index.crash_keeping(1);
    assert_eq!((flushed_by_itself.applied(), ids(&flushed_by_itself)), (2, vec![1, 2]));
    assert_eq!(index.crash_keeping(9).applied(), 3);
    assert_eq!(index.applied(), 3, "the old world goes on for those who still hold it");
}

/// Every answer of a fixed run of calls against a fake with faults.
fn history(faults: MemoryFaults) -> Vec<Result<u64, IndexError>> {
    let index = MemoryIndex::new(faults);
    (1..200)
        .map(|number| match number % 3 {
            0 => block_on(index.flush()),
            1 => block_on(index.apply(put(number), index.applied() + 1)).map(|()| index.applied()),
            _ => block_on(index.get_many(vec![BlockId(number - 1)])).map(|found| found.iter().flatten().count() as u64),
        })
        .collect()
}

proptest! {
    #[test]
    fn the_same_seed_refuses_the_same_calls(seed: u64) {
        let faults = MemoryFaults { seed, unavailable_permille: 200, full_permille: 200 };
        let first = history(faults);
        prop_assert_eq!(&first, &history(faults));
        prop_assert!(first.iter().any(|answer| matches!(answer, Err(IndexError::Unavailable(_)))));
        prop_assert!(first.iter().any(|answer| matches!(answer, Err(IndexError::Full(_)))));
        prop_assert!(first.iter().any(Result::is_ok));
    }

    /// Whatever is refused, the durable state is the state after a run of whole batches.
    #[test]
    fn a_fake_with_faults_crashes_to_whole_batches(seed: u64, crash_after in 1_u64..60, keep in 0_usize..5) {
        let index = MemoryIndex::new(MemoryFaults { seed, unavailable_permille: 100, full_permille: 100 });
        let mut flushed = 0;
        for _ in 0..crash_after {
            let next = index.applied() + 1;
            let _ = block_on(index.apply(support::batch(next), next));
            if next.is_multiple_of(4) && let Ok(position) = block_on(index.flush()) {
                flushed = position;
            }
        }
        let survivor = index.crash_keeping(keep);
        survivor.set_faults(MemoryFaults::default());
        prop_assert!(survivor.applied() >= flushed);
        prop_assert_eq!(support::Model::of(&survivor).unwrap(), support::Model::after(survivor.applied()));
    }
}
