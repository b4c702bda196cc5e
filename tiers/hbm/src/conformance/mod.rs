//! What every implementation of the [`Gpu`](crate::gpu::Gpu) port must do, real or simulated: moves are byte-exact for any
//! layout, neighbours stay as they were, checksums are CRC32.
//!
//! [`CHECKS`] run on a [`Ground`]; each panics with what was wrong. The tier above the port is checked by the suite of the
//! engine's `Tier` port, which every tier runs.

mod layouts;
mod moves;
mod reference;
mod shuttle;

use std::sync::Arc;

pub use layouts::random_layout;
pub use reference::{gather, scatter};
pub use shuttle::Shuttle;

use kvtier_engine::port::{BoxFuture, Memory};

use crate::gpu::Gpu;
use crate::tier::HbmTier;

/// What the checks work with: a GPU, a tier on it alone with a pool of at least 16 MiB, and the host memory it has
/// registered as arena 0, of at least 16 MiB.
#[derive(Clone)]
pub struct Ground {
    /// The GPU.
    pub gpu: Arc<dyn Gpu>,
    /// The tier.
    pub tier: HbmTier,
    /// The host memory.
    pub memory: Arc<dyn Memory>,
    /// What the checks make up follows from it.
    pub seed: u64,
}

/// A named check.
pub type Check = (&'static str, fn(Ground) -> BoxFuture<()>);

/// All checks.
pub const CHECKS: &[Check] = &[
    ("copies_between_all_kinds_of_memory_are_exact", |ground| Box::pin(moves::copies_are_exact(ground))),
    ("checksums_are_crc32_at_every_edge", |ground| Box::pin(moves::checksums_are_crc32(ground))),
    ("twenty_random_layouts_move_byte_for_byte", |ground| Box::pin(moves::random_layouts_move(ground))),
    ("ranges_of_layers_arrive_in_the_order_asked_for", |ground| Box::pin(moves::layers_arrive_in_order(ground))),
    ("a_block_that_does_not_verify_is_not_loaded", |ground| Box::pin(moves::corrupt_blocks_are_not_loaded(ground))),
    ("checksums_on_all_lanes_at_once_are_crc32", |ground| Box::pin(moves::lanes_do_not_disturb_each_other(ground))),
];

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| {
            self.below(2);
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
        });
        let mut bytes: Vec<u8> = words.collect();
        bytes.truncate(count);
        bytes
    }
}
