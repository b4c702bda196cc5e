//! Random histories of appends, faults, power cuts and restarts, against a model.

use kvtier_engine::port::{Journal, JournalState, Record};
use kvtier_wal::conformance::sample;
use kvtier_wal::{Settings, Wal};
use proptest::prelude::*;

use crate::world::{MemFolder, World};

#[derive(Debug, Clone)]
enum Step {
    Append(u32),
    /// Waits until durable.
    Store(u32),
    Advance(u64),
    /// The writer runs this many polls.
    Poll(u32),
    Cover,
    FullDisk(bool),
    HoldSyncs(bool),
    FailSync,
    /// Which bytes survive, and how far the next opening gets before the power goes again.
    PowerCut(u32, u32),
    Kill,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..200_u32).prop_map(Step::Append),
        8 => (1..200_u32).prop_map(Step::Store),
        4 => (1..200_u64).prop_map(Step::Advance),
        4 => (1..20_u32).prop_map(Step::Poll),
        2 => Just(Step::Cover),
        2 => any::<bool>().prop_map(Step::FullDisk),
        2 => any::<bool>().prop_map(Step::HoldSyncs),
        1 => Just(Step::FailSync),
        4 => (any::<u32>(), 0..60_u32).prop_map(|(seed, polls)| Step::PowerCut(seed, polls)),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..60)
}

fn small() -> Settings {
    Settings {
        segment_bytes_max: 64 << 10,
        group_commit_bytes_max: 64 << 10,
        retain_bytes: 128 << 10,
        wal_bytes_max: 1 << 20,
        queue_bytes_max: 128 << 10,
        recent_bytes_max: 32 << 10,
        ..crate::world::settings()
    }
}

/// What must hold of the log whatever happens.
struct Model {
    /// Appended, with the promise that was given.
    appended: std::collections::BTreeMap<u64, (u64, Record)>,
    durable_seq: u64,
    covered_seq: u64,
    epoch: u64,
    next_number: u32,
}

impl Model {
    fn append(&mut self, world: &World, count: u32) -> Option<u64> {
        let numbers = self.next_number..self.next_number + count;
        let records: Vec<_> = numbers.clone().map(sample).collect();
        let before = world.wal.status().appended_seq;
        let position = world.wal.append(records.clone()).ok()?;
        self.next_number += count;
        assert_eq!(position.seq, before + u64::from(count));
        for (seq, record) in (before + 1..).zip(records) {
            assert!(self.appended.insert(seq, (position.epoch, record)).is_none(), "number {seq} was used twice");
        }
        Some(position.seq)
    }

    fn check(&mut self, world: &mut World) {
        let status = world.wal.status();
        assert!(status.durable_seq >= self.durable_seq, "durable records are gone: {status:?}");
        assert!(status.epoch >= self.epoch);
        self.epoch = status.epoch;
        self.durable_seq = status.durable_seq;
        let oldest = status.first_seq.saturating_sub(1);
        assert!(
            oldest <= self.covered_seq || self.covered_seq == 0 && status.first_seq == 1 || {
                // A gap before the first segment holds no records.
                self.appended.range(self.covered_seq + 1..=oldest).all(|(seq, _)| *seq > self.durable_seq)
            }
        );
    }

    /// Reads everything and compares: right records, in order, no hole within an epoch, a reset at each epoch's start.
    fn check_content(&self, world: &mut World) {
        let oldest = match world.read(0) {
            Err(kvtier_engine::port::ReadRefused::Forgotten { oldest, .. }) => oldest,
            _ => 0,
        };
        let all = world.read_all(oldest);
        for pair in all.windows(2) {
            let (before, after) = (&pair[0].0, &pair[1].0);
            if before.epoch == after.epoch {
                assert_eq!(after.seq, before.seq + 1, "a hole within epoch {}", after.epoch);
            } else {
                assert!(after.epoch > before.epoch && after.seq > before.seq);
                let reset = matches!(&pair[1].1, Record::Reset { epoch, .. } if *epoch == after.epoch);
                assert!(reset, "epoch {} does not begin with its reset", after.epoch);
            }
        }
        for (position, record) in &all {
            match (self.appended.get(&position.seq), record) {
                (Some((epoch, expect)), _) => assert_eq!((position.epoch, record), (*epoch, expect)),
                (None, Record::Reset { .. }) => {}
                (None, other) => panic!("{other:?} at {position:?} was never appended"),
            }
        }
        // Everything promised is there: each record up to the durable one, in epochs whose end was reached.
        assert_eq!(all.last().map_or(oldest, |(position, _)| position.seq), world.wal.status().durable_seq);
    }
}

