//! Least recently used, kept so that descendants are colder than their ancestors.
//!
//! The order is one ring. A block enters just colder than its parent, and a touched chain moves to the front head first,
//! each block just below the one before: the same order as touching the chain tail first, without the detour.

use super::ring::Rings;
use super::{Policy, Verdict};

const ORDER: u32 = 0;
const PARKED: u32 = 1;

const TAG_PARKED: u8 = 1;

pub(super) struct LeafLru {
    rings: Rings,
    count: u64,
}

impl LeafLru {
    pub(super) fn new() -> Self {
        Self { rings: Rings::new(2), count: 0 }
    }

    fn place(&mut self, index: u32, above: Option<u32>) {
        match above {
            // A parked parent has no place in the order.
            Some(above) if self.rings.tag(above) != TAG_PARKED => self.rings.insert_below(above, index),
            _ => self.rings.push_front(ORDER, index),
        }
    }
}

impl Policy for LeafLru {
    fn insert(&mut self, index: u32, _mark: u64, above: Option<u32>) {
        self.rings.set_tag(index, 0);
        self.place(index, above);
        self.count += 1;
    }

    fn touch(&mut self, run: &[u32], above: Option<u32>) {
        // A parked parent has no place in the order.
        let mut above = above.filter(|above| self.rings.tag(*above) != TAG_PARKED);
        let mut rest = run;
        while let [first, ..] = rest {
            // Whatever moved together before still stands together, and moves in one go.
            let count = self.rings.consecutive(rest, 0);
            self.rings.set_tag(*first, 0);
            self.rings.move_below(above, ORDER, *first, rest[count - 1]);
            above = Some(rest[count - 1]);
            rest = &rest[count..];
        }
    }

    fn remove(&mut self, index: u32, _mark: u64, _evicted: bool) {
        self.rings.unlink(index);
        self.count -= 1;
    }

    fn victim(&mut self, skip_max: usize, judge: &mut dyn FnMut(u32) -> Verdict) -> Option<u32> {
        let mut skipped = 0;
        let mut next = self.rings.back(ORDER);
        while let Some(index) = next {
            next = self.rings.hotter(index);
            match judge(index) {
                Verdict::Take => return Some(index),
                Verdict::Skip => skipped += 1,
                Verdict::Park => {
                    self.rings.unlink(index);
                    self.rings.push_front(PARKED, index);
                    self.rings.set_tag(index, TAG_PARKED);
                }
            }
            if skipped >= skip_max {
                return None;
            }
        }
        None
    }

    fn unpark(&mut self, index: u32) {
        if self.rings.tag(index) == TAG_PARKED {
            self.sink(index);
        }
    }

    fn sink(&mut self, index: u32) {
        self.rings.unlink(index);
        self.rings.set_tag(index, 0);
        self.rings.push_back(ORDER, index);
    }

    fn is_parked(&self, index: u32) -> bool {
        self.rings.tag(index) == TAG_PARKED
    }

    fn contains(&self, index: u32) -> bool {
        self.rings.contains(index)
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn bytes(&self) -> u64 {
        self.rings.bytes()
    }
}
