//! What a killed process leaves behind: the state after some whole batch, at least that of the last flush.
#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::path::Path;

use kvtier_engine::port::Index;
use kvtier_index::RocksIndex;
use proptest::prelude::*;
use support::{Model, Puppet};

#[test]
#[ignore = "not a test: the child process of the others"]
fn puppet() {
    support::puppet_main(support::settings());
}

#[test]
#[ignore = "not a test: the child process of the others"]
fn puppet_with_small_buffers() {
    support::puppet_main(support::small_buffers());
}

/// Reopens and returns what is there, after checking it against the model.
fn survivor(directory: &Path) -> u64 {
    let index = RocksIndex::open(directory, support::settings()).unwrap();
    assert_eq!(index.flushed(), index.applied());
    let found = Model::of(&*index).unwrap();
    assert_eq!(found, Model::after(index.applied()), "not the state after whole batches");
    index.applied()
}

#[test]
fn a_kill_without_a_flush_returns_to_the_last_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut puppet = Puppet::start(&[], "puppet", directory.path());
    assert_eq!(puppet.answer().unwrap(), "open 0");
    for number in 1..=3 {
        assert_eq!(puppet.ask(&format!("apply {number}")), "apply Ok(())");
    }
    assert_eq!(puppet.ask("flush"), "flush Ok(3)");
    for number in 4..=9 {
        assert_eq!(puppet.ask(&format!("apply {number}")), "apply Ok(())");
    }
    assert_eq!(puppet.ask("applied"), "applied 9");
    puppet.kill();
    assert_eq!(survivor(directory.path()), 3);
}

#[test]
fn a_kill_before_the_first_flush_leaves_an_empty_index() {
    let directory = tempfile::tempdir().unwrap();
    let mut puppet = Puppet::start(&[], "puppet", directory.path());
    puppet.answer();
    assert_eq!(puppet.ask("apply 1"), "apply Ok(())");
    puppet.kill();
    assert_eq!(survivor(directory.path()), 0);
}

#[test]
fn a_kill_after_a_flush_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut puppet = Puppet::start(&[], "puppet", directory.path());
    puppet.answer();
    for number in 1..=20 {
        assert_eq!(puppet.ask(&format!("apply {number}")), "apply Ok(())");
    }
    assert_eq!(puppet.ask("flush"), "flush Ok(20)");
    puppet.kill();
    assert_eq!(survivor(directory.path()), 20);
}

#[test]
fn what_rocksdb_flushes_by_itself_is_whole_batches_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut puppet = Puppet::start(&[], "puppet_with_small_buffers", directory.path());
    puppet.answer();
    for number in 1..=300 {
        assert_eq!(puppet.ask(&format!("apply {number}")), "apply Ok(())");
    }
    puppet.kill();
    let covered = survivor(directory.path());
    assert!((1..=300).contains(&covered), "{covered}: 300 batches overflow buffers of 64 KiB");
}

/// One incarnation: how many batches, flushes after which of them, and how many answers to await before the kill.
#[derive(Debug, Clone)]
struct Life {
    batch_count: u64,
    flush_every: u64,
    answers_awaited: usize,
}

fn life() -> impl Strategy<Value = Life> {
    (1_u64..120, 1_u64..60, 0_usize..150).prop_map(|(batch_count, flush_every, answers_awaited)| Life {
        batch_count,
        flush_every,
        answers_awaited,
    })
}

/// Sends every order at once and kills in the middle. Returns the position at the start, and the last one a flush acknowledged.
fn live(directory: &Path, life: &Life) -> (u64, u64) {
    let mut puppet = Puppet::start(&[], "puppet_with_small_buffers", directory);
    let opened = puppet.answer().unwrap();
    let start: u64 = opened.strip_prefix("open ").unwrap().parse().unwrap();
    let mut order_count = 0;
    for number in start + 1..=start + life.batch_count {
        puppet.send(&format!("apply {number}"));
        order_count += 1;
        if number % life.flush_every == 0 {
            puppet.send("flush");
            order_count += 1;
        }
    }
    let awaited = life.answers_awaited.min(order_count);
    let mut answers: Vec<String> = (0..awaited).map(|_| puppet.answer().unwrap()).collect();
    answers.extend(puppet.kill());
    let flushed = answers.iter().filter_map(|answer| answer.strip_prefix("flush Ok(")?.strip_suffix(')')?.parse().ok());
    (start, flushed.max().unwrap_or(start))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Several incarnations on one directory, each killed at any moment, applying and flushing included. Run once with 400
    /// cases.
    #[test]
    fn a_kill_at_any_moment_leaves_whole_batches(lives in prop::collection::vec(life(), 1..4)) {
        let directory = tempfile::tempdir().unwrap();
        let mut covered = 0;
        for life in lives {
            let (start, flushed) = live(directory.path(), &life);
            prop_assert_eq!(start, covered, "an index opens where the crash left it");
            covered = survivor(directory.path());
            prop_assert!(covered >= flushed, "covers {} although {} was acknowledged as flushed", covered, flushed);
            prop_assert!(covered <= start + life.batch_count);
        }
    }
}
