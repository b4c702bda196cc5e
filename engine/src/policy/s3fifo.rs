//! S3-FIFO: a small queue for newcomers, a main queue for blocks that were used again, a ghost table of newcomers that
//! were not. (Yang et al., SOSP 2023.) A touch only raises a two-bit count; blocks move when room is needed.

use super::ring::Rings;
use super::{Policy, Verdict};

const SMALL: u32 = 0;
const MAIN: u32 = 1;
const PARKED: u32 = 2;

/// Tag bits: two of use count, one for the queue, one for parked.
const TAG_USES: u8 = 0b0011;
const TAG_MAIN: u8 = 0b0100;
const TAG_PARKED: u8 = 0b1000;

/// The small queue's share of the copies: one in ten.
const SMALL_SHARE: u64 = 10;

pub(super) struct S3Fifo {
    rings: Rings,
    small_count: u64,
    main_count: u64,
    ghosts: Box<[u32]>,
}

impl S3Fifo {
    pub(super) fn new(ghost_count: u32) -> Self {
        let ghosts = ghost_count.clamp(64, 1 << 24).next_power_of_two() as usize;
        Self { rings: Rings::new(3), small_count: 0, main_count: 0, ghosts: vec![0; ghosts].into() }
    }

    fn ghost(&mut self, mark: u64) -> (&mut u32, u32) {
        let at = mark as usize & (self.ghosts.len() - 1);
        // Zero means empty, so no fingerprint is zero.
        (&mut self.ghosts[at], (mark >> 32) as u32 | 1)
    }

    fn count_of(&mut self, tag: u8) -> &mut u64 {
        if tag & TAG_MAIN == 0 { &mut self.small_count } else { &mut self.main_count }
    }

    fn requeue(&mut self, index: u32, from: u8, to: u8) {
        self.rings.unlink(index);
        *self.count_of(from) -= 1;
        *self.count_of(to) += 1;
        self.rings.set_tag(index, to);
        self.rings.push_front(if to & TAG_MAIN == 0 { SMALL } else { MAIN }, index);
    }

    /// One walk over a queue from its cold end. `None` and `true`: blocks were moved, another walk may find more.
    fn walk(
        &mut self,
        queue: u32,
        skipped: &mut usize,
        skip_max: usize,
        judge: &mut dyn FnMut(u32) -> Verdict,
    ) -> (Option<u32>, bool) {
        let mut moved = false;
        // A main block that moves to the front would be met again in the same walk.
        let mut left = if queue == SMALL { self.small_count } else { self.main_count };
        let mut next = self.rings.back(queue);
        while let Some(index) = next {
            next = self.rings.hotter(index);
            let tag = self.rings.tag(index);
            let uses = tag & TAG_USES;
            if queue == SMALL && uses > 1 {
                self.requeue(index, tag, TAG_MAIN);
            } else if queue == MAIN && uses > 0 {
                self.requeue(index, tag, TAG_MAIN | (uses - 1));
                moved = true;
            } else {
                match judge(index) {
                    Verdict::Take => return (Some(index), moved),
                    Verdict::Skip => *skipped += 1,
                    Verdict::Park => {
                        self.rings.unlink(index);
                        self.rings.push_front(PARKED, index);
                        self.rings.set_tag(index, tag | TAG_PARKED);
                    }
                }
            }
            left = left.saturating_sub(1);
            if *skipped >= skip_max || left == 0 {
                break;
            }
        }
        (None, moved)
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, index: u32, mark: u64, _above: Option<u32>) {
        let (ghost, fingerprint) = self.ghost(mark);
        let seen = *ghost == fingerprint;
        if seen {
            *ghost = 0;
        }
        let tag = if seen { TAG_MAIN } else { 0 };
        self.rings.set_tag(index, tag);
        *self.count_of(tag) += 1;
        self.rings.push_front(if seen { MAIN } else { SMALL }, index);
    }

    fn touch(&mut self, run: &[u32], _above: Option<u32>) {
        for index in run {
            let tag = self.rings.tag(*index);
            if tag & TAG_USES < TAG_USES {
                self.rings.set_tag(*index, tag + 1);
            }
        }
    }

    fn remove(&mut self, index: u32, mark: u64, evicted: bool) {
        let tag = self.rings.tag(index);
        self.rings.unlink(index);
        *self.count_of(tag) -= 1;
        if evicted && tag & TAG_MAIN == 0 {
            let (ghost, fingerprint) = self.ghost(mark);
            *ghost = fingerprint;
        }
    }

    fn victim(&mut self, skip_max: usize, judge: &mut dyn FnMut(u32) -> Verdict) -> Option<u32> {
        let mut skipped = 0;
        let small_first = self.small_count * SMALL_SHARE > self.small_count + self.main_count;
        let order = if small_first { [SMALL, MAIN] } else { [MAIN, SMALL] };
        for queue in order {
            loop {
                let (found, moved) = self.walk(queue, &mut skipped, skip_max, judge);
                if found.is_some() {
                    return found;
                }
                // Each walk that moves lowers a use count, so at most four walks.
                if !moved || skipped >= skip_max {
                    break;
                }
            }
        }
        // The small queue may have refilled main.
        if skipped < skip_max { self.walk(MAIN, &mut skipped, skip_max, judge).0 } else { None }
    }

    fn unpark(&mut self, index: u32) {
        if self.rings.tag(index) & TAG_PARKED != 0 {
            self.sink(index);
        }
    }

    fn sink(&mut self, index: u32) {
        let tag = self.rings.tag(index) & !TAG_PARKED;
        self.rings.unlink(index);
        self.rings.set_tag(index, tag);
        self.rings.push_back(if tag & TAG_MAIN == 0 { SMALL } else { MAIN }, index);
    }

    fn is_parked(&self, index: u32) -> bool {
        self.rings.tag(index) & TAG_PARKED != 0
    }

    fn contains(&self, index: u32) -> bool {
        self.rings.contains(index)
    }

    fn count(&self) -> u64 {
        self.small_count + self.main_count
    }

    fn bytes(&self) -> u64 {
        self.rings.bytes() + (self.ghosts.len() * size_of::<u32>()) as u64
    }
}
