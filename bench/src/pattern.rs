//! Payloads that nobody needs to keep: the bytes of a block follow from its number.
//!
//! A block is a run of 4 KiB pages. Every page is one fixed page of random words, each XORed with a word mixed from the
//! block's number and the page's place, so no two pages of a run are equal and none compresses; a moved page, a torn one
//! and another block's are all noticed. The fixed page stays in the first-level cache: making and checking run at the
//! speed of memory.

use bytes::Bytes;

const PAGE_BYTES: usize = 4096;
const WORD_BYTES: usize = 8;

/// Makes and checks payloads.
#[derive(Debug, Clone)]
pub struct Pattern {
    page: [u64; PAGE_BYTES / WORD_BYTES],
}

/// The first byte that is not the block's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Where in the block.
    pub offset: u64,
    /// What is there.
    pub found: u8,
    /// What should be.
    pub expected: u8,
}

impl Default for Pattern {
    fn default() -> Self {
        Self::seeded(0x6b76_7469_6572_0002)
    }
}

impl Pattern {
    /// The patterns of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self { page: std::array::from_fn(|word| mix(seed ^ word as u64)) }
    }

    /// A block's bytes.
    pub fn make(&self, block: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(block, &mut bytes);
        bytes
    }

    /// Writes a block's bytes.
    pub fn fill(&self, block: u64, bytes: &mut [u8]) {
        for (place, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
            let salt = salt(block, place as u64);
            let (words, rest) = page.as_chunks_mut::<WORD_BYTES>();
            for (word, fixed) in words.iter_mut().zip(&self.page) {
                *word = (fixed ^ salt).to_le_bytes();
            }
            if !rest.is_empty() {
                let last = (self.page[words.len()] ^ salt).to_le_bytes();
                rest.copy_from_slice(&last[..rest.len()]);
            }
        }
    }

    /// Compares bytes with those of a block from `offset` on.
    pub fn check(&self, block: u64, offset: u64, bytes: &[u8]) -> Result<(), Wrong> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = (at % PAGE_BYTES as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - within));
            if !self.matches(salt(block, at / PAGE_BYTES as u64), within, now) {
                return Err(self.first_wrong(block, at, now));
            }
            (at, rest) = (at + now.len() as u64, later);
        }
        Ok(())
    }

    /// Whether bytes of one page are right, a word at a time where they begin at one.
    fn matches(&self, salt: u64, within: usize, bytes: &[u8]) -> bool {
        if !within.is_multiple_of(WORD_BYTES) {
            return bytes.iter().enumerate().all(|(at, byte)| *byte == self.byte(salt, within + at));
        }
        let first = within / WORD_BYTES;
        let (words, rest) = bytes.as_chunks::<WORD_BYTES>();
        let fixed = &self.page[first..first + words.len()];
        let wrong = words.iter().zip(fixed).fold(0, |wrong, (word, fixed)| {
            // No early end: a loop without branches runs at memory speed.
            wrong | (u64::from_le_bytes(*word) ^ fixed ^ salt)
        });
        let tail = within + words.len() * WORD_BYTES;
        wrong == 0 && rest.iter().enumerate().all(|(at, byte)| *byte == self.byte(salt, tail + at))
    }

    fn byte(&self, salt: u64, within: usize) -> u8 {
        (self.page[within / WORD_BYTES] ^ salt).to_le_bytes()[within % WORD_BYTES]
    }

    fn first_wrong(&self, block: u64, at: u64, bytes: &[u8]) -> Wrong {
        let (salt, within) = (salt(block, at / PAGE_BYTES as u64), (at % PAGE_BYTES as u64) as usize);
        let wrong = bytes.iter().enumerate().map(|(index, found)| (index, *found, self.byte(salt, within + index)));
        let (index, found, expected) =
            wrong.into_iter().find(|(_, found, expected)| found != expected).expect("a page that differs has a byte");
        Wrong { offset: at + index as u64, found, expected }
    }
}

/// The key of a block of a space of numbers: 32 bytes that look like a hash.
pub fn key(space: u64, block: u64) -> Bytes {
    let words = (0..4_u64).flat_map(|word| mix(mix(block ^ mix(space)).wrapping_add(word)).to_be_bytes());
    let mut bytes: Vec<u8> = words.collect();
    // The number itself, so that no two are equal.
    bytes[..8].copy_from_slice(&block.to_be_bytes());
    bytes.into()
}

fn salt(block: u64, page: u64) -> u64 {
    mix(mix(block).wrapping_add(page))
}

/// SplitMix64's finaliser.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_itself_in_pieces_of_any_size() {
        let pattern = Pattern::default();
        for length in [1, 7, 4_096, 4_099, 20_003] {
            let bytes = pattern.make(3, length);
            for piece in [1, 5, 8, 4_096, 5_000] {
                for (at, bytes) in bytes.chunks(piece).enumerate() {
                    assert_eq!(pattern.check(3, (at * piece) as u64, bytes), Ok(()), "{length} in pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn the_first_flipped_bit_is_named() {
        let pattern = Pattern::default();
        for at in [0, 1, 4_095, 4_096, 10_002] {
            let mut bytes = pattern.make(3, 10_003);
            bytes[at] ^= 0x10;
            let wrong = pattern.check(3, 0, &bytes).expect_err("a bit was flipped");
            assert_eq!((wrong.offset, wrong.found ^ wrong.expected), (at as u64, 0x10));
        }
    }

    #[test]
    fn another_block_and_a_moved_page_are_noticed() {
        let pattern = Pattern::default();
        let mut bytes = pattern.make(3, 2 * PAGE_BYTES);
        assert!(pattern.check(4, 0, &bytes).is_err());
        bytes.rotate_left(PAGE_BYTES);
        assert!(pattern.check(3, 0, &bytes).is_err());
    }
}