/// Records that were promised durable, to be looked for after the crash.
fn check_promised(promised: &[u64], world: &mut World) {
    let oldest = world.wal.status().first_seq;
    let all: std::collections::BTreeSet<u64> =
        world.read_all(oldest - 1).iter().map(|(position, _)| position.seq).collect();
    for seq in promised.iter().filter(|seq| **seq >= oldest) {
        assert!(all.contains(seq), "record {seq} was promised durable and is gone");
    }
}

fn power_cut(folder: &MemFolder, mut seed: u32) -> MemFolder {
    let cut = folder.crash(&mut |bound| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % bound
    });
    cut.faults().yields.set(true);
    cut
}

/// An opening that is interrupted.
fn open_in_part(folder: &MemFolder, covered_seq: u64, polls: u32) {
    let clock = std::sync::Arc::new(crate::world::ManualClock::default());
    let mut opening = Box::pin(Wal::open(std::rc::Rc::new(folder.clone()), clock, small(), covered_seq));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..polls {
        if opening.as_mut().poll(&mut context).is_ready() {
            return;
        }
    }
}

fn reopen(folder: MemFolder, model: &Model, promised: &[u64]) -> World {
    folder.faults().yields.set(true);
    let mut world = World::open(&folder, small(), model.covered_seq).unwrap();
    assert!(world.recovered.last_seq >= model.durable_seq, "{:?} after {}", world.recovered, model.durable_seq);
    let newest = model.appended.last_key_value().map_or(0, |(seq, _)| *seq);
    assert!(world.recovered.reset_seq > newest, "a number would be used twice");
    assert!(world.recovered.epoch > model.epoch || model.durable_seq == 0 && world.recovered.epoch >= 1);
    check_promised(promised, &mut world);
    world
}

fn history(steps: Vec<Step>) {
    let folder = MemFolder::default();
    folder.faults().yields.set(true);
    let mut world = World::open(&folder, small(), 0).unwrap();
    let mut model = Model { appended: Default::default(), durable_seq: 0, covered_seq: 0, epoch: 0, next_number: 0 };
    let mut promised: Vec<u64> = vec![];
    for step in steps {
        match step {
            Step::Append(count) => drop(model.append(&world, count)),
            Step::Store(count) => {
                if let Some(seq) = model.append(&world, count) {
                    let durable = world.wal.durable(seq);
                    world.folder.release_syncs();
                    if world.pool.run_until(durable).is_ok() {
                        promised.push(seq);
                    }
                }
            }
            Step::Advance(ms) => world.advance(ms),
            Step::Poll(count) => {
                for _ in 0..count {
                    world.pool.try_run_one();
                }
            }
            Step::Cover => {
                let durable_seq = world.wal.status().durable_seq;
                world.wal.covered(durable_seq);
                model.covered_seq = model.covered_seq.max(durable_seq);
            }
            Step::FullDisk(full) => {
                let used: usize = world.folder.names().iter().map(|name| world.folder.bytes_of(name).len()).sum();
                world.folder.faults().space_bytes.set(full.then_some(used as u64 + 100));
            }
            Step::HoldSyncs(hold) if hold => world.folder.faults().hold_syncs.set(true),
            Step::HoldSyncs(_) => world.folder.release_syncs(),
            Step::FailSync => world.folder.faults().failing_syncs.set(1),
            Step::PowerCut(seed, polls) => {
                model.check(&mut world);
                let cut = power_cut(&world.folder, seed);
                open_in_part(&cut, model.covered_seq, polls);
                world = reopen(power_cut(&cut, !seed), &model, &promised);
            }
            Step::Kill => {
                model.check(&mut world);
                world = reopen(world.folder.kill(), &model, &promised);
            }
            Step::Close => {
                world.folder.release_syncs();
                model.check(&mut world);
                let folder = world.close();
                world = reopen(folder.kill(), &model, &promised);
            }
        }
        model.check(&mut world);
        if matches!(world.wal.status().state, JournalState::Open) {
            model.check_content(&mut world);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_a_promise_or_shows_a_wrong_record(steps in steps()) {
        history(steps);
    }
}
