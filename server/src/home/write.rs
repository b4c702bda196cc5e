//! Files that are there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::HomeError;

const UNFINISHED: &str = ".unfinished";

/// Writes `name` with these bytes and permission bits, replacing nothing halfway: a crash leaves the old state or the
/// new one, and perhaps a file that ends in `.unfinished`, which the next writing replaces.
pub(crate) fn whole(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), HomeError> {
    let path = directory.join(name);
    let unfinished = directory.join(format!("{name}{UNFINISHED}"));
    let make = || {
        if unfinished.exists() {
            std::fs::remove_file(&unfinished)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(directory)?.sync_all()
    };
    make().map_err(HomeError::io("write", &path))
}

/// Whether a crash left this file behind.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED)
}
