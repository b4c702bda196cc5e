//! A simulated folder: names, files, and what of both a power cut leaves.
//!
//! Names become durable by syncing the folder, contents and sizes by syncing the file; neither does the other's work.
//! A removed file lives on for those who have it open.

use std::collections::BTreeMap;
use std::io;

use super::dice::Dice;
use super::faults::Tearing;
use super::image::Image;

/// A folder and all files it ever had, by number.
#[derive(Clone)]
pub(crate) struct Directory {
    sector_bytes: usize,
    durable: BTreeMap<String, usize>,
    current: BTreeMap<String, usize>,
    unsynced: Vec<(u64, Renaming)>,
    change_number: u64,
    files: Vec<SimFile>,
}

#[derive(Clone)]
enum Renaming {
    Link(String, usize),
    Unlink(String),
}

/// Content and size of one file.
#[derive(Clone)]
pub(crate) struct SimFile {
    pub(crate) image: Image,
    durable_bytes: u64,
    bytes: u64,
    /// Sizes it has had since its last sync, by the number of the write that set them.
    unsynced_sizes: Vec<(u64, u64)>,
}

impl Directory {
    /// No files.
    pub(crate) fn new(sector_bytes: usize) -> Self {
        let (durable, current) = Default::default();
        Self { sector_bytes, durable, current, unsynced: Vec::new(), change_number: 0, files: Vec::new() }
    }

    /// Names and sizes.
    pub(crate) fn list(&self) -> Vec<(String, u64)> {
        self.current.iter().map(|(name, file)| (name.clone(), self.files[*file].bytes)).collect()
    }

    /// Bytes of all files that have a name.
    pub(crate) fn bytes(&self) -> u64 {
        self.current.values().map(|file| self.files[*file].bytes).sum()
    }

    /// Makes an empty file.
    pub(crate) fn create(&mut self, name: &str) -> io::Result<usize> {
        if self.current.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} exists")));
        }
        let file = self.files.len();
        self.files.push(SimFile::new(self.sector_bytes));
        self.current.insert(name.to_owned(), file);
        self.note(Renaming::Link(name.to_owned(), file));
        Ok(file)
    }

    /// Finds a file.
    pub(crate) fn find(&self, name: &str) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{name} does not exist"));
        self.current.get(name).copied().ok_or_else(missing)
    }

    /// Takes a name away.
    pub(crate) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.current.remove(name);
        self.note(Renaming::Unlink(name.to_owned()));
        Ok(())
    }

    /// A file by number.
    pub(crate) fn file(&mut self, number: usize) -> &mut SimFile {
        &mut self.files[number]
    }

    /// Number of the newest creation or removal.
    pub(crate) fn change_number(&self) -> u64 {
        self.change_number
    }

    /// Makes creations and removals up to `covers` durable, and by chance some after.
    pub(crate) fn sync(&mut self, covers: u64, dice: &mut Dice) {
        let reached = covers + dice.below(self.change_number.saturating_sub(covers) + 1);
        let later = self.unsynced.iter().position(|(number, _)| *number > reached).unwrap_or(self.unsynced.len());
        for (_, change) in self.unsynced.drain(..later) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync failed: some changes are durable, the others never will be.
    pub(crate) fn fail_sync(&mut self, dice: &mut Dice) {
        self.durable = self.names_after_crash(dice);
        self.unsynced.clear();
    }

    /// What a power cut leaves.
    pub(crate) fn crash(&self, dice: &mut Dice, tearing: Tearing) -> Self {
        let mut left = Self::new(self.sector_bytes);
        for (name, file) in self.names_after_crash(dice) {
            left.durable.insert(name, left.files.len());
            left.files.push(self.files[file].crash(dice, tearing));
        }
        left.current = left.durable.clone();
        left
    }

    fn note(&mut self, change: Renaming) {
        self.change_number += 1;
        self.unsynced.push((self.change_number, change));
    }

    fn names_after_crash(&self, dice: &mut Dice) -> BTreeMap<String, usize> {
        let mut names = self.durable.clone();
        for (_, change) in &self.unsynced {
            if dice.one_in(2) {
                change.apply(&mut names);
            }
        }
        names
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, file) => names.insert(name.clone(), *file),
            Self::Unlink(name) => names.remove(name),
        };
    }
}

impl SimFile {
    fn new(sector_bytes: usize) -> Self {
        let unsynced_sizes = Vec::new();
        Self { image: Image::new(sector_bytes), durable_bytes: 0, bytes: 0, unsynced_sizes }
    }

    /// Its size now.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes, and grows if need be.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.image.write(offset, bytes);
        let end = offset + bytes.len() as u64;
        if end > self.bytes && !bytes.is_empty() {
            self.resize(end);
        }
    }

    /// Reads up to its end.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let there = self.bytes.saturating_sub(offset).min(bytes as u64) as usize;
        self.image.read(offset, there)
    }

    /// Cuts or extends it; what is cut off reads as zero if it ever comes back.
    pub(crate) fn truncate(&mut self, bytes: u64) {
        let cut = self.bytes.saturating_sub(bytes) as usize;
        self.image.write(bytes, &vec![0; cut]);
        self.resize(bytes);
    }

    /// Makes content and size durable as of write `covers`, and by chance some later ones.
    pub(crate) fn sync(&mut self, covers: u64, dice: &mut Dice) {
        let reached = self.image.sync(covers, dice);
        let later = self.unsynced_sizes.iter().position(|(number, _)| *number > reached);
        for (_, size) in self.unsynced_sizes.drain(..later.unwrap_or(self.unsynced_sizes.len())) {
            self.durable_bytes = size;
        }
    }

    /// A sync failed: some of it is durable, the rest never will be.
    pub(crate) fn fail_sync(&mut self, dice: &mut Dice, tearing: Tearing) {
        self.durable_bytes = self.size_after_crash(dice);
        self.unsynced_sizes.clear();
        self.image.fail_sync(dice, tearing);
    }

    fn crash(&self, dice: &mut Dice, tearing: Tearing) -> Self {
        let bytes = self.size_after_crash(dice);
        let image = self.image.crash(dice, tearing);
        Self { image, durable_bytes: bytes, bytes, unsynced_sizes: Vec::new() }
    }

    fn resize(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.unsynced_sizes.push((self.image.write_number(), bytes));
    }

    fn size_after_crash(&self, dice: &mut Dice) -> u64 {
        let choice = dice.below(self.unsynced_sizes.len() as u64 + 1) as usize;
        // 0 is the durable size, n the n-th since.
        choice.checked_sub(1).map_or(self.durable_bytes, |index| self.unsynced_sizes[index].1)
    }
}

#[cfg(test)]
mod tests;
