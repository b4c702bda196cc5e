//! How a worker's KV memory is laid out, and how blocks move between it and their canonical bytes.
//!
//! The canonical bytes of a block are dense and the same for every worker:
//!
//! ```text
//! layer 0 | K: token 0 | head 0 | head 1 | ...   token 1 | ...    V: ...    layer 1 | ...
//! ```
//!
//! A worker keeps the same bytes elsewhere: layer by layer in separate tensors, K and V in one tensor, in two planes or in
//! two tensors, tokens before heads (NHD) or heads before tokens (HND). [`KvLayout`] describes that with strides; [`Shape`]
//! is the same with dimensions that lie dense merged, so that copies are as long as they can be; [`Shuffle`] is one move;
//! [`Tiling`] cuts it up for a kernel. Kernel, batched copies and the simulated device all follow
//! [`Tiling::decode`] or [`Shuffle::runs`].

mod divisor;
mod problem;
mod shuffle;
mod tiling;

pub use divisor::Divisor;
pub use problem::LayoutProblem;
pub use shuffle::{BLOCKS_MAX, Direction, SURFACES_MAX, Shuffle, ShuffleBlock};
pub use tiling::{Tile, Tiling};

/// Where one layer's bytes begin, or, when K and V are separate tensors, one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surface {
    /// Which of the imported memories.
    pub memory: u32,
    /// First byte of block 0 in it.
    pub offset: u64,
}

/// A worker's KV memory. All strides in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    /// One per layer, or K and V of each layer in turn; 1 to [`KvLayout::SURFACES_MAX`].
    pub surfaces: Vec<Surface>,
    /// 1, or 2 when K and V are separate tensors.
    pub surfaces_per_layer: u32,
    /// Planes inside a surface: 2 when K and V share a tensor, else 1.
    pub planes: u32,
    /// Tokens of a block.
    pub tokens: u32,
    /// KV heads of this rank.
    pub heads: u32,
    /// Elements of one head of one token.
    pub head_elements: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element_bytes: u32,
    /// Blocks the memory holds.
    pub block_count: u64,
    /// From a block to the next.
    pub block_stride: u64,
    /// From K to V; not looked at with one plane.
    pub plane_stride: u64,
    /// From a token to the next.
    pub token_stride: u64,
    /// From a head to the next.
    pub head_stride: u64,
}

impl KvLayout {
    /// Most surfaces: 1,024 layers with K and V apart.
    pub const SURFACES_MAX: usize = 2048;

    /// Canonical bytes of one surface of a block.
    pub fn surface_bytes(&self) -> u64 {
        u64::from(self.planes) * u64::from(self.tokens) * u64::from(self.heads) * self.head_bytes()
    }

    /// Canonical bytes of a block.
    pub fn block_bytes(&self) -> u64 {
        self.surface_bytes() * self.surfaces.len() as u64
    }

    /// Layers.
    pub fn layer_count(&self) -> u32 {
        self.surfaces.len() as u32 / self.surfaces_per_layer.max(1)
    }

    fn head_bytes(&self) -> u64 {
        u64::from(self.head_elements) * u64::from(self.element_bytes)
    }

    /// Bytes from the beginning of block 0 of a surface to the end of the last block.
    fn surface_reach(&self) -> Option<u64> {
        let last = |count: u64, stride: u64| count.checked_sub(1)?.checked_mul(stride);
        [
            last(self.block_count, self.block_stride)?,
            last(self.planes.into(), self.plane_stride)?,
            last(self.tokens.into(), self.token_stride)?,
            last(self.heads.into(), self.head_stride)?,
        ]
        .into_iter()
        .try_fold(self.head_bytes(), u64::checked_add)
    }

    /// The dimensions of one surface of one block, with what lies dense merged.
    pub fn shape(&self) -> Shape {
        let mut dimensions =
            [(self.planes, self.plane_stride), (self.tokens, self.token_stride), (self.heads, self.head_stride)];
        let mut run_bytes = self.head_bytes();
        // Innermost first: a dimension whose stride is the run's length only makes the run longer.
        for at in (0..3).rev() {
            let (count, stride) = dimensions[at];
            if count > 1 && stride != run_bytes {
                break;
            }
            run_bytes *= u64::from(count);
            dimensions[at] = (1, 0);
        }
        for at in (0..2).rev() {
            let ((outer, outer_stride), (inner, inner_stride)) = (dimensions[at], dimensions[at + 1]);
            if outer > 1 && inner > 1 && outer_stride == u64::from(inner) * inner_stride {
                dimensions[at + 1] = (outer * inner, inner_stride);
                dimensions[at] = (1, 0);
            }
        }
        let stride_of = |(count, stride): (u32, u64)| if count > 1 { stride } else { 0 };
        Shape {
            counts: dimensions.map(|(count, _)| count),
            strides: dimensions.map(stride_of),
            run_bytes,
            surface_bytes: self.surface_bytes(),
            block_stride: self.block_stride,
        }
    }
}

/// One surface of one block as runs of contiguous bytes: three dimensions, outermost first. In canonical order the runs lie
/// one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many.
    pub counts: [u32; 3],
    /// How far apart in the worker's memory; 0 where there is one.
    pub strides: [u64; 3],
    /// Bytes of a run.
    pub run_bytes: u64,
    /// Bytes of all runs.
    pub surface_bytes: u64,
    /// From a block to the next.
    pub block_stride: u64,
}

impl Shape {
    /// Runs of one surface of one block.
    pub fn run_count(&self) -> u32 {
        self.counts.iter().product()
    }
}
