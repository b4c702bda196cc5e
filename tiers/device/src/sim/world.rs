//! The simulated machine.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::dice::Dice;
use super::directory::Directory;
use super::disk::{DiskState, DiskWork, SimDisk};
use super::faults::Faults;
use super::folder::{FolderWork, SimFolder};
use super::history::{Fingerprint, History};
use super::image::Image;

/// Sector size of folders: what a disk writes atomically at the least.
const FOLDER_SECTOR_BYTES: usize = 512;

/// A simulated machine. Clones are handles of the same one.
#[derive(Clone)]
pub struct SimWorld {
    shared: Arc<Mutex<World>>,
}

/// The media of a machine at one moment: what a power cut then would find.
#[derive(Clone)]
pub struct SimImage {
    disks: Vec<(String, u64, Image)>,
    folders: Vec<(String, Directory)>,
    faults: Faults,
    sync_count: u64,
}

/// Everything of a machine.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) faults: Faults,
    pub(crate) disks: Vec<DiskState>,
    pub(crate) folders: Vec<(String, Directory)>,
    pub(crate) history: History,
    /// The power was cut.
    pub(crate) is_dead: bool,
    under_way: Vec<UnderWay>,
    operation_count: u64,
    sync_count: u64,
    images_max: usize,
    images: Vec<SimImage>,
}

/// An operation that has been called and not yet completed.
struct UnderWay {
    number: u64,
    stalled_steps: u64,
    work: Work,
}

/// What an operation does when its step comes.
pub(crate) enum Work {
    Disk(DiskWork),
    Folder(FolderWork),
}

/// What remains to be done of a step once the world is unlocked: letting go of memory, waking futures.
pub(crate) type Delivery = Box<dyn FnOnce() + Send>;

