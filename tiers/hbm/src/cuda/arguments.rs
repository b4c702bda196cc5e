//! Arguments of the kernels, laid out as `kernels/kernels.cu` has them.

use crate::checksum::{SPANS_MAX, Span};
use crate::layout::{BLOCKS_MAX, Direction, SURFACES_MAX, Shuffle, Tiling};

/// `Shuffle` of the kernels.
#[repr(C)]
pub(super) struct ShuffleArguments {
    tiling: Tiling,
    first_surface: u32,
    scatter: u32,
    strides: [u64; 3],
    run_bytes: u64,
    surface_bytes: u64,
    block_stride: u64,
    surfaces: [u64; SURFACES_MAX],
    canonical: [u64; BLOCKS_MAX],
    numbers: [u64; BLOCKS_MAX],
}

/// `Checksum` of the kernels.
#[repr(C)]
pub(super) struct ChecksumArguments {
    tables: u64,
    results: u64,
    spans: [u64; SPANS_MAX],
    bytes: [u32; SPANS_MAX],
}

const _: () = assert!(size_of::<ShuffleArguments>() <= 4096, "kernel arguments take at most 4096 bytes");
const _: () = assert!(size_of::<Tiling>() == 80, "the kernels' Tiling has 20 words");
const _: () = assert!(std::mem::offset_of!(ShuffleArguments, strides) == 88, "no hole before the strides");

impl ShuffleArguments {
    /// For a checked shuffle; `surfaces` and `canonical` are the addresses of its places.
    pub(super) fn new(shuffle: &Shuffle, tiling: Tiling, surfaces: &[u64], canonical: &[u64]) -> Self {
        let mut arguments = Self {
            tiling,
            first_surface: shuffle.first_surface,
            scatter: u32::from(shuffle.direction == Direction::Scatter),
            strides: shuffle.shape.strides,
            run_bytes: shuffle.shape.run_bytes,
            surface_bytes: shuffle.shape.surface_bytes,
            block_stride: shuffle.shape.block_stride,
            surfaces: [0; SURFACES_MAX],
            canonical: [0; BLOCKS_MAX],
            numbers: [0; BLOCKS_MAX],
        };
        arguments.surfaces[..surfaces.len()].copy_from_slice(surfaces);
        arguments.canonical[..canonical.len()].copy_from_slice(canonical);
        arguments.numbers.iter_mut().zip(&shuffle.blocks).for_each(|(number, block)| *number = block.number);
        arguments
    }
}

impl ChecksumArguments {
    /// For checked spans; `addresses` are those of their places.
    pub(super) fn new(tables: u64, results: u64, spans: &[Span], addresses: &[u64]) -> Self {
        let mut arguments = Self { tables, results, spans: [0; SPANS_MAX], bytes: [0; SPANS_MAX] };
        arguments.spans[..addresses.len()].copy_from_slice(addresses);
        arguments.bytes.iter_mut().zip(spans).for_each(|(bytes, span)| *bytes = span.bytes);
        arguments
    }
}
