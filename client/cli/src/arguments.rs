//! What can be typed. Every subcommand's own arguments stand in its file under `command/`.

use clap::{Parser, Subcommand};

use crate::command;
use crate::connection::GlobalArguments;

const EXIT_CODES: &str = "\
Exit codes:
  0    ok
  1    failed
  2    wrong usage: what was typed cannot work
  3    the daemon cannot be reached, is busy, or did not answer in time
  4    verification failed: bytes came back that are not what was put
  5    not found: a miss, an unknown space or pin
  6    refused: the daemon declined to store something now
  130  interrupted

Examples:
  kvtier status                                   what the node is doing
  kvtier top                                      the same, live
  kvtier put model.kv --keys-out model.keys       cut a file into blocks and store them
  kvtier get --keys model.keys --output copy.kv   bring it back, every block verified
  kvtier why cmpl-4711                            why a request missed
  kvtier events --follow                          what is stored and evicted, as it happens
  kvtier trace replay bench/traces/mooncake_conv_dev.rjsonl.zst --limit 500";

/// The command line of kvtier, the KV-cache storage daemon for LLM inference
#[derive(Debug, Parser)]
#[command(name = "kvtier", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One subcommand per file.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What the node is doing: tiers, journal, index, leases, alarms
    Status(command::status::Status),
    /// Live view of the node; q quits
    Top(command::top::Top),
    /// List, open and drop spaces
    #[command(subcommand)]
    Spaces(command::spaces::Spaces),
    /// Cut files into blocks and store them
    Put(command::put::Put),
    /// Write blocks to a file, every block verified
    Get(command::get::Get),
    /// How much of a chain is resident, where, and why it stops
    Lookup(command::lookup::Lookup),
    /// Why a request missed: what the node remembers of it
    Why(command::why::Why),
    /// Start moving a chain's resident prefix to host memory
    Prefetch(command::prefetch::Prefetch),
    /// Keep a chain's resident prefix under a name until a time has passed
    Pin(command::pin::Pin),
    /// End a pin
    Unpin(command::pin::Unpin),
    /// Forget blocks
    Delete(command::delete::Delete),
    /// The node's event log
    Events(command::events::Events),
    /// Load the node and measure: puts, gets and lookups, every block verified
    Bench(command::bench::Bench),
    /// Replay request traces
    #[command(subcommand)]
    Trace(command::trace::Trace),
    /// Read and verify every persistent block now
    Scrub(command::scrub::Scrub),
    /// Stop stores, write back what is queued, sync
    Drain(command::drain::Drain),
    /// Check a stopped daemon's data directory (runs `kvtierd fsck`)
    Fsck(command::daemon::Delegated),
    /// Check a configuration file and print all its problems (runs `kvtierd check-config`)
    CheckConfig(command::daemon::Delegated),
    /// Print a completion script for a shell
    Completions(command::completions::Completions),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        let help = Arguments::command().render_help().to_string();
        for code in ["0  ", "1  ", "2  ", "3  ", "4  ", "5  ", "6  ", "130"] {
            assert!(help.contains(&format!("\n  {code}")), "{code} is missing:\n{help}");
        }
    }
}
