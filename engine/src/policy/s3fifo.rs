//! S3-FIFO: a small queue for newcomers, a main queue for blocks that were used again, a ghost table of newcomers that
//! were not. (Yang et al., SOSP 2023.) A touch only raises a two-bit count; blocks move when room is needed.

use super::ring::Rings;
use super::{Policy, Verdict};

/// An order's rings.
const SMALL: u32 = 0;
const MAIN: u32 = 1;
const PARKED: u32 = 2;
const RING_COUNT: u32 = 3;

/// Tag bits: two of use count, one for the queue, one for parked.
const TAG_USES: u8 = 0b0011;
const TAG_MAIN: u8 = 0b0100;
const TAG_PARKED: u8 = 0b1000;

/// The small queue's share of the copies: one in ten.
const SMALL_SHARE: u64 = 10;

pub(super) struct S3Fifo {
    rings: Rings,
    orders: Vec<Order>,
}

/// One order's counts and memory.
struct Order {
    /// Number of its first ring.
    first: u32,
    small_count: u64,
    main_count: u64,
    ghosts: Box<[u32]>,
}

impl Order {
    fn new(number: u32, ghost_count: u32) -> Self {
        let ghosts = ghost_count.clamp(64, 1 << 24).next_power_of_two() as usize;
        Self { first: number * RING_COUNT, small_count: 0, main_count: 0, ghosts: vec![0; ghosts].into() }
    }

    fn ghost(&mut self, mark: u64) -> (&mut u32, u32) {
        let at = mark as usize & (self.ghosts.len() - 1);
        // Zero means empty, so no fingerprint is zero.
        (&mut self.ghosts[at], (mark >> 32) as u32 | 1)
    }

    fn count_of(&mut self, tag: u8) -> &mut u64 {
        if tag & TAG_MAIN == 0 { &mut self.small_count } else { &mut self.main_count }
    }

    fn queue_of(&self, tag: u8) -> u32 {
        self.first + if tag & TAG_MAIN == 0 { SMALL } else { MAIN }
    }
}

impl S3Fifo {
    pub(super) fn new(order_count: usize, ghost_count: u32) -> Self {
        let count = u32::try_from(order_count).expect("a tier has few orders");
        let orders = (0..count).map(|number| Order::new(number, ghost_count / count)).collect();
        Self { rings: Rings::new(count * RING_COUNT), orders }
    }

    fn requeue(&mut self, order: usize, index: u32, from: u8, to: u8) {
        let order = &mut self.orders[order];
        self.rings.unlink(index);
        *order.count_of(from) -= 1;
        *order.count_of(to) += 1;
        self.rings.set_tag(index, to);
        self.rings.push_front(order.queue_of(to), index);
    }

    /// One walk over a queue from its cold end. `None` and `true`: blocks were moved, another walk may find more.
    fn walk(
        &mut self,
        order: usize,
        queue: u32,
        skipped: &mut usize,
        skip_max: usize,
        judge: &mut dyn FnMut(u32) -> Verdict,
    ) -> (Option<u32>, bool) {
        let mut moved = false;
        // A main block that moves to the front would be met again in the same walk.
        let Order { first, small_count, main_count, .. } = self.orders[order];
        let mut left = if queue == SMALL { small_count } else { main_count };
        let mut next = self.rings.back(first + queue);
        while let Some(index) = next {
            next = self.rings.hotter(index);
            let tag = self.rings.tag(index);
            let uses = tag & TAG_USES;
            if queue == SMALL && uses > 1 {
                self.requeue(order, index, tag, TAG_MAIN);
            } else if queue == MAIN && uses > 0 {
                self.requeue(order, index, tag, TAG_MAIN | (uses - 1));
                moved = true;
            } else {
                match judge(index) {
                    Verdict::Take => return (Some(index), moved),
                    Verdict::Skip => *skipped += 1,
                    Verdict::Park => {
                        self.rings.unlink(index);
                        self.rings.push_front(first + PARKED, index);
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
    fn insert(&mut self, order: usize, index: u32, mark: u64, _above: Option<u32>) {
        let order = &mut self.orders[order];
        let (ghost, fingerprint) = order.ghost(mark);
        let seen = *ghost == fingerprint;
        if seen {
            *ghost = 0;
        }
        let tag = if seen { TAG_MAIN } else { 0 };
        self.rings.set_tag(index, tag);
        *order.count_of(tag) += 1;
        self.rings.push_front(order.queue_of(tag), index);
    }

    fn touch(&mut self, _order: usize, run: &[u32], _above: Option<u32>) {
        for index in run {
            let tag = self.rings.tag(*index);
            if tag & TAG_USES < TAG_USES {
                self.rings.set_tag(*index, tag + 1);
            }
        }
    }

    fn remove(&mut self, order: usize, index: u32, mark: u64, evicted: bool) {
        let order = &mut self.orders[order];
        let tag = self.rings.tag(index);
        self.rings.unlink(index);
        *order.count_of(tag) -= 1;
        if evicted && tag & TAG_MAIN == 0 {
            let (ghost, fingerprint) = order.ghost(mark);
            *ghost = fingerprint;
        }
    }

    fn victim(&mut self, order: usize, skip_max: usize, judge: &mut dyn FnMut(u32) -> Verdict) -> Option<u32> {
        let mut skipped = 0;
        let Order { small_count, main_count, .. } = self.orders[order];
        let small_first = small_count * SMALL_SHARE > small_count + main_count;
        for queue in if small_first { [SMALL, MAIN] } else { [MAIN, SMALL] } {
            loop {
                let (found, moved) = self.walk(order, queue, &mut skipped, skip_max, judge);
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
        if skipped < skip_max { self.walk(order, MAIN, &mut skipped, skip_max, judge).0 } else { None }
    }

    fn unpark(&mut self, order: usize, index: u32) {
        if self.rings.tag(index) & TAG_PARKED != 0 {
            self.sink(order, index);
        }
    }

    fn sink(&mut self, order: usize, index: u32) {
        let tag = self.rings.tag(index) & !TAG_PARKED;
        self.rings.unlink(index);
        self.rings.set_tag(index, tag);
        self.rings.push_back(self.orders[order].queue_of(tag), index);
    }

    fn is_parked(&self, index: u32) -> bool {
        self.rings.tag(index) & TAG_PARKED != 0
    }

    fn contains(&self, index: u32) -> bool {
        self.rings.contains(index)
    }

    fn members(&self, order: usize) -> Vec<u32> {
        let first = self.orders[order].first;
        [SMALL, MAIN, PARKED].into_iter().flat_map(|ring| self.rings.blocks(first + ring)).collect()
    }

    fn bytes(&self) -> u64 {
        let ghosts: usize = self.orders.iter().map(|order| order.ghosts.len()).sum();
        self.rings.bytes() + (ghosts * size_of::<u32>()) as u64
    }
}
