//! A folder of the file system, with calls that block: for tools and tests.
//!
//! Every future is ready when it is returned. The daemon's log uses its own adapter, which does not block.

use std::fs::{File, OpenOptions};
use std::future::ready;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::port::{Folder, LocalBoxFuture, LogFile};

/// A folder of the file system. Only its plain files are seen; other things in it are left alone.
#[derive(Debug, Clone)]
pub struct StdFolder {
    path: PathBuf,
}

struct StdLogFile {
    file: Rc<File>,
}

impl StdFolder {
    /// Opens the folder, and creates it (0700) if it is missing.
    pub fn open_or_create(path: impl Into<PathBuf>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = path.into();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// Opens an existing folder.
    pub fn open_existing(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if std::fs::metadata(&path)?.is_dir() {
            Ok(Self { path })
        } else {
            Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no folder", path.display())))
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name).map(|()| self.path.join(name))
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            // A name that is no text was not given by us.
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn open_with(&self, name: &str, create: bool) -> io::Result<Box<dyn LogFile>> {
        let path = self.place(name)?;
        let file = OpenOptions::new().read(true).write(true).create_new(create).mode(0o600).open(path)?;
        Ok(Box::new(StdLogFile { file: Rc::new(file) }))
    }
}

/// Refuses what is no plain file name: adapters must agree on this.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let plain = !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0']);
    if plain { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no file name"))) }
}

impl Folder for StdFolder {
    fn list(&self) -> LocalBoxFuture<io::Result<Vec<(String, u64)>>> {
        Box::pin(ready(self.files()))
    }

    fn create(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        Box::pin(ready(self.open_with(name, true)))
    }

    fn open(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        Box::pin(ready(self.open_with(name, false)))
    }

    fn remove(&self, name: &str) -> LocalBoxFuture<io::Result<()>> {
        Box::pin(ready(self.place(name).and_then(std::fs::remove_file)))
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        Box::pin(ready(File::open(&self.path).and_then(|folder| folder.sync_all())))
    }
}

impl LogFile for StdLogFile {
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> LocalBoxFuture<io::Result<()>> {
        Box::pin(ready(self.file.write_all_at(&bytes, offset)))
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>> {
        Box::pin(ready(read_up_to(&self.file, offset, bytes)))
    }

    fn truncate(&self, bytes: u64) -> LocalBoxFuture<io::Result<()>> {
        Box::pin(ready(self.file.set_len(bytes)))
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        // Syncs the size too, for it is needed to read the content back.
        Box::pin(ready(self.file.sync_data()))
    }
}

fn read_up_to(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    // Not more memory than the file has bytes, whatever was asked for.
    let length = file.metadata()?.len();
    let there = length.saturating_sub(offset).min(bytes as u64) as usize;
    let mut content = vec![0; there];
    let mut done = 0;
    while done < there {
        match file.read_at(&mut content[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(done);
    Ok(content)
}

#[cfg(test)]
mod tests;
