//! One process per index directory.
//!
//! RocksDB locks its directory too, but reports a held lock like any failed read; this lock says what is the matter.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use kvtier_engine::port::IndexError;

use crate::fault;

const FILE: &str = "kvtier-index.lock";

/// Held as long as the directory is in use. The kernel lets go of it when the process ends, however it ends.
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks an existing directory, or says who has it.
    pub(crate) fn take(directory: &Path) -> Result<Self, IndexError> {
        let path = directory.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| fault::unavailable(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(directory, &mut file)),
            Err(TryLockError::Error(error)) => return Err(fault::unavailable(&path, error)),
        }
        // The number is for people only, so a full disk is no reason not to open.
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(path = %path.display(), %error, "could not note the process id in the lock file");
        }
        Ok(Self { _file: file })
    }
}

fn in_use(directory: &Path, file: &mut File) -> IndexError {
    let mut text = String::new();
    let process = match file.take(20).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    };
    fault::unavailable(directory, format_args!("the index is in use by {process}; stop it first"))
}
