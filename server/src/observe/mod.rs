//! What the daemon tells about itself: log lines, metrics, traces.
//!
//! [`log::start`] comes first of all; a daemon whose log cannot be set up does not start. [`Metrics`] is one registry
//! with two kinds of figures: those counted here as things happen (calls, connections, latencies), and those read from
//! a [`NodeSnapshot`] at each scrape, so that the engine neither knows the registry nor keeps stale copies of anything.

pub mod log;
pub mod metrics;
pub mod snapshot;
pub mod trace;

pub use metrics::{Metrics, Operation};
pub use snapshot::{NodeSnapshot, SnapshotSource};
