//! The real daemon, killed with SIGKILL at random moments under load, again and again on one data directory.
//!
//! After every start each block that was ever acknowledged durable must be a hit with the right bytes (the tier is large
//! enough that nothing is evicted), and each volatile one must be right or a miss. `KVTIER_CRASH_LOOPS=200` runs more
//! loops; `KVTIER_CRASH_SEED` chooses other moments.

mod damage;
mod load;
mod moment;

use std::collections::BTreeSet;

use kvtier_tests::{Setup, World};
use load::Load;
use moment::Moments;

/// Kills of a CI run.
const LOOPS: u64 = 20;
/// Kills on one data directory; then a fresh one, so that nothing needs to be evicted.
const LOOPS_PER_DIRECTORY: u64 = 10;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the way to ask a test binary for more loops")]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_durable_block_survives_kill_9_under_load() {
    let loops = number("KVTIER_CRASH_LOOPS").unwrap_or(LOOPS);
    let seed = number("KVTIER_CRASH_SEED").unwrap_or(0x6b76);
    println!("seed {seed}, {loops} loops");
    let mut moments = Moments::new(seed);
    let (mut acknowledged, mut checked, mut survivors) = (0, 0, 0);
    let mut directory = None;
    for round in 0..loops {
        if round % LOOPS_PER_DIRECTORY == 0 {
            directory = Some((Setup::with(&[("nvme.bytes", "514MiB")]), BTreeSet::new()));
        }
        let (setup, promised) = directory.take().expect("made in the first round");
        let mut world = World::of(setup.start()).await;
        checked += load::check_promised(&mut world, &promised, round).await;
        survivors += load::check_volatile(&mut world, round).await;
        let load = Load::start(&world, round, promised);
        moments.wait(&load).await;
        let setup = world.daemon.kill();
        let promised = load.finish().await;
        acknowledged = acknowledged.max(promised.len());
        directory = Some((setup, promised));
    }
    println!("{loops} kills: {checked} durable blocks verified after them, {survivors} volatile ones had survived");
    assert!(acknowledged > 0 && checked > 0, "nothing was acknowledged before any kill");
}
