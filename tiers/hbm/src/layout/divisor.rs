//! Division by a number that is known beforehand, in three instructions of a GPU.

/// Divides numbers below 2^31 by multiplying and shifting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Divisor {
    /// Low half of 2^(32 + shift) / divisor, rounded up.
    pub multiplier: u32,
    /// Bits of the divisor less one.
    pub shift: u32,
}

impl Divisor {
    /// For division by `divisor`, 1 to 2^31 - 1.
    pub fn new(divisor: u32) -> Self {
        assert!((1..1 << 31).contains(&divisor), "{divisor} is no divisor");
        let shift = 32 - (divisor - 1).leading_zeros();
        let whole = (1u64 << (32 + shift)).div_ceil(u64::from(divisor));
        Self { multiplier: (whole - (1 << 32)) as u32, shift }
    }

    /// `number / divisor`, for numbers below 2^31. The kernel does the same.
    pub fn divide(self, number: u32) -> u32 {
        debug_assert!(number < 1 << 31, "{number} is too large");
        let high = (u64::from(number) * u64::from(self.multiplier)) >> 32;
        (high as u32 + number) >> self.shift
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn multiplying_and_shifting_divides(number in 0u32..1 << 31, divisor in 1u32..1 << 31) {
            prop_assert_eq!(Divisor::new(divisor).divide(number), number / divisor);
        }

        #[test]
        fn small_divisors_divide(number in 0u32..1 << 31, divisor in 1u32..3000) {
            prop_assert_eq!(Divisor::new(divisor).divide(number), number / divisor);
        }
    }

    #[test]
    fn the_edges_divide() {
        let last = (1 << 31) - 1;
        for divisor in [1, 2, 3, 4, 5, 7, 1 << 16, (1 << 16) + 1, (1 << 30) + 1, last] {
            for number in [0, 1, divisor - 1, divisor, last - 1, last] {
                assert_eq!(Divisor::new(divisor).divide(number), number / divisor, "{number} / {divisor}");
            }
        }
    }
}
