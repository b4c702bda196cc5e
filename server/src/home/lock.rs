//! One daemon per data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::HomeError;

const NAME: &str = "LOCK";

/// Held until dropped or until the process ends, whichever way. The file stays: removing it would let two daemons hold
/// locks on two files of one name.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(directory: &Path) -> Result<Self, HomeError> {
        let path = directory.join(NAME);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(HomeError::io("open lock file", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(HomeError::Locked { directory: directory.to_path_buf(), holder: holder(&mut file) });
            }
            Err(error) => return Err(HomeError::io("lock", &path)(error.into())),
        }
        sign(&mut file).map_err(HomeError::io("write lock file", &path))?;
        Ok(Self { _file: file })
    }
}

/// The process id is for people only; the lock itself is the kernel's.
fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let digits = text.trim();
    let readable = read.is_ok() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if readable { digits.to_owned() } else { "unknown".to_owned() }
}
