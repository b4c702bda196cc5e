//! `kvtier completions`: a completion script for a shell.

use clap::CommandFactory;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::output;

/// Arguments of `kvtier completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "kvtier", &mut script);
        output::raw(&script)
    }
}
