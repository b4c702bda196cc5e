//! The reader at the end of every get: the same for every target, so that no target is spared the reading.
//!
//! It reads each byte once, either into a CRC-32 ([`Reading::Sum`]) or against what was put ([`Reading::Verify`]). Both
//! take about as long as reading memory does. Afterwards [`Consumer::finish`] says how far the chain went without a gap, or
//! that bytes were handed over twice, in part, or not of that block.

use crate::pattern::{Pattern, Wrong};

/// How bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Nothing is read: what handing over costs alone. No result of a run is measured like this.
    Nothing,
    /// Every byte goes into a CRC-32 that is compared with nothing.
    Sum,
    /// Every byte is compared with the block's pattern.
    Verify,
}

/// A block that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its number, which names its pattern.
    pub number: u64,
    /// Its length.
    pub bytes: u32,
}

/// Reads the blocks of one get.
#[derive(Debug)]
pub struct Consumer<'a> {
    pattern: &'a Pattern,
    reading: Reading,
    expected: &'a [Expected],
    /// Bytes of each block that were read.
    read: Vec<u32>,
    crc: u32,
    wrong: Option<Mismatch>,
    miss: Option<String>,
}

/// A byte that is not the block's, or a block that did not come as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The block's number.
    pub block: u64,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub detail: String,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {} is wrong at offset {}: {}", self.block, self.offset, self.detail)
    }
}

impl std::error::Error for Mismatch {}

impl<'a> Consumer<'a> {
    /// A reader of these blocks.
    pub fn new(pattern: &'a Pattern, reading: Reading, expected: &'a [Expected]) -> Self {
        Self { pattern, reading, expected, read: vec![0; expected.len()], crc: 0, wrong: None, miss: None }
    }

    /// How bytes are to be read.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// How long a block of the chain is; 0 if there is none.
    pub fn length(&self, index: usize) -> u32 {
        self.expected.get(index).map_or(0, |block| block.bytes)
    }

    /// Reads the next bytes of a block. They come in order; a whole block at once is one call.
    pub fn bytes(&mut self, index: usize, bytes: &[u8]) {
        let Some((block, offset)) = self.place(index, bytes.len()) else { return };
        match self.reading {
            Reading::Nothing => {}
            Reading::Sum => self.crc ^= crc32fast::hash(bytes),
            Reading::Verify => {
                if let Err(Wrong { offset: at, found, expected }) = self.pattern.check(block.number, offset, bytes) {
                    let detail = format!("{found:#04x} where {expected:#04x} was put");
                    self.note(block.number, at, detail);
                }
            }
        }
    }

    /// A whole block that was read elsewhere, every byte of it, into this CRC-32.
    pub fn summed(&mut self, index: usize, length: u32, crc32: u32) {
        let Some((block, offset)) = self.place(index, length as usize) else { return };
        if self.reading == Reading::Verify && offset == 0 {
            let expected = crc32fast::hash(&self.pattern.make(block.number, length as usize));
            if crc32 != expected {
                self.note(block.number, 0, format!("CRC-32 {crc32:08x} where {expected:08x} was put"));
            }
        }
        self.crc ^= crc32;
    }

    /// Why the chain ends before its last block, in the target's words. Saying so is optional.
    pub fn missed(&mut self, why: impl Into<String>) {
        self.miss.get_or_insert_with(|| why.into());
    }

    /// What [`Consumer::missed`] was told.
    pub fn take_miss(&mut self) -> Option<String> {
        self.miss.take()
    }

    /// How many blocks from the first one on were read completely, or what was wrong.
    pub fn finish(self) -> Result<usize, Mismatch> {
        std::hint::black_box(self.crc);
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let partial = self.read.iter().zip(self.expected).find(|(read, block)| **read != 0 && **read != block.bytes);
        if let Some((read, block)) = partial {
            let detail = format!("the block ends after {read} of {} bytes", block.bytes);
            return Err(Mismatch { block: block.number, offset: u64::from(*read), detail });
        }
        Ok(self.read.iter().take_while(|read| **read != 0).count())
    }

    /// The block, and how much of it was read before these bytes.
    fn place(&mut self, index: usize, length: usize) -> Option<(Expected, u64)> {
        let Some(block) = self.expected.get(index).copied() else {
            self.note(0, 0, format!("block {index} of a chain of {} was handed over", self.expected.len()));
            return None;
        };
        let before = self.read[index];
        let after = u64::from(before) + length as u64;
        if after > u64::from(block.bytes) {
            self.note(block.number, u64::from(before), format!("{after} bytes came of {}", block.bytes));
            return None;
        }
        self.read[index] = after as u32;
        Some((block, u64::from(before)))
    }

    /// The first thing that is wrong is what is told.
    fn note(&mut self, block: u64, offset: u64, detail: String) {
        self.wrong.get_or_insert(Mismatch { block, offset, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> [Expected; 2] {
        [Expected { number: 7, bytes: 10_000 }, Expected { number: 8, bytes: 5_000 }]
    }

    #[test]
    fn a_chain_that_is_read_completely_counts_its_blocks() {
        for reading in [Reading::Sum, Reading::Verify] {
            let (pattern, expected) = (Pattern::default(), expected());
            let mut consumer = Consumer::new(&pattern, reading, &expected);
            let block = pattern.make(7, 10_000);
            consumer.bytes(0, &block[..4_096]);
            consumer.bytes(0, &block[4_096..]);
            assert_eq!(consumer.finish(), Ok(1));
        }
    }

    #[test]
    fn a_wrong_byte_is_named_with_block_and_offset() {
        let (pattern, expected) = (Pattern::default(), expected());
        let mut consumer = Consumer::new(&pattern, Reading::Verify, &expected);
        let mut block = pattern.make(8, 5_000);
        block[4_321] ^= 1;
        consumer.bytes(1, &block[..3_000]);
        consumer.bytes(1, &block[3_000..]);
        let wrong = consumer.finish().expect_err("a byte is wrong");
        assert_eq!((wrong.block, wrong.offset), (8, 4_321));
    }

    #[test]
    fn a_block_read_in_part_or_twice_is_no_block() {
        let (pattern, expected) = (Pattern::default(), expected());
        let block = pattern.make(7, 10_000);
        let mut consumer = Consumer::new(&pattern, Reading::Sum, &expected);
        consumer.bytes(0, &block[1..]);
        assert!(consumer.finish().is_err());
        let mut consumer = Consumer::new(&pattern, Reading::Sum, &expected);
        consumer.bytes(0, &block);
        consumer.bytes(0, &block);
        assert!(consumer.finish().is_err());
    }

    #[test]
    fn a_sum_from_elsewhere_is_compared_with_the_pattern() {
        let (pattern, expected) = (Pattern::default(), expected());
        let right = crc32fast::hash(&pattern.make(7, 10_000));
        let mut consumer = Consumer::new(&pattern, Reading::Verify, &expected);
        consumer.summed(0, 10_000, right);
        assert_eq!(consumer.finish(), Ok(1));
        let mut consumer = Consumer::new(&pattern, Reading::Verify, &expected);
        consumer.summed(0, 10_000, right ^ 1);
        assert_eq!(consumer.finish().expect_err("another sum").block, 7);
    }
}
