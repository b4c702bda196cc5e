//! Block bytes that anyone can make again from the block's number, and check without keeping them.
//!
//! A block is a sequence of 4 KiB pages. Page `p` of block `b` is one fixed random page, each of its 64-bit words XORed
//! with a number mixed from `(b, p)`. So every page of every block differs from every other, and a bit that flipped, a
//! page that moved within its block and a page of another block are all found. Made and checked at memory speed: the
//! fixed page stays in the first-level cache.

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// Makes and checks the bytes of numbered blocks.
#[derive(Debug)]
pub(crate) struct Pattern {
    page: [u64; PAGE_WORDS],
}

impl Default for Pattern {
    fn default() -> Self {
        Self { page: std::array::from_fn(|word| mix(0x6b76_7469_6572_0001 ^ word as u64)) }
    }
}

impl Pattern {
    /// The bytes of one block.
    pub(crate) fn make(&self, block: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (number, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
            let salt = salt(block, number);
            let mut words = page.chunks_exact_mut(8);
            for (word, fixed) in words.by_ref().zip(&self.page) {
                word.copy_from_slice(&(fixed ^ salt).to_le_bytes());
            }
            let rest = words.into_remainder();
            let last = (self.page[PAGE_WORDS - 1] ^ salt).to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
        bytes
    }

    /// Whether these are all the bytes of that block and nothing else.
    pub(crate) fn check(&self, block: u64, bytes: &[u8], length: usize) -> bool {
        bytes.len() == length
            && bytes.chunks(PAGE_BYTES).enumerate().all(|(number, page)| self.check_page(page, salt(block, number)))
    }

    fn check_page(&self, page: &[u8], salt: u64) -> bool {
        let words = page.chunks_exact(8);
        let rest = words.remainder();
        let last = (self.page[PAGE_WORDS - 1] ^ salt).to_le_bytes();
        let wrong = words.zip(&self.page).fold(0, |wrong, (word, fixed)| {
            wrong | (u64::from_le_bytes(word.try_into().expect("chunks of 8")) ^ fixed ^ salt)
        });
        wrong == 0 && *rest == last[..rest.len()]
    }
}

fn salt(block: u64, page: usize) -> u64 {
    mix(mix(block).wrapping_add(page as u64))
}

/// The finaliser of SplitMix64: every input bit changes half of the output bits.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pattern_is_the_same_on_every_machine() {
        // The checksum of the same bytes made by another program, in another language.
        assert_eq!(crc32fast::hash(&Pattern::default().make(7, 10_003)), 0x47ca5866);
    }

    #[test]
    fn pages_that_moved_are_found() {
        let pattern = Pattern::default();
        let mut bytes = pattern.make(1, 3 * PAGE_BYTES);
        let (first, second) = bytes.split_at_mut(PAGE_BYTES);
        first.swap_with_slice(&mut second[..PAGE_BYTES]);
        assert!(!pattern.check(1, &bytes, 3 * PAGE_BYTES));
    }

    proptest! {
        #[test]
        fn a_block_is_itself_and_no_other(block: u64, other: u64, length in 1_usize..20_000) {
            let pattern = Pattern::default();
            let bytes = pattern.make(block, length);
            prop_assert!(pattern.check(block, &bytes, length));
            prop_assert!(!pattern.check(block, &bytes[1..], length), "a short block");
            prop_assert!(length < 8 || block == other || !pattern.check(other, &bytes, length));
        }

        #[test]
        fn any_flipped_bit_is_found(block: u64, length in 1_usize..20_000, at: prop::sample::Index, bit in 0_u8..8) {
            let pattern = Pattern::default();
            let mut bytes = pattern.make(block, length);
            bytes[at.index(length)] ^= 1 << bit;
            prop_assert!(!pattern.check(block, &bytes, length));
        }
    }
}
