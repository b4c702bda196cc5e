//! Whether the file the tier writes to is still the file that the next start will open.
//!
//! A deleted or replaced data file goes on taking writes through its open descriptor, and they all vanish with the
//! process. So every sync asks before it promises durability, and stores stop as soon as it is known.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// Compares what a path names with what is open.
pub trait Presence: Send + Sync + 'static {
    /// `Err` says what happened, e.g. `the file was deleted`. Cheap; called for every sync.
    fn check(&self) -> Result<(), String>;
}

/// For devices that cannot go away, such as those of tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysPresent;

impl Presence for AlwaysPresent {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Compares what a path names with the file that was opened: same file system, inode and device number, and not
/// shorter than it was.
#[derive(Debug)]
pub struct SameFile {
    path: PathBuf,
    opened: Identity,
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    file_system: u64,
    inode: u64,
    special: u64,
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        Self { file_system: file.dev(), inode: file.ino(), special: file.rdev() }
    }
}

impl SameFile {
    /// `opened` describes the open descriptor (`File::metadata`), not the path: what was replaced between opening and
    /// this call is noticed too.
    pub fn new(path: impl Into<PathBuf>, opened: &Metadata) -> Self {
        let bytes = if opened.file_type().is_block_device() { 0 } else { opened.len() };
        Self { path: path.into(), opened: Identity::of(opened), bytes }
    }
}

impl Presence for SameFile {
    fn check(&self) -> Result<(), String> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("{path} was deleted")),
            Err(error) => Err(format!("{path} cannot be looked at: {error}")),
            Ok(now) if Identity::of(&now) != self.opened => Err(format!("{path} was replaced by another file")),
            Ok(now) if now.len() < self.bytes => {
                Err(format!("{path} was truncated from {} to {} bytes", self.bytes, now.len()))
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A file of 8 KiB in a folder of its own.
    fn world() -> (tempfile::TempDir, PathBuf, SameFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nvme-0.blocks");
        let file = File::create(&path).unwrap();
        file.set_len(8192).unwrap();
        let presence = SameFile::new(&path, &file.metadata().unwrap());
        (folder, path, presence)
    }

    #[test]
    fn an_untouched_or_renamed_back_file_is_present() {
        let (_folder, path, presence) = world();
        assert_eq!(presence.check(), Ok(()));
        fs::rename(&path, path.with_extension("old")).unwrap();
        fs::rename(path.with_extension("old"), &path).unwrap();
        assert_eq!(presence.check(), Ok(()));
    }

    #[test]
    fn a_deleted_file_is_missed() {
        let (_folder, path, presence) = world();
        fs::remove_file(path).unwrap();
        assert!(presence.check().unwrap_err().ends_with("was deleted"));
    }

    #[test]
    fn a_replaced_file_is_missed_although_it_looks_alike() {
        let (_folder, path, presence) = world();
        let other = path.with_extension("new");
        File::create(&other).unwrap().set_len(8192).unwrap();
        fs::rename(other, path).unwrap();
        assert!(presence.check().unwrap_err().ends_with("was replaced by another file"));
    }

    #[test]
    fn a_truncated_file_is_missed() {
        let (_folder, path, presence) = world();
        File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
        assert!(presence.check().unwrap_err().ends_with("was truncated from 8192 to 4096 bytes"));
    }
}
