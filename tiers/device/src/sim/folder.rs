//! The [`Folder`] of a simulated machine.

use std::io;

use futures::channel::oneshot;

use super::directory::Directory;
use super::world::{Delivery, SimWorld, Work, World};
use crate::port::{Folder, LocalBoxFuture, LogFile};
use crate::std_folder::check_name;

/// A handle of a simulated folder. Its operations move only when the world steps.
#[derive(Clone)]
pub struct SimFolder {
    world: SimWorld,
    index: usize,
}

struct SimLogFile {
    folder: SimFolder,
    number: usize,
}

/// An operation on a folder or one of its files.
pub(crate) struct FolderWork {
    folder: usize,
    change: Change,
}

type Answer<T> = oneshot::Sender<io::Result<T>>;

enum Change {
    List(Answer<Vec<(String, u64)>>),
    Create(String, Answer<usize>),
    Open(String, Answer<usize>),
    Remove(String, Answer<()>),
    Sync(u64, Answer<()>),
    Write { file: usize, offset: u64, bytes: Vec<u8>, answer: Answer<()> },
    Read { file: usize, offset: u64, bytes: usize, answer: Answer<Vec<u8>> },
    Truncate { file: usize, bytes: u64, answer: Answer<()> },
    SyncFile { file: usize, covers: u64, answer: Answer<()> },
}

impl SimFolder {
    pub(crate) fn new(world: SimWorld, index: usize) -> Self {
        Self { world, index }
    }

    /// Queues what `change` makes of the answer's sender, and waits for the answer.
    fn call<T: 'static>(
        &self,
        change: impl FnOnce(&mut Directory, Answer<T>) -> Change,
    ) -> LocalBoxFuture<io::Result<T>> {
        let (answer, heard) = oneshot::channel();
        let mut world = self.world.lock();
        let change = change(&mut world.folders[self.index].1, answer);
        if !world.is_dead {
            world.call(Work::Folder(FolderWork { folder: self.index, change }));
        }
        Box::pin(async move { heard.await.unwrap_or_else(|_| Err(io::Error::other("the simulated machine is down"))) })
    }

    fn file(&self, change: impl FnOnce(Answer<usize>) -> Change) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        let number = self.call(|_, answer| change(answer));
        let folder = self.clone();
        Box::pin(async move {
            let number = number.await?;
            Ok(Box::new(SimLogFile { folder, number }) as Box<dyn LogFile>)
        })
    }
}

impl Folder for SimFolder {
    fn list(&self) -> LocalBoxFuture<io::Result<Vec<(String, u64)>>> {
        self.call(|_, answer| Change::List(answer))
    }

    fn create(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        let name = name.to_owned();
        self.file(move |answer| Change::Create(name, answer))
    }

    fn open(&self, name: &str) -> LocalBoxFuture<io::Result<Box<dyn LogFile>>> {
        let name = name.to_owned();
        self.file(move |answer| Change::Open(name, answer))
    }

    fn remove(&self, name: &str) -> LocalBoxFuture<io::Result<()>> {
        let name = name.to_owned();
        self.call(move |_, answer| Change::Remove(name, answer))
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        self.call(|directory, answer| Change::Sync(directory.change_number(), answer))
    }
}

impl LogFile for SimLogFile {
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> LocalBoxFuture<io::Result<()>> {
        let file = self.number;
        self.folder.call(move |_, answer| Change::Write { file, offset, bytes, answer })
    }

    fn read_at(&self, offset: u64, bytes: usize) -> LocalBoxFuture<io::Result<Vec<u8>>> {
        let file = self.number;
        self.folder.call(move |_, answer| Change::Read { file, offset, bytes, answer })
    }

    fn truncate(&self, bytes: u64) -> LocalBoxFuture<io::Result<()>> {
        let file = self.number;
        self.folder.call(move |_, answer| Change::Truncate { file, bytes, answer })
    }

    fn sync(&self) -> LocalBoxFuture<io::Result<()>> {
        let file = self.number;
        let change = move |directory: &mut Directory, answer| {
            let covers = directory.file(file).image.write_number();
            Change::SyncFile { file, covers, answer }
        };
        self.folder.call(change)
    }
}

impl FolderWork {
    /// For the history.
    pub(crate) fn describe(&self) -> String {
        let what = match &self.change {
            Change::List(_) => "list".to_owned(),
            Change::Create(name, _) => format!("create {name}"),
            Change::Open(name, _) => format!("open {name}"),
            Change::Remove(name, _) => format!("remove {name}"),
            Change::Sync(covers, _) => format!("sync up to change {covers}"),
            Change::Write { file, offset, bytes, .. } => {
                format!("file {file} write {} at {offset}, crc {:08x}", bytes.len(), crc32fast::hash(bytes))
            }
            Change::Read { file, offset, bytes, .. } => format!("file {file} read {bytes} at {offset}"),
            Change::Truncate { file, bytes, .. } => format!("file {file} truncate to {bytes}"),
            Change::SyncFile { file, covers, .. } => format!("file {file} sync up to write {covers}"),
        };
        format!("folder {} {what}", self.folder)
    }

