//! The harness behind `kvtier-bench`. Two things:
//!
//! *Runs* ([`launch`], [`job`], [`run`], [`target`], [`result`]): jobs in fio's format against one target, with what the
//! percentiles of an honest run need. A run is a description, never a comparison.
//!
//! *Contests* ([`contest`] and everything that uses it): a figure is a ratio, ours over a rival's or a physical limit's,
//! measured in turns by one command on one machine. The only comparisons there are.
//!
//! What it is not: a load generator for other people's clusters. The rules it keeps: docs/benchmarks/METHOD.md.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time and runs real processes")]

pub mod cold;
pub mod compare;
pub mod contest;
pub mod daemon;
pub mod durable;
pub mod gpu;
pub mod grpc;
pub mod job;
pub mod launch;
pub mod local;
pub mod mixed;
pub mod nvme;
pub mod pattern;
pub mod process;
pub mod recovery;
pub mod report;
pub mod result;
pub mod run;
pub mod target;
