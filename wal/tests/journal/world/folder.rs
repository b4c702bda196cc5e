//! A folder in memory that forgets what was not synced when it crashes, and fails when told to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use kvtier_device::{Folder, LocalBoxFuture, LogFile};

/// The disk writes unsynced bytes in pieces of this size, any subset of them.
const PIECE_BYTES: usize = 64;

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Debug, Default)]
struct Disk {
    names: RefCell<BTreeMap<String, Rc<RefCell<Content>>>>,
    synced_names: RefCell<BTreeMap<String, Rc<RefCell<Content>>>>,
    faults: Faults,
    sync_count: Cell<u64>,
    write_count: Cell<u64>,
}

/// What is to go wrong, and how.
#[derive(Debug, Default)]
pub struct Faults {
    /// Bytes the disk holds in all; ENOSPC beyond, after as much as fits.
    pub space_bytes: Cell<Option<u64>>,
    /// The next syncs of files fail.
    pub failing_syncs: Cell<u32>,
    /// The next writes fail with EIO.
    pub failing_writes: Cell<u32>,
    /// The next creations fail with ENOSPC.
    pub failing_creates: Cell<u32>,
    /// The next removals fail.
    pub failing_removals: Cell<u32>,
    /// Syncs of files wait until this is false.
    pub hold_syncs: Cell<bool>,
    /// Every operation waits for another poll first.
    pub yields: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// A handle to the folder; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemFolder {
    disk: Rc<Disk>,
}

/// Picks numbers below a bound.
pub type Dice<'d> = &'d mut dyn FnMut(u32) -> u32;

impl MemFolder {
    pub fn faults(&self) -> &Faults {
        &self.disk.faults
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.disk.faults.hold_syncs.set(false);
        self.disk.faults.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Syncs of files so far.
    pub fn sync_count(&self) -> u64 {
        self.disk.sync_count.get()
    }

    /// Writes so far.
    pub fn write_count(&self) -> u64 {
        self.disk.write_count.get()
    }

    pub fn names(&self) -> Vec<String> {
        self.disk.names.borrow().keys().cloned().collect()
    }

    pub fn bytes_of(&self, name: &str) -> Vec<u8> {
        self.disk.names.borrow()[name].borrow().now.clone()
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let content = Content { now: bytes.clone(), synced: bytes, unsynced: vec![] };
        let content = Rc::new(RefCell::new(content));
        self.disk.names.borrow_mut().insert(name.into(), Rc::clone(&content));
        self.disk.synced_names.borrow_mut().insert(name.into(), content);
    }

    /// Changes a file's bytes under whoever has it open.
    pub fn rot(&self, name: &str, bytes: Vec<u8>) {
        self.disk.names.borrow()[name].borrow_mut().now = bytes;
    }

    pub fn delete(&self, name: &str) {
        self.disk.names.borrow_mut().remove(name);
        self.disk.synced_names.borrow_mut().remove(name);
    }

    /// A copy with the same files, all durable.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        self.names().iter().for_each(|name| copy.put(name, self.bytes_of(name)));
        copy
    }

    /// What a power cut leaves: of every file and of the folder what was synced, and of the rest any part.
    pub fn crash(&self, dice: Dice<'_>) -> Self {
        let after = Self::default();
        let (now, synced) = (self.disk.names.borrow(), self.disk.synced_names.borrow());
        let mut names: Vec<_> = now.keys().chain(synced.keys()).cloned().collect();
        names.sort();
        names.dedup();
        for name in names {
            // A name that differs between memory and disk may be either way.
            let content = match (now.get(&name), synced.get(&name)) {
                (Some(here), Some(_)) => Some(here),
                (here, there) => [here, there][dice(2) as usize],
            };
            if let Some(content) = content {
                after.put(&name, torn(&content.borrow(), dice));
            }
        }
        after
    }

    /// What killing the process leaves: everything written.
    pub fn kill(&self) -> Self {
        self.copy()
    }

    fn used(&self) -> u64 {
        self.disk.names.borrow().values().map(|content| content.borrow().now.len() as u64).sum()
    }
}

/// The synced bytes, and any subset of pieces of what came after.
fn torn(content: &Content, dice: Dice<'_>) -> Vec<u8> {
    let mut bytes = content.synced.clone();
    let fate = dice(4);
    for change in &content.unsynced {
        match change {
            Change::Truncate(length) if dice(2) == 0 => bytes.resize(*length as usize, 0),
            Change::Truncate(_) => {}
            Change::Write(offset, written) => {
                for (index, piece) in written.chunks(PIECE_BYTES).enumerate() {
                    let kept = match fate {
                        0 => false,
                        1 => true,
                        2 => dice(8) > 0,
                        _ => dice(2) > 0,
                    };
                    if kept {
                        write(&mut bytes, *offset as usize + index * PIECE_BYTES, piece);
                    }
                }
            }
        }
    }
    bytes
}

