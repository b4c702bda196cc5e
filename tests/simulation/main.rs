//! The seeded simulator: engine, WAL and NVMe layout on a machine that tears, loses, misdirects, rots, stalls and fills.
//!
//! `KVTIER_SIM_SEEDS=100000 cargo test --release --workspace --test simulation` runs more seeds, with
//! `KVTIER_SIM_FIRST=n` from the n-th on; `KVTIER_SIM_SEED=n` runs one.

mod acquire;
mod clock;
mod executor;
mod ledger;
mod mirror;
mod node;
mod run;
mod seed;
mod worker;
mod workload;

use ledger::Seen;
use run::Scope;

/// Seeds of a CI run.
const SEEDS: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the way to ask a test binary for more seeds")]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Seeds that once found something, and what: before there were domains and workers, and so run without.
const FOUND: [(u64, &str); 11] = [
    (25, "a snapshot was taken between the commit of a block and its visibility"),
    (351, "a write-back evicted the block that was about to be leased"),
    (533, "a removal was logged after the block had been put again"),
    (587, "the wrong waiter was told that its block is durable"),
    (597, "a durable child was evicted with its volatile parent"),
    (677, "loads were throttled for ever in a tiny arena"),
    (1058, "a block became durable before its parent was put, and went when the parent did"),
    (1077, "a snapshot named blocks before the index had them"),
    (296, "the log lost the opening of a space while its disk was full, and durable blocks had no home"),
    (21804, "an entry of an earlier copy outlived a gap in the log because the block was being stored again"),
    (69, "an interrupted write was taken for damage of the block that had been in the slot before"),
];

#[test]
fn seeds_that_found_something_find_nothing_any_more() {
    for (seed, story) in FOUND {
        run::run(seed, Scope::Early).unwrap_or_else(|problem| panic!("seed {seed} ({story}): {problem}"));
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let seeds = match number("KVTIER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => number("KVTIER_SIM_FIRST").unwrap_or(0)..number("KVTIER_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end.saturating_sub(seeds.start);
    let mut total = Seen::default();
    for seed in seeds {
        let verdict = run::run(seed, Scope::Whole).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        total.add(&verdict.seen);
        if seed % 1000 == 999 {
            println!("to seed {seed}: {total:?}");
        }
    }
    println!("{count} seeds: {total:?}");
    assert!(count > 0, "there is no seed to run");
    assert!(count < 100 || total.is_lively(), "the simulation has gone quiet: {total:?}");
}

#[test]
fn the_same_seed_has_the_same_history() {
    for seed in 0..40 {
        let first = run::run(seed, Scope::Whole).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        let second = run::run(seed, Scope::Whole).unwrap_or_else(|problem| panic!("seed {seed}, again: {problem}"));
        assert_eq!(first.history, second.history, "INV-9: seed {seed}");
    }
}