    /// Carries it out.
    pub(crate) fn perform(self, world: &mut World) -> (String, Delivery) {
        let folder = self.folder;
        let directory = &mut world.folders[folder].1;
        match self.change {
            Change::List(answer) => deliver(Ok(directory.list()), answer),
            Change::Create(name, answer) => {
                let created = check_name(&name).and_then(|()| directory.create(&name));
                deliver(created, answer)
            }
            Change::Open(name, answer) => {
                let found = check_name(&name).and_then(|()| directory.find(&name));
                deliver(found, answer)
            }
            Change::Remove(name, answer) => {
                let removed = check_name(&name).and_then(|()| directory.remove(&name));
                deliver(removed, answer)
            }
            Change::Sync(covers, answer) => deliver(sync(world, folder, None, covers), answer),
            Change::Write { file, offset, bytes, answer } => {
                deliver(write(world, folder, file, offset, &bytes), answer)
            }
            Change::Read { file, offset, bytes, answer } => deliver(read(world, folder, file, offset, bytes), answer),
            Change::Truncate { file, bytes, answer } => deliver(truncate(world, folder, file, bytes), answer),
            Change::SyncFile { file, covers, answer } => deliver(sync(world, folder, Some(file), covers), answer),
        }
    }

    /// What it may leave on the media if the power is cut before its step.
    pub(crate) fn leave_traces<'a>(&self, directory_of: impl FnOnce(usize) -> &'a mut Directory) {
        let directory = directory_of(self.folder);
        match &self.change {
            // A name that is taken, or gone, leaves none.
            Change::Create(name, _) => drop(directory.create(name)),
            Change::Remove(name, _) => drop(directory.remove(name)),
            Change::Write { file, offset, bytes, .. } => directory.file(*file).write(*offset, bytes),
            Change::Truncate { file, bytes, .. } => directory.file(*file).truncate(*bytes),
            Change::List(_) | Change::Open(..) | Change::Sync(..) => {}
            Change::Read { .. } | Change::SyncFile { .. } => {}
        }
    }
}

fn read(world: &mut World, folder: usize, file: usize, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let World { dice, faults, folders, .. } = world;
    let file = folders[folder].1.file(file);
    if dice.one_in(faults.read_error_one_in) {
        return Err(failure("read"));
    }
    let there = file.read(offset, bytes).len() as u64;
    if there > 0 && dice.one_in(faults.rot_one_in) {
        file.image.rot(offset, there, dice);
    }
    Ok(file.read(offset, bytes))
}

fn write(world: &mut World, folder: usize, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let World { dice, faults, folders, .. } = world;
    let directory = &mut folders[folder].1;
    let used = directory.bytes();
    let file = directory.file(file);
    let growth = (offset + bytes.len() as u64).saturating_sub(file.bytes());
    let room = faults.folder_bytes_max.map_or(u64::MAX, |max| max.saturating_sub(used));
    if growth > room {
        let fitting = (bytes.len() as u64).saturating_sub(growth - room) as usize;
        file.write(offset, &bytes[..fitting]);
        return Err(io::Error::new(io::ErrorKind::StorageFull, "simulated ENOSPC"));
    }
    if dice.one_in(faults.write_error_one_in) {
        let done = dice.below(bytes.len() as u64 + 1) as usize;
        file.write(offset, &bytes[..done]);
        return Err(failure("write"));
    }
    file.write(offset, bytes);
    Ok(())
}

fn truncate(world: &mut World, folder: usize, file: usize, bytes: u64) -> io::Result<()> {
    let World { dice, faults, folders, .. } = world;
    if dice.one_in(faults.write_error_one_in) {
        return Err(failure("truncate"));
    }
    folders[folder].1.file(file).truncate(bytes);
    Ok(())
}

/// Syncs a file, or the folder itself.
fn sync(world: &mut World, folder: usize, file: Option<usize>, covers: u64) -> io::Result<()> {
    world.count_sync();
    world.sync_point();
    let World { dice, faults, folders, .. } = &mut *world;
    let directory = &mut folders[folder].1;
    if dice.one_in(faults.sync_error_one_in) {
        match file {
            Some(file) => directory.file(file).fail_sync(dice, faults.tearing),
            None => directory.fail_sync(dice),
        }
        return Err(failure("sync"));
    }
    if !dice.one_in(faults.lost_sync_one_in) {
        match file {
            Some(file) => directory.file(file).sync(covers, dice),
            None => directory.sync(covers, dice),
        }
    }
    world.sync_point();
    Ok(())
}

fn failure(what: &str) -> io::Error {
    io::Error::other(format!("simulated EIO on {what}"))
}

fn deliver<T: Send + std::fmt::Debug + 'static>(result: io::Result<T>, answer: Answer<T>) -> (String, Delivery) {
    let outcome = match &result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    };
    // Nobody listens if the future was dropped.
    (outcome, Box::new(move || drop(answer.send(result))))
}
