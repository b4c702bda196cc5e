//! `kvtier fsck` and `kvtier check-config`: work on files only the daemon's own program understands, so it does it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::{Failure, exit};

const DAEMON: &str = "kvtierd";

/// Arguments handed to `kvtierd` as they are.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Delegated {
    /// Arguments for kvtierd; --help shows its own help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Delegated {
    /// Runs `kvtierd SUBCOMMAND ARGUMENTS…` on this terminal and ends as it ends.
    /// `--json` is an option of both programs: it was read before the arguments, so it is handed on.
    pub(crate) fn run(self, subcommand: &str, json: bool) -> Result<(), Failure> {
        let program = program();
        let json = json.then_some("--json");
        let status = Command::new(&program).arg(subcommand).args(json).args(self.arguments).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILURE);
                Err(Failure::Delegated(code))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::missing(
                format!("`kvtier {subcommand}` runs `{DAEMON} {subcommand}`, and {DAEMON} was not found"),
                format!("install {DAEMON} next to kvtier or in a folder of PATH"),
            )),
            Err(source) => Err(Failure::File { action: "run", path: program, source }),
        }
    }
}

/// The daemon next to this program, or else the one in PATH.
fn program() -> PathBuf {
    let sibling = std::env::current_exe().ok().map(|path| path.with_file_name(DAEMON));
    sibling.filter(|path| path.is_file()).unwrap_or_else(|| DAEMON.into())
}
