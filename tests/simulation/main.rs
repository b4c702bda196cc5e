//! The seeded simulator: engine, WAL and NVMe layout on a machine that tears, loses, misdirects, rots, stalls and fills.
//!
//! `KVTIER_SIM_SEEDS=100000 cargo test --release -p kvtier-tests --test simulation` runs more seeds; `KVTIER_SIM_SEED=n`
//! runs one.

mod clock;
mod executor;
mod ledger;
mod mirror;
mod node;
mod run;
mod seed;
mod workload;

use ledger::Seen;

/// Seeds of a CI run.
const SEEDS: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the way to ask a test binary for more seeds")]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_seed_breaks_an_invariant() {
    let seeds = match number("KVTIER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KVTIER_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let mut total = Seen::default();
    for seed in seeds {
        let verdict = run::run(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        total.add(&verdict.seen);
        if seed % 1000 == 999 {
            println!("{} seeds: {total:?}", seed + 1);
        }
    }
    println!("{count} seeds: {total:?}");
    assert!(count < 100 || total.is_lively(), "the simulation has gone quiet: {total:?}");
}

#[test]
fn the_same_seed_has_the_same_history() {
    for seed in 0..40 {
        let first = run::run(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        let second = run::run(seed).unwrap_or_else(|problem| panic!("seed {seed}, again: {problem}"));
        assert_eq!(first.history, second.history, "INV-9: seed {seed}");
    }
}
