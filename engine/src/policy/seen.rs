//! What was seen lately: a bounded memory of blocks by their fingerprints.
//!
//! Buckets of eight, in each the newest first: a new block pushes out the oldest of its bucket. With one place per bucket two
//! blocks of a chain that share it would push each other out each time the chain passes by, and neither would ever be
//! remembered; a chain of 1,000 blocks has seven such pairs in 65,536 places. It takes nine of a chain in one
//! bucket now: a matter of chains of many thousands.

/// A bucket is half a cache line.
const WAYS: usize = 8;

/// A table of 32-bit fingerprints.
#[derive(Debug)]
pub struct Seen {
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Bucket([u32; WAYS]);

impl Seen {
    /// Room for `count` blocks, rounded up to a power of two: 4 bytes each.
    pub fn new(count: usize) -> Self {
        let buckets = count.div_ceil(WAYS).next_power_of_two();
        Self { buckets: vec![Bucket::default(); buckets].into() }
    }

    /// Remembers a block; whether it was remembered already. `mark` is uniformly distributed.
    pub fn note(&mut self, mark: u64) -> bool {
        let at = mark as usize & (self.buckets.len() - 1);
        // Zero means empty, so no fingerprint is zero.
        let fingerprint = (mark >> 32) as u32 | 1;
        let Bucket(ways) = &mut self.buckets[at];
        let found = ways.iter().position(|way| *way == fingerprint);
        ways[..=found.unwrap_or(WAYS - 1)].rotate_right(1);
        ways[0] = fingerprint;
        found.is_some()
    }

    /// Bytes of RAM.
    pub fn bytes(&self) -> u64 {
        size_of_val(&*self.buckets) as u64
    }
}
