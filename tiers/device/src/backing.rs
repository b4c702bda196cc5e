//! The file or block device under a disk: creating, preallocating and opening it, and noticing that it changed.
//!
//! Created files are 0600 and fully allocated, so that the disk can never overflow later. A crash while creating leaves
//! a shorter file, which the next open grows; nothing in it was promised to anybody yet.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::settings::DiskSettings;
use crate::transfer::ALIGNMENT_BYTES;

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong; all problems, one a line.
    #[error("disk settings: {0}")]
    Settings(String),
    /// The file system has too little room for the file.
    #[error(
        "{path} needs {needed_bytes} more bytes but its file system has {free_bytes} free: make room, or configure \
         fewer bytes"
    )]
    Full {
        /// The file.
        path: String,
        /// What is missing to its size.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The file or device, or the driver asked for, cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// What a file is, whatever its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskIdentity {
    /// Device that holds the file, or the block device itself.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// How a file under a running disk was changed behind its back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityChange {
    /// It became shorter.
    #[error("{path} was truncated from {from_bytes} to {to_bytes} bytes")]
    Truncated {
        /// The file.
        path: String,
        /// Size when opened.
        from_bytes: u64,
        /// Size now.
        to_bytes: u64,
    },
    /// Its name is gone: its bytes vanish when the daemon stops.
    #[error("{0} was deleted")]
    Deleted(String),
    /// Its name leads to another file.
    #[error("{0} was replaced by another file")]
    Replaced(String),
    /// It could not be told.
    #[error("{path} cannot be examined: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
}

/// An open file or block device, for aligned transfers.
#[derive(Debug)]
pub struct Backing {
    pub(crate) file: File,
    path: PathBuf,
    bytes: u64,
    identity: DiskIdentity,
}

impl Backing {
    /// Opens what the settings name with O_DIRECT; creates or grows a file if they give a size.
    pub fn open(settings: &DiskSettings) -> Result<Self, OpenError> {
        let problems = settings.validate();
        if !problems.is_empty() {
            return Err(OpenError::Settings(problems.join("\n")));
        }
        let path = &settings.path;
        match (std::fs::metadata(path), settings.bytes) {
            (Ok(found), _) if found.file_type().is_block_device() => open_device(path, settings.bytes),
            (Ok(found), bytes) if found.is_file() => open_file(path, bytes, false),
            (Ok(_), _) => Err(unusable(path, "is neither a file nor a block device")),
            (Err(error), Some(_)) if error.kind() == io::ErrorKind::NotFound => open_file(path, settings.bytes, true),
            (Err(error), _) => Err(unusable(path, &format!("cannot be opened: {error}"))),
        }
    }

    /// A file already open, whatever it is, taken for `bytes` bytes: for tests with devices of special behaviour.
    #[cfg(test)]
    pub(crate) fn assume(file: File, path: &Path, bytes: u64) -> Self {
        let identity = identity_of(&file).expect("an open file can be examined");
        Self { file, path: path.to_owned(), bytes, identity: DiskIdentity { bytes, ..identity } }
    }

