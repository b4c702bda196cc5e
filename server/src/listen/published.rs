//! `<data_directory>/LISTENING`: where the daemon of a data directory can be reached, with real ports.
//!
//! Written when everything is bound, removed at a clean end. A file left by a crash is replaced by the next start; its
//! `pid` tells readers whether it may be stale.

use std::path::{Path, PathBuf};

use super::Addresses;
use crate::home::{HomeError, write_whole};

/// The file's name.
pub const NAME: &str = "LISTENING";

/// Removes the file when dropped.
#[derive(Debug)]
pub struct Published(PathBuf);

impl Drop for Published {
    fn drop(&mut self) {
        // Left behind it is stale, which readers must expect anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes the file. TOML: `tcp`, `unix`, `http`, `local` (each only when listened on), `pid`.
pub fn publish(directory: &Path, addresses: &Addresses) -> Result<Published, HomeError> {
    let mut table = toml::Table::new();
    let mut put = |key: &str, at: Option<String>| at.map(|at| table.insert(key.to_owned(), at.into()));
    put("tcp", addresses.tcp.map(|at| at.to_string()));
    put("unix", addresses.unix.as_ref().map(|path| path.display().to_string()));
    put("http", addresses.http.map(|at| at.to_string()));
    put("local", addresses.local.as_ref().map(|path| path.display().to_string()));
    table.insert("pid".to_owned(), i64::from(std::process::id()).into());
    write_whole(directory, NAME, table.to_string().as_bytes(), 0o644)?;
    Ok(Published(directory.join(NAME)))
}
