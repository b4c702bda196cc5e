//! What the journal promises, over a folder in memory that crashes, tears and fills up, and over real files.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test fails by panicking, and its threads wait in real time"
)]

mod commit;
mod crash;
mod damage;
mod fake;
mod fsck;
mod fuzz;
mod read;
mod retention;
mod suspend;
mod tail;
mod threads;
mod world;