fn write(bytes: &mut Vec<u8>, offset: usize, piece: &[u8]) {
    let end = offset + piece.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(piece);
}

/// Counts down; whether the fault strikes.
fn strike(count: &Cell<u32>) -> bool {
    let left = count.get();
    count.set(left.saturating_sub(1));
    left > 0
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Disk {
    async fn turn(&self) {
        let mut left = u32::from(self.faults.yields.get());
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Folder for MemFolder {
    fn list(&self) -> LocalBoxFuture<io::Result<Vec<(String, u64)>>> {
        let disk = Rc::clone(&self.disk);
        Box::pin(async move {
            disk.turn().await;
            let names = disk.names.borrow();
            Ok(names.iter().map(|(name, content)| (name.clone(), content.borrow().now.len() as u64)).collect())
        })
    }

    fn create(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        let (folder, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            folder.disk.turn().await;
            if strike(&folder.disk.faults.failing_creates) {
                return Err(full());
            }
            if folder.disk.names.borrow().contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let content = Rc::new(RefCell::new(Content::default()));
            folder.disk.names.borrow_mut().insert(name, Rc::clone(&content));
            Ok(Box::new(MemFile { folder, content }) as Box<dyn LogFile>)
        })
    }

    fn open(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        let (folder, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            folder.disk.turn().await;
            let content = folder.disk.names.borrow().get(&name).cloned();
            let content = content.ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(MemFile { folder, content }) as Box<dyn LogFile>)
        })
    }

    fn remove(&self, name: &str) -> LocalBoxFuture<io::Result<()>> {
        let (disk, name) = (Rc::clone(&self.disk), name.to_owned());
        Box::pin(async move {
            disk.turn().await;
            if strike(&disk.faults.failing_removals) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            disk.names.borrow_mut().remove(&name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        let disk = Rc::clone(&self.disk);
        Box::pin(async move {
            disk.turn().await;
            let names = disk.names.borrow().clone();
            *disk.synced_names.borrow_mut() = names;
            Ok(())
        })
    }
}

struct MemFile {
    folder: MemFolder,
    content: Rc<RefCell<Content>>,
}

impl LogFile for MemFile {
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> LocalBoxFuture<io::Result<()>> {
        let (folder, content) = (self.folder.clone(), Rc::clone(&self.content));
        Box::pin(async move {
            folder.disk.turn().await;
            folder.disk.write_count.set(folder.disk.write_count.get() + 1);
            if strike(&folder.disk.faults.failing_writes) {
                return Err(broken());
            }
            let grows = (offset + bytes.len() as u64).saturating_sub(content.borrow().now.len() as u64);
            let room = folder.disk.faults.space_bytes.get().map_or(u64::MAX, |all| all.saturating_sub(folder.used()));
            let short = grows.saturating_sub(room).min(bytes.len() as u64) as usize;
            let fits = bytes[..bytes.len() - short].to_vec();
            let mut content = content.borrow_mut();
            write(&mut content.now, offset as usize, &fits);
            content.unsynced.push(Change::Write(offset, fits));
            if short > 0 { Err(full()) } else { Ok(()) }
        })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>> {
        let (folder, content) = (self.folder.clone(), Rc::clone(&self.content));
        Box::pin(async move {
            folder.disk.turn().await;
            let content = content.borrow();
            let from = (offset as usize).min(content.now.len());
            let to = (from + bytes).min(content.now.len());
            Ok(content.now[from..to].to_vec())
        })
    }

    fn truncate(&self, bytes: u64) -> LocalBoxFuture<io::Result<()>> {
        let (folder, content) = (self.folder.clone(), Rc::clone(&self.content));
        Box::pin(async move {
            folder.disk.turn().await;
            let mut content = content.borrow_mut();
            content.now.resize(bytes as usize, 0);
            content.unsynced.push(Change::Truncate(bytes));
            Ok(())
        })
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        let (folder, content) = (self.folder.clone(), Rc::clone(&self.content));
        Box::pin(async move {
            folder.disk.turn().await;
            let faults = &folder.disk.faults;
            poll_fn(|context| {
                if !faults.hold_syncs.get() {
                    return Poll::Ready(());
                }
                faults.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            })
            .await;
            folder.disk.sync_count.set(folder.disk.sync_count.get() + 1);
            if strike(&faults.failing_syncs) {
                return Err(broken());
            }
            let mut content = content.borrow_mut();
            content.synced = content.now.clone();
            content.unsynced.clear();
            Ok(())
        })
    }
}
