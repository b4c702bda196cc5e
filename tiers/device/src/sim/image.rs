//! The two images of a simulated medium: what reads see, and what a power cut leaves.
//!
//! ```text
//!   write ──> current          reads come from here
//!        └──> unsynced         in order of completion
//!   sync  ──> unsynced, up to the writes it covers ──> durable
//!   crash ──> durable + some of unsynced, some of it torn
//! ```
//!
//! Writes to one sector keep their order: a sector never falls back behind a write that survived.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dice::Dice;
use super::faults::Tearing;

type Sector = Arc<[u8]>;

/// A medium of sectors; those never written are zero. Any size: whoever owns it knows the end.
#[derive(Clone)]
pub(crate) struct Image {
    sector_bytes: usize,
    durable: BTreeMap<u64, Sector>,
    current: BTreeMap<u64, Sector>,
    unsynced: Vec<Unsynced>,
    write_number: u64,
}

#[derive(Clone)]
struct Unsynced {
    number: u64,
    first: u64,
    sectors: Vec<Sector>,
}

impl Image {
    /// All zero.
    pub(crate) fn new(sector_bytes: usize) -> Self {
        assert!(sector_bytes > 0, "a sector has some bytes");
        let (durable, current) = Default::default();
        Self { sector_bytes, durable, current, unsynced: Vec::new(), write_number: 0 }
    }

    /// Number of the newest write.
    pub(crate) fn write_number(&self) -> u64 {
        self.write_number
    }

    /// What is there now.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        let (first, last) = self.span(offset, bytes);
        for (number, sector) in self.current.range(first..last) {
            overlay(&mut content, offset, sector, number * self.sector_bytes as u64);
        }
        content
    }

    /// Writes, not yet durable. Sectors written in part keep the rest.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.write_number += 1;
        if bytes.is_empty() {
            return;
        }
        let (first, last) = self.span(offset, bytes.len());
        let mut sectors = Vec::with_capacity((last - first) as usize);
        for number in first..last {
            let start = number * self.sector_bytes as u64;
            let mut sector = self.read(start, self.sector_bytes);
            overlay(&mut sector, start, bytes, offset);
            let sector: Sector = sector.into();
            self.current.insert(number, Arc::clone(&sector));
            sectors.push(sector);
        }
        self.unsynced.push(Unsynced { number: self.write_number, first, sectors });
    }

    /// Makes the writes up to `covers` durable, and by chance some of those after; returns the newest that is.
    pub(crate) fn sync(&mut self, covers: u64, dice: &mut Dice) -> u64 {
        let reached = covers + dice.below(self.write_number.saturating_sub(covers) + 1);
        let later = self.unsynced.iter().position(|write| write.number > reached).unwrap_or(self.unsynced.len());
        for write in self.unsynced.drain(..later) {
            persist(&mut self.durable, &write, |_| true);
        }
        reached
    }

    /// A sync failed: some of what was not durable is now, and the system thinks all of it is.
    pub(crate) fn fail_sync(&mut self, dice: &mut Dice, tearing: Tearing) {
        self.durable = self.after_crash(dice, tearing);
        self.unsynced.clear();
    }

    /// What a power cut leaves.
    pub(crate) fn crash(&self, dice: &mut Dice, tearing: Tearing) -> Self {
        let durable = self.after_crash(dice, tearing);
        let current = durable.clone();
        Self { sector_bytes: self.sector_bytes, durable, current, unsynced: Vec::new(), write_number: 0 }
    }

    /// Flips one bit somewhere in the range, on the medium itself.
    pub(crate) fn rot(&mut self, offset: u64, bytes: u64, dice: &mut Dice) {
        let place = offset + dice.below(bytes);
        let flipped = self.read(place, 1)[0] ^ (1 << dice.below(8));
        self.poke(place, &[flipped]);
    }

    /// Changes what is stored behind everybody's back, durable and current alike.
    pub(crate) fn poke(&mut self, offset: u64, bytes: &[u8]) {
        let (first, last) = self.span(offset, bytes.len());
        for number in first..last {
            let start = number * self.sector_bytes as u64;
            for sectors in [&mut self.durable, &mut self.current] {
                let mut sector = sectors.get(&number).map_or_else(|| vec![0; self.sector_bytes], |old| old.to_vec());
                overlay(&mut sector, start, bytes, offset);
                sectors.insert(number, sector.into());
            }
        }
    }

    fn span(&self, offset: u64, bytes: usize) -> (u64, u64) {
        let size = self.sector_bytes as u64;
        (offset / size, (offset + bytes as u64).div_ceil(size))
    }

    fn after_crash(&self, dice: &mut Dice, tearing: Tearing) -> BTreeMap<u64, Sector> {
        let mut left = self.durable.clone();
        // Extremes are met more often than fair coins would: nothing, everything, a prefix, any subset.
        let mood = dice.below(4);
        let prefix = dice.below(self.unsynced.len() as u64 + 1);
        for (index, write) in self.unsynced.iter().enumerate() {
            let survives = match mood {
                0 => false,
                1 => true,
                2 => (index as u64) < prefix,
                _ => dice.one_in(2),
            };
            if survives {
                let is_torn = mood != 1 && dice.one_in(2);
                tear(&mut left, write, dice, if is_torn { tearing } else { Tearing::Whole });
            } else if mood == 2 && index as u64 == prefix {
                tear(&mut left, write, dice, tearing);
            }
        }
        left
    }
}

fn tear(left: &mut BTreeMap<u64, Sector>, write: &Unsynced, dice: &mut Dice, tearing: Tearing) {
    match tearing {
        Tearing::Whole => persist(left, write, |_| true),
        Tearing::Prefix => {
            let count = dice.below(write.sectors.len() as u64 + 1) as usize;
            persist(left, write, |index| index < count);
        }
        Tearing::Scattered => persist(left, write, |_| dice.one_in(2)),
    }
}

fn persist(durable: &mut BTreeMap<u64, Sector>, write: &Unsynced, mut keep: impl FnMut(usize) -> bool) {
    for (index, sector) in write.sectors.iter().enumerate() {
        if keep(index) {
            durable.insert(write.first + index as u64, Arc::clone(sector));
        }
    }
}

/// Copies the bytes of `from` that lie where `onto` does.
fn overlay(onto: &mut [u8], onto_offset: u64, from: &[u8], from_offset: u64) {
    let start = onto_offset.max(from_offset);
    let end = (onto_offset + onto.len() as u64).min(from_offset + from.len() as u64);
    if start < end {
        let length = (end - start) as usize;
        let (to, source) = ((start - onto_offset) as usize, (start - from_offset) as usize);
        onto[to..to + length].copy_from_slice(&from[source..source + length]);
    }
}

#[cfg(test)]
mod tests;
