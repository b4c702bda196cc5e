//! The data directory: one daemon at a time, one format, one identity.
//!
//! ```text
//! <data_directory>/
//!   LOCK     held with flock(2) while a daemon runs; holds its process id, for people
//!   FORMAT   "kvtier data directory" and the version of everything in it
//!   NODE     the node's UUID: names this directory's event log to the cluster
//!   SECRET   32 random bytes, mode 0600: the root of every tenant's secret
//! ```
//!
//! [`Home::open`] takes the lock *first* and looks at the rest only while holding it. A file that is made is written
//! under another name, synced, renamed, and its directory synced: a crash leaves either no file or a whole one, and
//! the next start goes on from there. FORMAT is made last of the three, so that a directory with a FORMAT has all of
//! them, and one without is either empty or unfinished. The kernel drops the lock with the process, however it ends.

mod format;
mod identity;
mod lock;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

pub use format::VERSION;
pub use identity::{NodeId, Secret};
use lock::Lock;
pub(crate) use write::whole as write_whole;

/// Why a data directory was not opened. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another daemon has it.
    #[error(
        "data directory {} is in use by kvtierd with process id {holder}; stop that process, or give this one another \
         data_directory",
        directory.display()
    )]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The holder's process id, or `unknown`.
        holder: String,
    },
    /// A later build wrote it.
    #[error(
        "data directory {} has format {found}, this kvtierd reads formats up to {known}; start a newer kvtierd, or name \
         another data_directory",
        directory.display()
    )]
    Newer {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
        /// The newest this build knows.
        known: u32,
    },
    /// A file that is there but makes no sense.
    #[error("{} {why}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The directory is not empty, and nothing of kvtier is in it.
    #[error(
        "data directory {} holds other files ({example}) and no FORMAT; name an empty or a new directory",
        directory.display()
    )]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// One of them.
        example: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
}

impl HomeError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

/// An open data directory. While it lives, no other daemon can open it.
#[derive(Debug)]
pub struct Home {
    /// The directory.
    pub directory: PathBuf,
    /// Names the node.
    pub node: NodeId,
    /// Root of every tenant's secret.
    pub secret: Secret,
    _lock: Lock,
}

impl Home {
    /// Opens a data directory, and makes one of an empty directory. `create`: also make the directory itself.
    pub fn open(directory: &Path, create: bool) -> Result<Self, HomeError> {
        if create {
            std::fs::create_dir_all(directory).map_err(HomeError::io("create directory", directory))?;
        }
        let lock = Lock::take(directory)?;
        let fresh = format::check(directory)?;
        let node = identity::node(directory, fresh)?;
        let secret = identity::secret(directory, fresh)?;
        if fresh {
            format::write(directory)?;
        }
        Ok(Self { directory: directory.to_path_buf(), node, secret, _lock: lock })
    }
}
