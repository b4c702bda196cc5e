//! A folder driven by blocking calls, on the thread that owns it: where io_uring is refused, and for `kvtier fsck`.

use std::fs::{File, OpenOptions};
use std::future::ready;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kvtier_device::{Folder, LocalBoxFuture, LogFile};

/// A folder of the file system. Its futures are done when they are made: the thread waits in the call.
#[derive(Debug, Clone)]
pub struct BlockingFolder {
    path: PathBuf,
}

impl BlockingFolder {
    /// The folder must exist.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    fn options(&self, name: &str, create: bool) -> io::Result<Box<dyn LogFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(create).open(self.path.join(name))?;
        Ok(Box::new(BlockingFile { file }))
    }
}

fn now<T: 'static>(answer: io::Result<T>) -> LocalBoxFuture<io::Result<T>> {
    Box::pin(ready(answer))
}

/// Names and sizes of the regular files in a folder.
pub(crate) fn list_files(path: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
        }
    }
    Ok(files)
}

impl Folder for BlockingFolder {
    fn list(&self) -> LocalBoxFuture<io::Result<Vec<(String, u64)>>> {
        now(list_files(&self.path))
    }

    fn create(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        now(self.options(name, true))
    }

    fn open(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        now(self.options(name, false))
    }

    fn remove(&self, name: &str) -> LocalBoxFuture<io::Result<()>> {
        now(std::fs::remove_file(self.path.join(name)))
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        now(File::open(&self.path).and_then(|folder| folder.sync_all()))
    }
}

#[derive(Debug)]
struct BlockingFile {
    file: File,
}

impl BlockingFile {
    fn read_full(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            match self.file.read_at(&mut out[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.truncate(filled);
        Ok(out)
    }
}

impl LogFile for BlockingFile {
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> LocalBoxFuture<io::Result<()>> {
        now(self.file.write_all_at(&bytes, offset))
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>> {
        now(self.read_full(offset, bytes))
    }

    fn truncate(&self, bytes: u64) -> LocalBoxFuture<io::Result<()>> {
        now(self.file.set_len(bytes))
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        now(self.file.sync_data())
    }
}
