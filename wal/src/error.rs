//! What can go wrong when a log is opened, examined or repaired.

use std::fmt;
use std::io;

use crate::settings::SettingProblem;

/// A place in the log that does not hold what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file name.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// What is wrong, for people.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.reason)
    }
}

/// What the caller would do differently.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Records that had been durable are gone or changed. Nothing was touched.
    #[error(
        "the journal is damaged in {file} at byte {offset}: {explanation}; run `kvtier fsck` to see what is lost, and with --repair to cut the log there and begin a new epoch"
    )]
    Damaged {
        /// The segment's file name.
        file: String,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong.
        explanation: String,
    },
    /// Written by a newer kvtier. Nothing was touched.
    #[error("the journal cannot be read: {file}: {explanation}; use the newer kvtier that wrote it")]
    Unsupported {
        /// The segment's file name.
        file: String,
        /// Which version.
        explanation: String,
    },
    /// The folder or a file could not be read or changed.
    #[error("{action} failed")]
    Io {
        /// What was tried, with the file's name.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The settings cannot be used.
    #[error("the journal's settings are wrong: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings(Vec<SettingProblem>),
    /// The writer's thread could not be started, or died while opening.
    #[error("the journal's thread could not be started: {0}")]
    Thread(String),
}

impl From<Damage> for WalError {
    fn from(damage: Damage) -> Self {
        Self::Damaged { file: damage.file, offset: damage.offset, explanation: damage.reason }
    }
}

/// Names what was tried.
pub(crate) trait During<T> {
    /// Turns an I/O error into [`WalError::Io`].
    fn during(self, action: &str, file: &str) -> Result<T, WalError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: &str, file: &str) -> Result<T, WalError> {
        self.map_err(|source| WalError::Io { action: format!("{action} {file}"), source })
    }
}
