//! How a command fails: what is said, and the exit code a script sees.

use std::path::PathBuf;

use kvtier_client::ClientError;
use serde_json::json;

/// Exit codes, as documented in `docs/operating/cli.md`.
pub(crate) mod exit {
    /// The command failed for a reason none of the other codes names.
    pub(crate) const FAILURE: u8 = 1;
    /// What was typed cannot work.
    pub(crate) const USAGE: u8 = 2;
    /// The daemon cannot be reached or did not answer in time.
    pub(crate) const UNAVAILABLE: u8 = 3;
    /// Bytes came back that are not what was put.
    pub(crate) const UNVERIFIED: u8 = 4;
    /// A block, space, pin or lease is not there.
    pub(crate) const MISSING: u8 = 5;
    /// The daemon refused to store something now.
    pub(crate) const DECLINED: u8 = 6;
    /// Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{what}")]
    Usage { what: String, remedy: String },
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what}")]
    Unverified { what: String },
    #[error("{what}")]
    Missing { what: String, remedy: String },
    #[error("{what}")]
    Declined { what: String, remedy: String },
    #[error("interrupted")]
    Interrupted,
    /// A program this command handed over to ended with its own code and said why itself.
    #[error("exit code {0}")]
    Delegated(u8),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    pub(crate) fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn missing(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Missing { what: what.into(), remedy: remedy.into() }
    }

    /// For `map_err` on file operations.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => client_exit_code(error),
            Self::Usage { .. } => exit::USAGE,
            Self::Unverified { .. } => exit::UNVERIFIED,
            Self::Missing { .. } => exit::MISSING,
            Self::Declined { .. } => exit::DECLINED,
            Self::Interrupted => exit::INTERRUPTED,
            Self::Delegated(code) => *code,
            // Whoever closed the pipe has seen enough.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Self::File { .. } | Self::Output(_) => exit::FAILURE,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Client(error) => error.kind(),
            Self::Usage { .. } => "usage",
            Self::File { .. } => "file",
            Self::Unverified { .. } => "unverified",
            Self::Missing { .. } => "missing",
            Self::Declined { .. } => "declined",
            Self::Interrupted => "interrupted",
            Self::Delegated(_) => "delegated",
            Self::Output(_) => "output",
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Usage { remedy, .. } | Self::Missing { remedy, .. } | Self::Declined { remedy, .. } => {
                Some(remedy.clone())
            }
            Self::Client(error) => client_remedy(error).map(str::to_owned),
            Self::Unverified { .. } => Some("run `kvtier scrub`, then look at the alarms in `kvtier status`".into()),
            _ => None,
        }
    }

    /// Says it on standard error, as a sentence or as one JSON object.
    pub(crate) fn report(&self, json: bool) {
        if matches!(self, Self::Delegated(_)) || self.exit_code() == 0 {
            return;
        }
        if json {
            let error = json!({
                "kind": self.kind(),
                "message": self.to_string(),
                "remedy": self.remedy(),
                "exit_code": self.exit_code(),
            });
            eprintln!("{}", json!({ "error": error }));
            return;
        }
        eprintln!("error: {self}");
        if let Some(remedy) = self.remedy() {
            eprintln!(" help: {remedy}");
        }
    }
}

fn client_exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Invalid { .. } => exit::USAGE,
        ClientError::NotFound { .. } => exit::MISSING,
        ClientError::Unavailable { .. }
        | ClientError::Exhausted { .. }
        | ClientError::TimedOut { .. }
        | ClientError::Indeterminate { .. } => exit::UNAVAILABLE,
        ClientError::Corrupt { .. } => exit::UNVERIFIED,
        _ => exit::FAILURE,
    }
}

fn client_remedy(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Unavailable { .. } => {
            Some("start the daemon with `kvtierd`, or name another with --endpoint or KVTIER_ENDPOINT")
        }
        ClientError::TimedOut { .. } => Some("look at `kvtier status`, or wait longer with --timeout"),
        ClientError::Indeterminate { .. } => Some("repeat the command: putting the same block again is harmless"),
        ClientError::Conflict { .. } => Some("see `kvtier spaces list` for what is open under that name"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let unavailable =
            ClientError::Unavailable { endpoint: "e".into(), detail: "d".into(), retry_after: Duration::ZERO };
        let corrupt = ClientError::Corrupt { index: 0, announced: 1, found: 2 };
        let not_found = ClientError::NotFound { call: "get", detail: "d".into() };
        let codes = [
            Failure::usage("a", "b").exit_code(),
            Failure::from(unavailable).exit_code(),
            Failure::from(corrupt).exit_code(),
            Failure::from(not_found).exit_code(),
            Failure::Declined { what: "a".into(), remedy: "b".into() }.exit_code(),
            Failure::Delegated(77).exit_code(),
            Failure::Output(std::io::ErrorKind::BrokenPipe.into()).exit_code(),
        ];
        assert_eq!(codes, [2, 3, 4, 5, 6, 77, 0]);
    }

    #[test]
    fn an_unreachable_daemon_comes_with_advice() {
        let error = ClientError::Unavailable {
            endpoint: "unix:///s".into(),
            detail: "Connection refused".into(),
            retry_after: Duration::from_secs(1),
        };
        let failure = Failure::from(error);
        assert_eq!(
            failure.to_string(),
            "kvtierd at unix:///s is unavailable: Connection refused; try again in 1000 ms"
        );
        assert!(failure.remedy().expect("advice").contains("--endpoint"));
    }
}