    /// Usable size in bytes, a multiple of 4 KiB.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was opened.
    pub fn identity(&self) -> DiskIdentity {
        self.identity
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the open file and the file is as long as it was. Blocks for two system calls.
    pub fn check_identity(&self) -> Result<(), IdentityChange> {
        let path = self.path.display().to_string();
        let unreadable =
            |error: io::Error| IdentityChange::Unreadable { path: path.clone(), reason: error.to_string() };
        let now = identity_of(&self.file).map_err(unreadable)?;
        if now.bytes < self.identity.bytes {
            return Err(IdentityChange::Truncated { path, from_bytes: self.identity.bytes, to_bytes: now.bytes });
        }
        match std::fs::metadata(&self.path) {
            Ok(found) if same_file(&found, self.identity) => Ok(()),
            Ok(_) => Err(IdentityChange::Replaced(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(IdentityChange::Deleted(path)),
            Err(error) => Err(unreadable(error)),
        }
    }
}

fn open_device(path: &Path, wanted: Option<u64>) -> Result<Backing, OpenError> {
    // O_EXCL on a block device refuses one that is mounted.
    let file = open_direct(path, libc::O_EXCL, false)?;
    let identity = identity_of(&file).map_err(|error| unusable(path, &error.to_string()))?;
    let usable = identity.bytes - identity.bytes % ALIGNMENT_BYTES;
    let bytes = wanted.unwrap_or(usable);
    if bytes > usable || bytes == 0 {
        return Err(unusable(path, &format!("has {usable} usable bytes, but {bytes} are configured")));
    }
    Ok(Backing { file, path: path.to_owned(), bytes, identity })
}

fn open_file(path: &Path, wanted: Option<u64>, create: bool) -> Result<Backing, OpenError> {
    let mut file = open_direct(path, 0, create)?;
    let result = size_file(&mut file, path, wanted);
    if result.is_err() && create {
        // Best effort: an empty file in the way of nobody.
        let _ignored = std::fs::remove_file(path);
    }
    let bytes = result?;
    let identity = identity_of(&file).map_err(|error| unusable(path, &error.to_string()))?;
    Ok(Backing { file, path: path.to_owned(), bytes, identity })
}

/// Grows the file to the size wanted, and returns its usable size.
fn size_file(file: &mut File, path: &Path, wanted: Option<u64>) -> Result<u64, OpenError> {
    let system = |error: io::Error| unusable(path, &error.to_string());
    let found = file.metadata().map_err(system)?.len();
    let Some(wanted) = wanted else {
        let usable = found - found % ALIGNMENT_BYTES;
        return if usable > 0 { Ok(usable) } else { Err(unusable(path, "is empty: configure its size in bytes")) };
    };
    if found > wanted {
        let remedy = format!("has {found} bytes, more than the {wanted} configured: configure {found}, or delete it");
        return Err(unusable(path, &remedy));
    }
    allocate(file, path, wanted)?;
    Ok(wanted)
}

/// Allocates every block of the file, and makes its size and name durable.
fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), OpenError> {
    let system = |error: io::Error| unusable(path, &format!("cannot be allocated: {error}"));
    let found = file.metadata().map_err(system)?;
    // Blocks are counted in 512 bytes. A file may hold more than its size (metadata), or less (holes).
    let needed_bytes = bytes.saturating_sub(found.blocks() * 512);
    if needed_bytes == 0 && found.len() == bytes {
        return Ok(());
    }
    let free = rustix::fs::fstatvfs(file).map_err(|error| system(error.into()))?;
    let free_bytes = free.f_bavail.saturating_mul(free.f_frsize);
    let full = || OpenError::Full { path: path.display().to_string(), needed_bytes, free_bytes };
    if needed_bytes > free_bytes {
        return Err(full());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOSPC) => {
            // Give back what it got.
            file.set_len(found.len()).map_err(system)?;
            return Err(full());
        }
        Err(error) => return Err(system(error.into())),
    }
    file.sync_all().map_err(system)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(system)
}

fn open_direct(path: &Path, flags: i32, create: bool) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(create).mode(0o600).custom_flags(libc::O_DIRECT | flags);
    options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => unusable(path, "lies on a file system without O_DIRECT: choose another"),
        Some(libc::EBUSY) => unusable(path, "is mounted or otherwise in use"),
        _ => unusable(path, &format!("cannot be opened: {error}")),
    })
}

fn identity_of(file: &File) -> io::Result<DiskIdentity> {
    let found = file.metadata()?;
    let is_device = found.file_type().is_block_device();
    let mut end_of = file;
    // A device's size is where its end is; nothing here uses the file's own position.
    let bytes = if is_device { end_of.seek(SeekFrom::End(0))? } else { found.len() };
    Ok(DiskIdentity { device: if is_device { found.rdev() } else { found.dev() }, inode: found.ino(), bytes })
}

fn same_file(found: &std::fs::Metadata, identity: DiskIdentity) -> bool {
    if found.file_type().is_block_device() {
        return found.rdev() == identity.device;
    }
    found.dev() == identity.device && found.ino() == identity.inode
}

fn unusable(path: &Path, what: &str) -> OpenError {
    OpenError::Unusable(format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests;
