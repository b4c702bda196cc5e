//! `kvtier`: the command line of a KV-cache node.
//!
//! Every command is one file in [`command`]; it asks `kvtierd` through `kvtier-client` and prints a table for people or
//! JSON for programs. Nothing is decided here and nothing is kept: the daemon's answers are shown, and blocks that come
//! back are verified.
//!
//! Reading order: [`arguments`] (what can be typed), [`failure`] (how it fails and with which exit code), [`command`],
//! then [`pattern`] and `command/trace` for what `make demo` shows.
#![forbid(unsafe_code)]

mod amount;
mod arguments;
mod chain;
mod chunk;
mod clock;
mod command;
mod connection;
mod failure;
mod key;
mod latency;
mod output;
mod pattern;
mod progress;
mod rate;
mod space;
mod table;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let json = arguments.global.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(command::run(arguments)),
        Err(source) => Err(failure::Failure::File { action: "start", path: "the runtime".into(), source }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit_code())
        }
    }
}
