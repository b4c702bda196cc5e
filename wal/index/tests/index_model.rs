//! Random batches, flushes, reopens and crashes against a map.
#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::sync::Arc;

use futures::executor::block_on;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{Index, IndexChange};
use kvtier_identity::BlockId;
use kvtier_index::conformance::{sample_entry, sample_space};
use kvtier_index::{MemoryIndex, RocksIndex};
use proptest::prelude::*;
use support::Model;

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<IndexChange>),
    Flush,
    Look(Vec<u128>),
    Scan(Option<u128>, usize),
    /// RocksDB: close and open. The fake: crash.
    Restart,
}

fn id() -> impl Strategy<Value = u128> {
    prop_oneof![0..40_u128, Just(u128::MAX), (0..40_u128).prop_map(|low| low << 120)]
}

fn change() -> impl Strategy<Value = IndexChange> {
    prop_oneof![
        6 => (id(), any::<u64>())
            .prop_map(|(id, number)| IndexChange::Put(BlockId(id), sample_entry(number.into()))),
        3 => id().prop_map(|id| IndexChange::Remove(BlockId(id))),
        1 => (0..5_u32).prop_map(|number| IndexChange::PutSpace(Box::new(sample_space(number)))),
        1 => (0..5_u32).prop_map(IndexChange::RemoveSpace),
        1 => (0..9_u64).prop_map(|page| IndexChange::Quarantine(Slot { device: 1, offset: page << 12, bytes: 8192 })),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(change(), 0..30).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        2 => prop::collection::vec(id(), 0..20).prop_map(Step::Look),
        2 => (prop::option::of(id()), 0..50_usize).prop_map(|(after, count_max)| Step::Scan(after, count_max)),
        1 => Just(Step::Restart),
    ]
}

/// Runs every step but [`Step::Restart`].
fn run(index: &dyn Index, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    match step {
        Step::Apply(changes) => {
            let covers = model.covered + 1;
            prop_assert_eq!(block_on(index.apply(changes.clone(), covers)), Ok(()));
            model.apply(changes, covers);
        }
        Step::Flush => prop_assert_eq!(block_on(index.flush()), Ok(model.covered)),
        Step::Look(ids) => {
            let expected = ids.iter().map(|id| model.blocks.get(id).cloned()).collect();
            prop_assert_eq!(block_on(index.get_many(ids.iter().copied().map(BlockId).collect())), Ok(expected));
        }
        Step::Scan(after, count_max) => {
            let above = |id: &u128| after.is_none_or(|after| *id > after);
            let found = model.blocks.iter().filter(|(id, _)| above(id)).take(*count_max);
            let expected = found.map(|(id, entry)| (BlockId(*id), entry.clone())).collect();
            prop_assert_eq!(block_on(index.scan(after.map(BlockId), *count_max)), Ok(expected));
        }
        Step::Restart => unreachable!("the caller restarts"),
    }
    prop_assert_eq!(index.applied(), model.covered);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_fake_is_a_map_that_crashes_to_its_last_flush(steps in prop::collection::vec(step(), 1..60)) {
        let mut index = Arc::new(MemoryIndex::default());
        let (mut model, mut durable) = (Model::default(), Model::default());
        for step in &steps {
            if let Step::Restart = step {
                index = Arc::new(index.crash());
                model = durable.clone();
            } else {
                run(&*index, &mut model, step)?;
            }
            if let Step::Flush = step {
                durable = model.clone();
            }
            prop_assert_eq!(index.flushed(), durable.covered);
        }
        prop_assert_eq!(Model::of(&*index).unwrap(), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_index_is_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let open = || RocksIndex::open(directory.path(), support::small_buffers()).unwrap();
        let mut index = open();
        let mut model = Model::default();
        for step in &steps {
            if let Step::Restart = step {
                drop(index);
                index = open();
                prop_assert_eq!(index.applied(), model.covered, "a clean close flushes");
            } else {
                run(&*index, &mut model, step)?;
            }
        }
        prop_assert_eq!(Model::of(&*index).unwrap(), model);
    }
}
