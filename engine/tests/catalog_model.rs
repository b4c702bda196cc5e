//! Random histories against a naive model, in a world so small that everything happens.

mod model;

use std::rc::Rc;

use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use model::steps::Step;
use model::world::{Coverage, World};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

/// Everything that must have happened at least once in a run, or the test tests less than it says.
const MUST_HAPPEN: [&str; 48] = [
    "evicted from host",
    "evicted from nvme",
    "removed corrupt",
    "removed deleted",
    "removed otherwise",
    "evicted from nvme for another domain",
    "doomed while held",
    "doomed in flight",
    "store taken back",
    "second part",
    "part taken",
    "under way",
    "disagrees",
    "parent_unknown",
    "busy",
    "host_full",
    "writer outlived its put",
    "writer gave up",
    "admitted by a hit",
    "too many leases",
    "foreign lease",
    "ended lease",
    "unknown lease",
    "pinned",
    "pin over quota",
    "too many pins",
    "load throttled",
    "load of a doomed block ended",
    "load verified",
    "load corrupt",
    "load failed",
    "nvme_full",
    "recovering",
    "not_admitted",
    "store of a doomed block ended",
    "stored",
    "store failed",
    "quarantined",
    "quarantined beside a host copy",
    "lease expired",
    "pin expired",
    "put given up",
    "space dropped",
    "restart",
    "fill conflict",
    "fill of a removed block",
    "filled over a pending put",
    "filled",
];

fn run(policy: PolicyKind, admission: AdmissionKind) {
    let coverage = Rc::new(Coverage::default());
    let cases = std::env::vars().find(|(name, _)| name == "PROPTEST_CASES").and_then(|(_, cases)| cases.parse().ok());
    let mut runner = TestRunner::new(Config {
        cases: cases.unwrap_or(192),
        max_shrink_iters: 20_000,
        source_file: Some(file!()),
        ..Config::default()
    });
    let steps = (vec(any::<Step>(), 1..800), 1u32..=3);
    let outcome = runner.run(&steps, |(steps, domains)| {
        let mut world = World::new(policy, admission, domains, Rc::clone(&coverage));
        steps.into_iter().for_each(|step| world.step(step));
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, (steps, domains))) => {
            panic!("{policy:?}, {admission:?}, {domains} domains: {why}\n{} steps: {steps:?}", steps.len())
        }
        Err(abort) => panic!("{policy:?}, {admission:?}: {abort}"),
    }
    let coverage = coverage.0.borrow();
    let missing: Vec<_> = MUST_HAPPEN.iter().filter(|what| !coverage.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}; happened: {coverage:#?}");
}

#[test]
fn any_history_agrees_with_a_naive_map_under_leaf_lru() {
    run(PolicyKind::LeafLru, AdmissionKind::All);
}

#[test]
fn any_history_agrees_with_a_naive_map_under_s3_fifo() {
    run(PolicyKind::S3Fifo, AdmissionKind::All);
}

#[test]
fn any_history_agrees_with_a_naive_map_under_second_touch() {
    run(PolicyKind::LeafLru, AdmissionKind::SecondTouch);
}
