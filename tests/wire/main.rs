//! Bad input and hostile clients against the real daemon: every refusal names field, value and remedy, and the daemon
//! goes on serving. One test per line of the list; one file per kind of input.

mod chains;
mod crowds;
mod damage;
mod disks;
mod leases;
mod puts;
mod spaces;
mod subscribers;

use kvtier_proto::v1;
use kvtier_tests::World;
use v1::put_response::Outcome;

/// Asserts that a put was rejected, and why.
#[track_caller]
fn rejected(outcome: &Outcome, field: &str, value: &str, remedy: &str) {
    let Outcome::Rejected(rejected) = outcome else { panic!("not rejected: {outcome:?}") };
    assert_eq!(rejected.field, field, "{rejected:?}");
    assert!(rejected.value.contains(value), "value {value:?} in {rejected:?}");
    assert!(!remedy.is_empty() && rejected.remedy.contains(remedy), "remedy {remedy:?} in {rejected:?}");
}

/// Asserts that the daemon still does its work: puts and gets another block.
async fn works(world: &mut World, key: &str) {
    let blocks = kvtier_tests::Block::chain(key, 1, 10_000);
    world.store(&blocks, v1::Durability::Volatile).await;
    world.wire.expect_blocks(&world.space.clone(), &blocks).await;
}
