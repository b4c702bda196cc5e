//! One gather or scatter.

use super::Shape;
use crate::gpu::{GpuError, Place, Run};

/// Most blocks of one call: they travel as arguments of the kernel.
pub const BLOCKS_MAX: usize = 128;
/// Most surfaces of one call.
pub const SURFACES_MAX: usize = 128;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the worker's memory to canonical bytes.
    Gather,
    /// From canonical bytes to the worker's memory.
    Scatter,
}

/// One block of a shuffle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShuffleBlock {
    /// First canonical byte of the whole block.
    pub canonical: Place,
    /// Its number in the worker's memory.
    pub number: u64,
}

/// A move of some surfaces of some blocks between a worker's memory and canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shuffle {
    /// Which way.
    pub direction: Direction,
    /// Dimensions of each.
    pub shape: Shape,
    /// Where block 0 of each surface begins; at most [`SURFACES_MAX`].
    pub surfaces: Vec<Place>,
    /// Number of the first of them among all of the layout: where it lies in the canonical bytes.
    pub first_surface: u32,
    /// The blocks; at most [`BLOCKS_MAX`].
    pub blocks: Vec<ShuffleBlock>,
}

impl Shuffle {
    /// Canonical bytes that move.
    pub fn bytes(&self) -> u64 {
        self.shape.surface_bytes * (self.surfaces.len() * self.blocks.len()) as u64
    }

    /// Contiguous runs of bytes that move.
    pub fn run_count(&self) -> u64 {
        u64::from(self.shape.run_count()) * (self.surfaces.len() * self.blocks.len()) as u64
    }

    /// Refuses what does not fit one call of a kernel.
    pub fn check(&self) -> Result<(), GpuError> {
        let (blocks, surfaces) = (self.blocks.len(), self.surfaces.len());
        if blocks > BLOCKS_MAX || surfaces > SURFACES_MAX {
            let text = format!("{blocks} blocks and {surfaces} surfaces do not fit one call of {BLOCKS_MAX} each");
            return Err(GpuError::Invalid(text));
        }
        if self.bytes() >= 1 << 31 {
            return Err(GpuError::Invalid(format!("{} bytes are too many for one call; split it", self.bytes())));
        }
        Ok(())
    }

    /// First and last touched byte of each memory range, canonical and worker's, for checks of bounds.
    pub fn ranges(&self) -> impl Iterator<Item = (Place, u64)> + '_ {
        let shape = self.shape;
        let skipped = u64::from(self.first_surface) * shape.surface_bytes;
        let dense = shape.surface_bytes * self.surfaces.len() as u64;
        let last = |at: usize| u64::from(shape.counts[at].saturating_sub(1)).saturating_mul(shape.strides[at]);
        let reach = shape.run_bytes.saturating_add(last(0)).saturating_add(last(1)).saturating_add(last(2));
        let canonical = self.blocks.iter().map(move |block| (block.canonical.after(skipped), dense));
        let worker = self.surfaces.iter().flat_map(move |surface| {
            let place = move |block: &ShuffleBlock| surface.after(block.number.saturating_mul(shape.block_stride));
            self.blocks.iter().map(move |block| (place(block), reach))
        });
        canonical.chain(worker)
    }

    /// The same as contiguous copies, block by block, surface by surface, in canonical order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let shape = self.shape;
        let [outer, middle, inner] = shape.counts;
        self.blocks.iter().flat_map(move |block| {
            self.surfaces.iter().enumerate().flat_map(move |(number, surface)| {
                let surface_at = (u64::from(self.first_surface) + number as u64) * shape.surface_bytes;
                let worker = surface.after(block.number * shape.block_stride);
                let grid =
                    (0..outer).flat_map(move |a| (0..middle).flat_map(move |b| (0..inner).map(move |c| [a, b, c])));
                grid.enumerate().map(move |(run, at)| {
                    let away: u64 = at.iter().zip(shape.strides).map(|(at, stride)| u64::from(*at) * stride).sum();
                    let canonical = block.canonical.after(surface_at + run as u64 * shape.run_bytes);
                    self.run(canonical, worker.after(away))
                })
            })
        })
    }

    fn run(&self, canonical: Place, worker: Place) -> Run {
        let bytes = self.shape.run_bytes;
        match self.direction {
            Direction::Gather => Run { from: worker, to: canonical, bytes },
            Direction::Scatter => Run { from: canonical, to: worker, bytes },
        }
    }
}
