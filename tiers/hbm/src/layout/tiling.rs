//! A shuffle cut into tiles, each the work of one group of a kernel's lanes.
//!
//! ```text
//! tile number = (((block · surfaces + surface) · n0 + i0) · n1 + i1) · n2 + i2) · tiles per run + part of the run
//! ```
//!
//! The kernel in `kernels/kernels.cu` decodes a tile's number with the same divisors in the same order as
//! [`Tiling::decode`]; the simulated device runs this one.

use super::{Divisor, Shuffle};

/// Most units of a tile: 16 steps of a warp.
const TILE_UNITS_MAX: u32 = 512;
const WARP_LANES: u32 = 32;

/// How a kernel walks over a shuffle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Tiling {
    /// Bytes of one access: 16, 4 or 1.
    pub unit_bytes: u32,
    /// Units of a run.
    pub run_units: u32,
    /// Units of a tile, but for the last of a run.
    pub tile_units: u32,
    /// Lanes that share a tile, as a power of two.
    pub lanes_log2: u32,
    /// All tiles.
    pub tile_count: u32,
    /// Tiles of a run.
    pub tiles_per_run: u32,
    /// Innermost dimension.
    pub count2: u32,
    /// Middle dimension.
    pub count1: u32,
    /// Outermost dimension.
    pub count0: u32,
    /// Surfaces.
    pub surface_count: u32,
    /// Divisors, in the order in which they are used.
    pub by_tiles_per_run: Divisor,
    /// By `count2`.
    pub by_count2: Divisor,
    /// By `count1`.
    pub by_count1: Divisor,
    /// By `count0`.
    pub by_count0: Divisor,
    /// By `surface_count`.
    pub by_surface_count: Divisor,
}

/// What one group of lanes copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Place of the block in the shuffle.
    pub block: u32,
    /// Place of the surface in the shuffle.
    pub surface: u32,
    /// Bytes from the block's place in the surface.
    pub worker_offset: u64,
    /// Bytes from the block's first canonical byte.
    pub canonical_offset: u64,
    /// Units to copy.
    pub units: u32,
}

impl Tiling {
    /// For a shuffle that passed [`Shuffle::check`] and moves something; `alignment` is that of the memories themselves.
    pub fn new(shuffle: &Shuffle, alignment: u64) -> Self {
        let shape = &shuffle.shape;
        let unit_bytes = unit_bytes(shuffle, alignment);
        let run_units = u32::try_from(shape.run_bytes / u64::from(unit_bytes)).expect("a call moves less than 2 GiB");
        let tile_units = run_units.min(TILE_UNITS_MAX);
        let tiles_per_run = run_units.div_ceil(tile_units);
        let [count0, count1, count2] = shape.counts;
        let surface_count = u32::try_from(shuffle.surfaces.len()).expect("a call has few surfaces");
        let tile_count = shuffle.run_count() * u64::from(tiles_per_run);
        Self {
            unit_bytes,
            run_units,
            tile_units,
            lanes_log2: tile_units.min(WARP_LANES).next_power_of_two().trailing_zeros(),
            tile_count: u32::try_from(tile_count).expect("there are fewer tiles than bytes"),
            tiles_per_run,
            count2,
            count1,
            count0,
            surface_count,
            by_tiles_per_run: Divisor::new(tiles_per_run),
            by_count2: Divisor::new(count2),
            by_count1: Divisor::new(count1),
            by_count0: Divisor::new(count0),
            by_surface_count: Divisor::new(surface_count),
        }
    }

    /// What the tile of that number is.
    pub fn decode(&self, tile: u32, shuffle: &Shuffle) -> Tile {
        let split = |number: u32, divisor: Divisor, count: u32| {
            let quotient = divisor.divide(number);
            (quotient, number - quotient * count)
        };
        let (run, part) = split(tile, self.by_tiles_per_run, self.tiles_per_run);
        let (rest, at2) = split(run, self.by_count2, self.count2);
        let (rest, at1) = split(rest, self.by_count1, self.count1);
        let (rest, at0) = split(rest, self.by_count0, self.count0);
        let (block, surface) = split(rest, self.by_surface_count, self.surface_count);
        let shape = &shuffle.shape;
        let first_unit = part * self.tile_units;
        let inside = u64::from(first_unit) * u64::from(self.unit_bytes);
        let away = [at0, at1, at2].iter().zip(shape.strides).map(|(at, stride)| u64::from(*at) * stride).sum::<u64>();
        let run_of_surface = (at0 * self.count1 + at1) * self.count2 + at2;
        Tile {
            block,
            surface,
            worker_offset: away + inside,
            canonical_offset: u64::from(shuffle.first_surface + surface) * shape.surface_bytes
                + u64::from(run_of_surface) * shape.run_bytes
                + inside,
            units: (self.run_units - first_unit).min(self.tile_units),
        }
    }
}

/// The widest access every address of the shuffle is aligned to.
fn unit_bytes(shuffle: &Shuffle, alignment: u64) -> u32 {
    let shape = &shuffle.shape;
    let places = shuffle.surfaces.iter().chain(shuffle.blocks.iter().map(|block| &block.canonical));
    let bits = places.fold(alignment | shape.run_bytes | shape.surface_bytes | shape.block_stride, |bits, place| {
        bits | place.offset
    });
    let bits = shape.strides.iter().fold(bits, |bits, stride| bits | stride);
    if bits.is_multiple_of(16) {
        16
    } else if bits.is_multiple_of(4) {
        4
    } else {
        1
    }
}
