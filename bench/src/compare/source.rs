//! Payloads of a run: made once, before any clock, and the same memory for every contestant.

use bytes::Bytes;

use super::Failure;
use crate::pattern::Pattern;
use crate::target::files::{ALIGNMENT, Buffer};

/// Blocks whose bytes differ, in one piece of memory, each aligned as O_DIRECT wants it.
pub(super) struct Source {
    pub(super) pattern: Pattern,
    blocks: Vec<Bytes>,
    block_bytes: u32,
}

impl Source {
    pub(super) fn new(block_bytes: u32, run_bytes: u64) -> Result<Self, Failure> {
        let each = block_bytes as usize;
        if !each.is_multiple_of(ALIGNMENT) || each == 0 {
            return Err(format!("blocks of {each} bytes: O_DIRECT needs multiples of {ALIGNMENT}").into());
        }
        let count = usize::try_from(run_bytes)? / each;
        let (pattern, mut buffer) = (Pattern::default(), Buffer::new(count * each));
        for (number, block) in buffer.bytes_mut().chunks_mut(each).enumerate() {
            pattern.fill(number as u64, block);
        }
        let all = buffer.freeze();
        let blocks = (0..count).map(|number| all.slice(number * each..(number + 1) * each)).collect();
        Ok(Self { pattern, blocks, block_bytes })
    }

    pub(super) fn block(&self, number: usize) -> Bytes {
        self.blocks[number].clone()
    }

    pub(super) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(self.block_bytes)
    }

    /// Numbers of the blocks of one of several clients.
    pub(super) fn share(&self, client: usize, clients: usize) -> std::ops::Range<usize> {
        let count = self.blocks.len();
        count * client / clients..count * (client + 1) / clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_share_all_blocks_and_every_block_is_aligned() {
        let source = Source::new(4096, 10 * 4096).expect("10 blocks");
        let shares: Vec<_> = (0..4).flat_map(|client| source.share(client, 4)).collect();
        assert_eq!(shares, (0..10).collect::<Vec<_>>());
        assert!((0..10).all(|number| source.block(number).as_ptr().align_offset(ALIGNMENT) == 0));
        assert!(Source::new(1000, 1 << 20).is_err());
    }
}
