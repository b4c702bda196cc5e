//! `kvtier trace`: request traces of real engines, replayed against the node.
//!
//! ```text
//!   file ──> requests ──> workers ──> served ──> tally ──> report
//!                           │  lookup chain (lease) -> get hits, check every byte -> put the rest -> release
//!                           └─ one request at a time each; the turns of one session stay in order
//! ```
//!
//! Reading order: [`file`] (the format), [`replay`] (one run), [`worker`] (one request), [`tally`] (what is counted),
//! [`report`] (what is printed).

mod file;
mod ideal;
mod replay;
mod report;
mod tally;
mod worker;

use crate::connection::GlobalArguments;
use crate::failure::Failure;

/// Subcommands of `kvtier trace`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Trace {
    /// Replay a trace: look every request's chain up, get what is there, put the rest, verify every byte
    Replay(Box<replay::Replay>),
}

impl Trace {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        match self {
            Self::Replay(replay) => replay.run(global).await,
        }
    }
}
