//! Which blocks a chain has: a function of its number, so that nothing is kept.
//!
//! ```text
//!   chain c:  p p p p │ c0 c1 c2 …      p: the blocks of prefix (c mod prefixes), shared with other chains
//!   number:   job (6 bits) │ shared? (1 bit) │ chain or prefix (40 bits) │ place in it (17 bits)
//! ```

use bytes::Bytes;

use crate::job::Job;
use crate::job::spread::{ChainLengths, Sizes};
use crate::pattern::{key, mix};
use crate::target::consumer::Expected;

const PLACE_BITS: u32 = 17;
const CHAIN_BITS: u32 = 40;
/// Jobs of a run; their blocks are apart.
pub const JOBS_MAX: usize = 64;
/// Chains of a working set.
const WORKING_SET_MAX: u64 = 1 << 32;

/// The chains of a job.
#[derive(Debug, Clone)]
pub struct Chains {
    job: u64,
    /// Keeps the keys of jobs apart whose blocks would differ.
    space: u64,
    lengths: ChainLengths,
    sizes: Sizes,
    prefixes: u64,
    prefix_blocks: u32,
    count: u64,
}

impl Chains {
    /// Those of the job at this place of its run.
    pub fn of(job: &Job, place: usize) -> Self {
        let bytes = (job.chain.mean() * job.sizes.mean()).max(1.0);
        let (sizes, chain) = (job.sizes.show(), job.chain.show());
        let shape = format!("{sizes} {chain} {} {}", job.prefixes, job.prefix_blocks);
        Self {
            job: place as u64,
            space: mix(job.randseed ^ u64::from(crc32fast::hash(shape.as_bytes()))),
            lengths: job.chain,
            sizes: job.sizes.clone(),
            prefixes: u64::from(job.prefixes),
            prefix_blocks: job.prefix_blocks,
            count: ((job.size as f64 / bytes).round() as u64).clamp(1, WORKING_SET_MAX),
        }
    }

    /// Chains of the working set; fresh ones have numbers from here on.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The blocks of a chain.
    pub fn blocks(&self, chain: u64) -> Vec<Expected> {
        let length = self.lengths.of_chain(chain ^ self.space);
        let shared = self.prefix_blocks.min(length - 1);
        (0..length).map(|place| self.block(chain, place, place < shared)).collect()
    }

    /// A block with a number of somebody else's: a trace's.
    pub fn numbered(&self, block: u64) -> Expected {
        let number = (self.job << (PLACE_BITS + CHAIN_BITS + 1)) | block;
        Expected { number, bytes: self.sizes.of_block(number) }
    }

    /// Its key.
    pub fn key(&self, block: &Expected) -> Bytes {
        key(self.space, block.number)
    }

    fn block(&self, chain: u64, place: u32, shared: bool) -> Expected {
        let family = if shared { mix(chain) % self.prefixes } else { chain };
        let above = (self.job << 1) | u64::from(shared);
        let number = (((above << CHAIN_BITS) | family) << PLACE_BITS) | u64::from(place);
        Expected { number, bytes: self.sizes.of_block(number) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn job() -> Job {
        let chain = ChainLengths::Uniform(2, 20);
        Job { chain, prefixes: 3, prefix_blocks: 4, size: 64 << 20, sizes: Sizes::of(64 << 10), ..Job::default() }
    }

    #[test]
    fn a_chain_is_always_the_same_and_shares_only_its_prefix() {
        let chains = Chains::of(&job(), 0);
        let (one, same) = (chains.blocks(5), chains.blocks(5));
        assert_eq!(one, same);
        let mut first_blocks = BTreeSet::new();
        let mut last_blocks = BTreeSet::new();
        for chain in 0..chains.count() {
            let blocks = chains.blocks(chain);
            first_blocks.insert(blocks[0].number);
            assert!(last_blocks.insert(blocks[blocks.len() - 1].number), "the last block is a chain's own");
        }
        assert_eq!(first_blocks.len(), 3, "there are three prefixes");
    }

    #[test]
    fn the_working_set_has_about_its_size() {
        let chains = Chains::of(&Job { prefix_blocks: 0, ..job() }, 0);
        let bytes: u64 =
            (0..chains.count()).flat_map(|chain| chains.blocks(chain)).map(|block| u64::from(block.bytes)).sum();
        assert!((bytes as f64 / f64::from(64 << 20) - 1.0).abs() < 0.25, "{bytes}");
    }

    #[test]
    fn jobs_and_other_shapes_have_no_key_in_common() {
        let key_of = |job: &Job, place| {
            let chains = Chains::of(job, place);
            chains.key(&chains.blocks(7)[0])
        };
        let keys = [key_of(&job(), 0), key_of(&job(), 1), key_of(&Job { sizes: Sizes::of(4096), ..job() }, 0)];
        assert_eq!(BTreeSet::from(keys).len(), 3);
    }
}