impl SimWorld {
    /// A machine without devices.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let world = World {
            dice: Dice::new(seed),
            faults,
            disks: Vec::new(),
            folders: Vec::new(),
            history: History::new(),
            is_dead: false,
            under_way: Vec::new(),
            operation_count: 0,
            sync_count: 0,
            images_max: 0,
            images: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(world)) }
    }

    /// Adds a zeroed disk. Sectors of `sector_bytes`, 512 or 4096, are written whole or not at all. Panics if there is
    /// one of that name, or a size is no multiple.
    pub fn add_disk(&self, name: &str, bytes: u64, sector_bytes: usize) {
        let mut world = self.lock();
        let sizes_fit = sector_bytes > 0 && bytes.is_multiple_of(4096) && 4096_usize.is_multiple_of(sector_bytes);
        assert!(sizes_fit, "a disk of {bytes} bytes in sectors of {sector_bytes}");
        assert!(world.disks.iter().all(|disk| disk.name != name), "there is a disk {name}");
        let image = Image::new(sector_bytes);
        world.disks.push(DiskState::new(name.to_owned(), bytes, image));
    }

    /// A handle of a disk. Panics if there is none of that name.
    pub fn disk(&self, name: &str) -> SimDisk {
        let index = self.lock().disk_index(name);
        SimDisk::new(self.clone(), index)
    }

    /// A handle of a folder, which is created, durably, if there is none of that name.
    pub fn folder(&self, name: &str) -> SimFolder {
        let mut world = self.lock();
        let found = world.folders.iter().position(|(known, _)| known == name);
        let index = found.unwrap_or_else(|| {
            world.folders.push((name.to_owned(), Directory::new(FOLDER_SECTOR_BYTES)));
            world.folders.len() - 1
        });
        SimFolder::new(self.clone(), index)
    }

    /// Completes one operation under way, chosen by the seed, or lets all that stall come one step nearer. False if
    /// nothing is under way.
    pub fn step(&self) -> bool {
        let delivery = self.lock().step();
        match delivery {
            None => false,
            Some(deliver) => {
                // Outside the lock: this runs wakers and drops memory.
                deliver();
                true
            }
        }
    }

    /// Polls `future`, and steps whenever it waits, until it is ready. Panics if it waits and nothing is under way.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            assert!(self.step(), "the future waits, but nothing is under way:\n{}", self.recent_events().join("\n"));
        }
    }

    /// Operations under way.
    pub fn under_way_count(&self) -> usize {
        self.lock().under_way.len()
    }

    /// Changes the fault plan from here on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Fingerprint of everything that has happened (INV-9).
    pub fn fingerprint(&self) -> Fingerprint {
        self.lock().history.fingerprint()
    }

    /// The newest events, oldest first, for people.
    pub fn recent_events(&self) -> Vec<String> {
        self.lock().history.recent()
    }

    /// Syncs that have come to their step so far, failed and lost ones included.
    pub fn sync_count(&self) -> u64 {
        self.lock().sync_count
    }

    /// Keeps the media as they are just before and just after each sync from here on, up to `images_max` of them.
    pub fn record_images(&self, images_max: usize) {
        self.lock().images_max = images_max;
    }

    /// Takes the recorded images, oldest first.
    pub fn take_images(&self) -> Vec<SimImage> {
        std::mem::take(&mut self.lock().images)
    }

    /// The media as they are now, with the operations under way as not yet synced.
    pub fn image(&self) -> SimImage {
        self.lock().image()
    }

    /// Cuts the power. What is under way and whatever is called from here on is answered `Closed`; the machine that
    /// comes up again is returned, with the same fault plan.
    pub fn crash(&self, seed: u64) -> Self {
        let image = self.image();
        let mut world = self.lock();
        world.is_dead = true;
        let lost = std::mem::take(&mut world.under_way);
        drop(world);
        drop(lost);
        image.restart(seed)
    }

    /// What is stored on a disk, as a read without faults would see it.
    pub fn peek(&self, disk: &str, offset: u64, bytes: usize) -> Vec<u8> {
        let world = self.lock();
        world.disks[world.disk_index(disk)].image.read(offset, bytes)
    }

    /// Changes what is stored on a disk, durably and behind everybody's back.
    pub fn poke(&self, disk: &str, offset: u64, bytes: &[u8]) {
        let mut world = self.lock();
        let index = world.disk_index(disk);
        world.disks[index].image.poke(offset, bytes);
    }

    /// Content of a folder's file, if there is one of that name.
    pub fn peek_file(&self, folder: &str, name: &str) -> Option<Vec<u8>> {
        let mut world = self.lock();
        let directory = world.folders.iter_mut().find(|(known, _)| known == folder).map(|(_, directory)| directory)?;
        let number = directory.find(name).ok()?;
        let file = directory.file(number);
        let bytes = file.bytes() as usize;
        Some(file.read(0, bytes))
    }

    /// Changes bytes of a folder's file, durably and behind everybody's back. Panics if there is no such file.
    pub fn poke_file(&self, folder: &str, name: &str, offset: u64, bytes: &[u8]) {
        let mut world = self.lock();
        let found = world.folders.iter_mut().find(|(known, _)| known == folder);
        let directory = &mut found.expect("no folder of that name").1;
        let number = directory.find(name).expect("no file of that name");
        directory.file(number).image.poke(offset, bytes);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimImage {
    /// Syncs that had come to their step.
    pub fn sync_count(&self) -> u64 {
        self.sync_count
    }

    /// The machine that comes up after a power cut at this moment. What was not synced is lost, kept or torn by `seed`.
    pub fn restart(&self, seed: u64) -> SimWorld {
        let world = SimWorld::new(seed, self.faults.clone());
        let mut state = world.lock();
        let World { dice, disks, folders, .. } = &mut *state;
        let tearing = self.faults.tearing;
        for (name, bytes, image) in &self.disks {
            disks.push(DiskState::new(name.clone(), *bytes, image.crash(dice, tearing)));
        }
        for (name, directory) in &self.folders {
            folders.push((name.clone(), directory.crash(dice, tearing)));
        }
        drop(state);
        world
    }
}

impl World {
    /// Queues an operation. It may stall, if the plan says so.
    pub(crate) fn call(&mut self, work: Work) {
        let stalls = self.dice.one_in(self.faults.stall_one_in);
        let stalled_steps = if stalls { 1 + self.dice.below(u64::from(self.faults.stall_steps_max) + 1) } else { 0 };
        self.operation_count += 1;
        let number = self.operation_count;
        self.history.add(format!("call {number} stall {stalled_steps}: {}", work.describe()));
        self.under_way.push(UnderWay { number, stalled_steps, work });
    }

    /// A sync is about to take effect, or just did.
    pub(crate) fn sync_point(&mut self) {
        if self.images.len() < self.images_max {
            let image = self.image();
            self.images.push(image);
        }
    }

    /// A sync comes to its step.
    pub(crate) fn count_sync(&mut self) {
        self.sync_count += 1;
    }

    fn step(&mut self) -> Option<Delivery> {
        if self.under_way.is_empty() {
            return None;
        }
        let ready: Vec<usize> =
            (0..self.under_way.len()).filter(|index| self.under_way[*index].stalled_steps == 0).collect();
        for operation in &mut self.under_way {
            operation.stalled_steps = operation.stalled_steps.saturating_sub(1);
        }
        if ready.is_empty() {
            return Some(Box::new(|| {}));
        }
        let chosen = ready[self.dice.below(ready.len() as u64) as usize];
        let UnderWay { number, work, .. } = self.under_way.remove(chosen);
        let (outcome, delivery) = match work {
            Work::Disk(work) => work.perform(self),
            Work::Folder(work) => work.perform(self),
        };
        self.history.add(format!("done {number}: {outcome}"));
        Some(delivery)
    }

    fn image(&self) -> SimImage {
        let mut image = SimImage {
            disks: self.disks.iter().map(|disk| (disk.name.clone(), disk.bytes, disk.image.clone())).collect(),
            folders: self.folders.clone(),
            faults: self.faults.clone(),
            sync_count: self.sync_count,
        };
        for operation in &self.under_way {
            match &operation.work {
                Work::Disk(work) => work.leave_traces(|disk| &mut image.disks[disk].2),
                Work::Folder(work) => work.leave_traces(|folder| &mut image.folders[folder].1),
            }
        }
        image
    }

    fn disk_index(&self, name: &str) -> usize {
        let found = self.disks.iter().position(|disk| disk.name == name);
        found.unwrap_or_else(|| panic!("there is no disk {name}"))
    }
}

impl Work {
    fn describe(&self) -> String {
        match self {
            Self::Disk(work) => work.describe(),
            Self::Folder(work) => work.describe(),
        }
    }
}
