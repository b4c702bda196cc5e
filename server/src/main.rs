//! `kvtierd`: see `kvtierd --help`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use kvtierd::command::{self, Next};

fn main() -> ExitCode {
    let environment =
        std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    match command::read(std::env::args_os(), environment.collect()) {
        Next::Exit { out, err, code } => {
            // A closed pipe is the reader's choice, not a failure.
            let _ = std::io::stdout().write_all(out.as_bytes());
            let _ = std::io::stderr().write_all(err.as_bytes());
            ExitCode::from(code)
        }
        Next::Fsck(config, options) => {
            let (out, code) = kvtierd::fsck::run(&config, options);
            // What could not be examined is a message, not a report.
            let _ = match code {
                kvtierd::fsck::EXIT_UNKNOWN => std::io::stderr().write_all(out.as_bytes()),
                _ => std::io::stdout().write_all(out.as_bytes()),
            };
            ExitCode::from(code)
        }
        Next::Serve(config) => kvtierd::daemon::run(*config),
    }
}
