//! The simulator's only source of chance.

/// A seeded stream of numbers (SplitMix64): same seed, same stream, on every machine and for ever (INV-9).
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound - 1`. Panics if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        // The bias of the remainder is far below what a simulation can notice.
        self.next_u64() % bound
    }

    /// True once in `count` times on average; never if `count` is 0.
    pub fn one_in(&mut self, count: u32) -> bool {
        count > 0 && self.below(u64::from(count)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut dice = Dice::new(7);
        // Written down once: recorded seeds must keep their meaning.
        assert_eq!([dice.next_u64(), dice.next_u64()], [7191089600892374487, 309689372594955804]);
    }

    #[test]
    fn bounds_are_kept_and_reached() {
        let mut dice = Dice::new(1);
        let mut seen = [0_u32; 6];
        for _ in 0..600 {
            seen[dice.below(6) as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }

    #[test]
    fn one_in_none_is_never() {
        let mut dice = Dice::new(1);
        assert!((0..1000).all(|_| !dice.one_in(0)));
        assert!((0..1000).all(|_| dice.one_in(1)));
    }
}
