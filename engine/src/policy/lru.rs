//! Least recently used, kept so that descendants are colder than their ancestors.
//!
//! An order is one ring, beside one for what is parked. A block enters just colder than its parent, and a touched chain moves to the front head first,
//! each block just below the one before: the same order as touching the chain tail first, without the detour.

use super::ring::Rings;
use super::{Policy, Verdict};

const TAG_PARKED: u8 = 1;

pub(super) struct LeafLru {
    rings: Rings,
}

/// The ring of an order's candidates.
fn candidates(order: usize) -> u32 {
    2 * order as u32
}

/// The ring of what is set aside.
fn parked(order: usize) -> u32 {
    2 * order as u32 + 1
}

impl LeafLru {
    pub(super) fn new(order_count: usize) -> Self {
        Self { rings: Rings::new(candidates(order_count)) }
    }

    fn place(&mut self, order: usize, index: u32, above: Option<u32>) {
        match above {
            // A parked parent has no place in the order.
            Some(above) if self.rings.tag(above) != TAG_PARKED => self.rings.insert_below(above, index),
            _ => self.rings.push_front(candidates(order), index),
        }
    }
}

impl Policy for LeafLru {
    fn insert(&mut self, order: usize, index: u32, _mark: u64, above: Option<u32>) {
        self.rings.set_tag(index, 0);
        self.place(order, index, above);
    }

    fn touch(&mut self, order: usize, run: &[u32], above: Option<u32>) {
        // A parked parent has no place in the order.
        let mut above = above.filter(|above| self.rings.tag(*above) != TAG_PARKED);
        let mut rest = run;
        while let [first, ..] = rest {
            // Whatever moved together before still stands together, and moves in one go.
            let count = self.rings.consecutive(rest, 0);
            self.rings.set_tag(*first, 0);
            self.rings.move_below(above, candidates(order), *first, rest[count - 1]);
            above = Some(rest[count - 1]);
            rest = &rest[count..];
        }
    }

    fn remove(&mut self, _order: usize, index: u32, _mark: u64, _evicted: bool) {
        self.rings.unlink(index);
    }

    fn victim(&mut self, order: usize, skip_max: usize, judge: &mut dyn FnMut(u32) -> Verdict) -> Option<u32> {
        let mut skipped = 0;
        let mut next = self.rings.back(candidates(order));
        while let Some(index) = next {
            next = self.rings.hotter(index);
            match judge(index) {
                Verdict::Take => return Some(index),
                Verdict::Skip => skipped += 1,
                Verdict::Park => {
                    self.rings.unlink(index);
                    self.rings.push_front(parked(order), index);
                    self.rings.set_tag(index, TAG_PARKED);
                }
            }
            if skipped >= skip_max {
                return None;
            }
        }
        None
    }

    fn unpark(&mut self, order: usize, index: u32) {
        if self.rings.tag(index) == TAG_PARKED {
            self.sink(order, index);
        }
    }

    fn sink(&mut self, order: usize, index: u32) {
        self.rings.unlink(index);
        self.rings.set_tag(index, 0);
        self.rings.push_back(candidates(order), index);
    }

    fn is_parked(&self, index: u32) -> bool {
        self.rings.tag(index) == TAG_PARKED
    }

    fn contains(&self, index: u32) -> bool {
        self.rings.contains(index)
    }

    fn members(&self, order: usize) -> Vec<u32> {
        self.rings.blocks(candidates(order)).chain(self.rings.blocks(parked(order))).collect()
    }

    fn bytes(&self) -> u64 {
        self.rings.bytes()
    }
}
