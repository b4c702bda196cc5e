//! The only randomness of a run.

use std::sync::Mutex;

use kvtier_engine::port::Random;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// True with the given chance in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }

    /// An independent stream.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// The engine's Random port.
pub(crate) struct SimRandom(pub(crate) Mutex<Seed>);

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        self.0.lock().expect("one thread").next()
    }
}
