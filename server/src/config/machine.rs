//! What the machine has: memory, disks, and what is already there. Asked for defaults and for `check-config`.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};

/// Free space of one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Tells file systems apart.
    pub file_system: u64,
    /// Bytes that could still be written.
    pub free_bytes: u64,
}

/// What is at a path where a tier's file will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// Nothing yet.
    Missing,
    /// A regular file: its size, and how much of the disk it holds.
    File {
        /// Size in bytes.
        bytes: u64,
        /// Bytes allocated on the file system.
        allocated_bytes: u64,
    },
    /// A block device of this size.
    Device {
        /// Size in bytes.
        bytes: u64,
    },
    /// A directory or something else that cannot hold blocks.
    Unusable,
}

/// What is at a path where a directory should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    /// Nothing there; the nearest existing ancestor can be written to or not.
    Missing {
        /// Whether the directory could be created.
        creatable: bool,
    },
    /// A directory that takes files.
    Writable,
    /// A directory that takes none, and why.
    ReadOnly(String),
    /// A file.
    NotADirectory,
}

/// The questions. Tests answer them with fixed values.
pub trait Machine {
    /// Memory in bytes: the machine's, or the control group's limit if that is lower.
    fn memory_bytes(&self) -> u64;
    /// The file system that holds, or would hold, `path`.
    fn disk(&self, path: &Path) -> Option<Disk>;
    /// What is at `path`.
    fn file(&self, path: &Path) -> FileState;
    /// What is at `path`, seen as a directory.
    fn directory(&self, path: &Path) -> DirectoryState;
    /// Bytes allocated to the files directly in a directory.
    fn directory_bytes(&self, path: &Path) -> u64;
    /// Why a file cannot be read, if it cannot.
    fn unreadable(&self, path: &Path) -> Option<String>;
}

/// The machine this process runs on.
#[derive(Debug, Clone, Copy)]
pub struct Here;

impl Machine for Here {
    fn memory_bytes(&self) -> u64 {
        let installed = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(memory_total);
        let installed = installed.unwrap_or(1 << 30);
        control_group_limit().map_or(installed, |limit| limit.min(installed))
    }

    fn disk(&self, path: &Path) -> Option<Disk> {
        let at = nearest_existing(path)?;
        let free = rustix::fs::statvfs(&at).ok()?;
        let file_system = fs::metadata(&at).ok()?.st_dev();
        Some(Disk { file_system, free_bytes: free.f_bavail.saturating_mul(free.f_frsize) })
    }

    fn file(&self, path: &Path) -> FileState {
        let Ok(found) = fs::metadata(path) else {
            return FileState::Missing;
        };
        if found.is_file() {
            return FileState::File { bytes: found.len(), allocated_bytes: found.st_blocks() * 512 };
        }
        if found.file_type().is_block_device() {
            return FileState::Device { bytes: device_bytes(path).unwrap_or(0) };
        }
        FileState::Unusable
    }

    fn directory(&self, path: &Path) -> DirectoryState {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                why_read_only(path).map_or(DirectoryState::Writable, DirectoryState::ReadOnly)
            }
            Ok(_) => DirectoryState::NotADirectory,
            Err(_) => {
                let creatable = nearest_existing(path).is_some_and(|at| at.is_dir() && why_read_only(&at).is_none());
                DirectoryState::Missing { creatable }
            }
        }
    }

    fn directory_bytes(&self, path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else {
            return 0;
        };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|found| found.st_blocks() * 512).sum()
    }

    fn unreadable(&self, path: &Path) -> Option<String> {
        fs::File::open(path).err().map(|error| error.to_string())
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The lowest `memory.max` from this process's control group up to the root (cgroup v2).
fn control_group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut at = PathBuf::from("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    let mut lowest: Option<u64> = None;
    while at.starts_with("/sys/fs/cgroup") {
        let limit = fs::read_to_string(at.join("memory.max")).ok().and_then(|text| text.trim().parse().ok());
        lowest = [lowest, limit].into_iter().flatten().min();
        at.pop();
    }
    lowest
}

/// The path itself or its nearest ancestor that exists.
fn nearest_existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|at| at.exists()).map(Path::to_path_buf)
}

/// Whether a directory takes files, without leaving one: permission first, then an unnamed temporary file.
fn why_read_only(path: &Path) -> Option<String> {
    if let Err(error) = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(std::io::Error::from(error).to_string());
    }
    match rustix::fs::open(path, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Err(error @ (rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)) => {
            Some(std::io::Error::from(error).to_string())
        }
        // Some file systems have no unnamed files; then the permission bits have to do.
        Ok(_) | Err(_) => None,
    }
}

fn device_bytes(path: &Path) -> Option<u64> {
    use std::io::{Seek, SeekFrom};
    fs::File::open(path).ok()?.seek(SeekFrom::End(0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(memory_total("nonsense"), None);
        assert!(Here.memory_bytes() > 1 << 20);
    }

    #[test]
    fn a_path_that_does_not_exist_yet_has_the_disk_of_its_ancestor() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        // Its free bytes are everybody's, and change between two looks.
        let file_system = |path: &Path| Here.disk(path).map(|disk| disk.file_system);
        assert!(file_system(&deep).is_some());
        assert_eq!(file_system(&deep), file_system(folder.path()));
        assert_eq!(Here.directory(&deep), DirectoryState::Missing { creatable: true });
    }

    #[test]
    fn looking_at_a_directory_leaves_nothing_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Here.directory(folder.path()), DirectoryState::Writable);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_not_a_directory_and_a_directory_is_not_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, [0; 5000]).unwrap();
        assert_eq!(Here.directory(&file), DirectoryState::NotADirectory);
        assert_eq!(Here.directory(&file.join("below")), DirectoryState::Missing { creatable: false });
        assert_eq!(Here.file(folder.path()), FileState::Unusable);
        assert!(matches!(Here.file(&file), FileState::File { bytes: 5000, .. }));
    }
}
