//! A bound on how much is under way (INV-5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of places.
#[derive(Debug)]
pub(crate) struct Places {
    taken: AtomicUsize,
    max: usize,
}

/// Some places, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    places: Arc<Places>,
    count: usize,
}

impl Places {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max: max as usize })
    }

    /// Takes up to `wanted` places; fewer, or none, if the bound says so.
    pub(crate) fn take(self: &Arc<Self>, wanted: usize) -> Permit {
        let mut count = 0;
        let _ = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            count = wanted.min(self.max - taken);
            Some(taken + count)
        });
        Permit { places: self.clone(), count }
    }

    /// Places taken now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

impl Permit {
    /// How many places were had.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.places.taken.fetch_sub(self.count, Ordering::AcqRel);
        assert!(before >= self.count, "places are given back once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_never_overbooked_and_come_back() {
        let places = Places::new(5);
        let first = places.take(3);
        let second = places.take(3);
        assert_eq!((first.count(), second.count(), places.take(1).count()), (3, 2, 0));
        drop(first);
        assert_eq!(places.taken(), 2);
        assert_eq!(places.take(9).count(), 3, "a batch larger than the bound gets what is there");
        drop(second);
        assert_eq!(places.taken(), 0);
    }
}
