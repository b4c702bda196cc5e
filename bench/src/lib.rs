//! The harness behind `kvtier-bench`. A figure here is a ratio: ours over a rival's or a physical limit's, measured in
//! turns by one command on one machine. What it is not: a load generator for other people's clusters.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time and runs real processes")]

pub mod cold;
pub mod contest;
pub mod daemon;
pub mod durable;
pub mod grpc;
pub mod job;
pub mod local;
pub mod mixed;
pub mod nvme;
pub mod pattern;
pub mod process;
pub mod recovery;
pub mod report;
pub mod run;
pub mod target;
