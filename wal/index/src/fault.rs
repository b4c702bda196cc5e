//! What RocksDB says, told in the port's three kinds of error.

use std::path::Path;
use std::time::Duration;

use kvtier_engine::port::IndexError;
use rocksdb::ErrorKind;

/// Names directory and remedy of damage.
pub(crate) fn corrupt(path: &Path, what: impl std::fmt::Display) -> IndexError {
    IndexError::Corrupt(format!("{}: {what}; run `kvtier fsck --repair`", path.display()))
}

/// Names the directory of something that could not be told or done.
pub(crate) fn unavailable(path: &Path, what: impl std::fmt::Display) -> IndexError {
    IndexError::Unavailable(format!("{}: {what}", path.display()))
}

/// Names the directory whose file system is full.
pub(crate) fn full(path: &Path, what: impl std::fmt::Display) -> IndexError {
    IndexError::Full(format!("{}: {what}", path.display()))
}

/// Sorts an error of a running RocksDB.
///
/// RocksDB resumes by itself after "no space" (it looks for room every five seconds); after any other failed write it
/// refuses all writes until it is opened again, because what a failed sync left behind is unknown (INV-7).
pub(crate) fn running(path: &Path, error: &rocksdb::Error) -> IndexError {
    match error.kind() {
        ErrorKind::Corruption => corrupt(path, error),
        ErrorKind::IOError | ErrorKind::Incomplete if is_no_space(error) => full(path, error),
        ErrorKind::IOError | ErrorKind::Incomplete => {
            unavailable(path, format_args!("{error}; if it persists, check the disk and restart"))
        }
        _ => unavailable(path, error),
    }
}

/// Whether a write was refused only because the buffers are full. When they are full for good RocksDB says the same kind of
/// error, with why a flush has failed.
pub(crate) fn is_stall(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::Incomplete && error.as_ref().contains("Write stall")
}

/// RocksDB has taken no writes for so long.
pub(crate) fn stalled(path: &Path, lasted: Duration) -> IndexError {
    let what = format_args!("no writes are taken for {lasted:?}; if it persists, check the disk and restart");
    unavailable(path, what)
}

/// Sorts an error of an opening RocksDB. `CURRENT` and the manifest it names were there when this is asked.
pub(crate) fn opening(path: &Path, error: &rocksdb::Error) -> IndexError {
    match error.kind() {
        ErrorKind::IOError if is_no_space(error) => full(path, error),
        ErrorKind::IOError => unavailable(path, error),
        ErrorKind::NotSupported => newer(path, error),
        _ => corrupt(path, error),
    }
}

/// The index was written by a newer kvtier. Not damage: repair would destroy it.
pub(crate) fn newer(path: &Path, what: impl std::fmt::Display) -> IndexError {
    unavailable(path, format_args!("written by a newer kvtier ({what}); use that version or newer"))
}

/// RocksDB knows a "no space" subcode, but its C interface, all that Rust can reach, passes only this text on. The test
/// `a_full_disk_refuses_and_resumes_by_itself` fails should the text ever change.
fn is_no_space(error: &rocksdb::Error) -> bool {
    error.as_ref().contains("No space left on device")
}
