//! A folder on io_uring: writes, reads and syncs do not block the thread, so reads go on while a group is synced.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kvtier_device::{Folder, LocalBoxFuture, LogFile};
use tokio_uring::fs::{File, OpenOptions};

use super::blocking::list_files;

/// A folder of the file system. Its futures must be driven by a `tokio_uring` runtime. Buffers are owned by the kernel
/// until an operation is done, also when its future is dropped (INV-8).
#[derive(Debug, Clone)]
pub struct UringFolder {
    path: Rc<PathBuf>,
}

impl UringFolder {
    /// The folder must exist.
    pub fn new(path: &Path) -> Self {
        Self { path: Rc::new(path.to_path_buf()) }
    }

    fn open_with(&self, name: &str, create: bool) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        let path = self.path.join(name);
        Box::pin(async move {
            let file = OpenOptions::new().read(true).write(true).create_new(create).open(&path).await?;
            Ok(Box::new(UringFile { file: Rc::new(file), path }) as Box<dyn LogFile>)
        })
    }
}

impl Folder for UringFolder {
    fn list(&self) -> LocalBoxFuture<io::Result<Vec<(String, u64)>>> {
        let path = Rc::clone(&self.path);
        // There is no ring operation for this; it happens once, when the log is opened.
        Box::pin(async move { list_files(&path) })
    }

    fn create(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        self.open_with(name, true)
    }

    fn open(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        self.open_with(name, false)
    }

    fn remove(&self, name: &str) -> LocalBoxFuture<io::Result<()>> {
        let path = self.path.join(name);
        Box::pin(async move { tokio_uring::fs::remove_file(path).await })
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        let path = Rc::clone(&self.path);
        Box::pin(async move {
            let folder = File::open(path.as_path()).await?;
            let synced = folder.sync_all().await;
            folder.close().await?;
            synced
        })
    }
}

#[derive(Debug)]
struct UringFile {
    file: Rc<File>,
    path: PathBuf,
}

impl LogFile for UringFile {
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> LocalBoxFuture<io::Result<()>> {
        let file = Rc::clone(&self.file);
        Box::pin(async move { file.write_all_at(bytes, offset).await.0 })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>> {
        let file = Rc::clone(&self.file);
        Box::pin(async move {
            let mut out = Vec::with_capacity(bytes);
            while out.len() < bytes {
                let part = Vec::with_capacity(bytes - out.len());
                let (read, mut part) = file.read_at(part, offset + out.len() as u64).await;
                match read? {
                    0 => break,
                    _ if out.is_empty() => out = part,
                    _ => out.append(&mut part),
                }
            }
            Ok(out)
        })
    }

    fn truncate(&self, bytes: u64) -> LocalBoxFuture<io::Result<()>> {
        // There is no ring operation for this; it happens after a crash and after a full disk.
        let cut = std::fs::OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(bytes));
        Box::pin(async move { cut })
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        let file = Rc::clone(&self.file);
        Box::pin(async move { file.sync_data().await })
    }
}
