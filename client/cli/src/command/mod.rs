//! One subcommand per file: its arguments, what it asks, what it prints.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod daemon;
pub(crate) mod delete;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod lookup;
pub(crate) mod pin;
pub(crate) mod prefetch;
pub(crate) mod put;
pub(crate) mod scrub;
pub(crate) mod spaces;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod why;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

/// Carries out what was typed.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let global = arguments.global;
    match arguments.command {
        Command::Status(status) => status.run(&global).await,
        Command::Top(top) => top.run(&global).await,
        Command::Spaces(spaces) => spaces.run(&global).await,
        Command::Put(put) => put.run(&global).await,
        Command::Get(get) => get.run(&global).await,
        Command::Lookup(lookup) => lookup.run(&global).await,
        Command::Why(why) => why.run(&global).await,
        Command::Prefetch(prefetch) => prefetch.run(&global).await,
        Command::Pin(pin) => pin.run(&global).await,
        Command::Unpin(unpin) => unpin.run(&global).await,
        Command::Delete(delete) => delete.run(&global).await,
        Command::Events(events) => events.run(&global).await,
        Command::Bench(bench) => bench.run(&global).await,
        Command::Trace(trace) => trace.run(&global).await,
        Command::Scrub(scrub) => scrub.run(&global).await,
        Command::Drain(drain) => drain.run(&global).await,
        Command::Fsck(fsck) => fsck.run("fsck", global.json),
        Command::CheckConfig(check) => check.run("check-config", global.json),
        Command::Completions(completions) => completions.run(),
    }
}
