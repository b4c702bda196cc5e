//! What a failed write means for the journal.

use std::io;

/// Why a group was not written.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No room; nothing is unknown. The journal is suspended and tries again.
    Full(String),
    /// What is on disk is unknown (INV-7).
    Unknown(String),
}

impl Failure {
    /// A failed creation, write, truncation or removal.
    pub(crate) fn of_write(action: &str, name: &str, error: &io::Error) -> Self {
        let reason = format!("{action} {name}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(reason),
            _ => Self::Unknown(reason),
        }
    }

    /// A failed sync, whatever it says: pages may be lost and marked clean.
    pub(crate) fn of_sync(name: &str, error: &io::Error) -> Self {
        Self::Unknown(format!("syncing {name}: {error}"))
    }
}
