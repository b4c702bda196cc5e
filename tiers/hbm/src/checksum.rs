//! CRC32 (IEEE, the same as crc32fast) as a GPU computes it, and the same arithmetic on the CPU.
//!
//! CRC without its initial value and final complement is linear, so a span can be cut up: the *raw* CRC of the whole is the
//! XOR of the raw CRC of each piece, moved past the bytes behind it. The kernel does exactly that:
//!
//! ```text
//! span    | row 0: 32 x 16 bytes | row 1 | ...      | tail < 512 bytes |
//! warp      32 rows; lane l takes bytes 16 l .. 16 l + 16 of each row:  state = past_row(state) ^ raw16(bytes)
//! result    ^= advance(state, bytes behind the lane's last)
//! ```
//!
//! `past_row` and `raw16` are table look-ups: the [`tables`] are computed here and given to the kernel.

use crate::gpu::Place;

/// Most spans of one call.
pub const SPANS_MAX: usize = 128;
/// Alignment of a span's first byte.
pub const SPAN_ALIGNMENT: u64 = 16;
/// Bytes a warp takes per step.
pub const ROW_BYTES: u32 = 512;
/// Rows of one warp's piece.
pub const PIECE_ROWS: u32 = 32;
/// 16 tables of `raw16`, 4 of `past_row`, then the powers.
pub const TABLE_WORDS: usize = 20 * 256 + POWERS;
const POWERS: usize = 32;
const POLYNOMIAL: u32 = 0xedb8_8320;
const ONE: u32 = 1 << 31;

/// Bytes to be checksummed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub at: Place,
    /// How many; at least 1.
    pub bytes: u32,
}

/// The CRC32 of a span of `bytes` bytes, from its raw CRC.
pub fn finish(raw: u32, bytes: u32) -> u32 {
    !(raw ^ advance(u32::MAX, bytes, &powers()))
}

/// What the kernel looks up.
pub fn tables() -> Vec<u32> {
    let powers = powers();
    let mut words = Vec::with_capacity(TABLE_WORDS);
    for place in 0..16 {
        words.extend((0..=255).map(|byte| advance(raw_byte(byte), 15 - place, &powers)));
    }
    for place in 0..4 {
        words.extend((0..=255u32).map(|byte| advance(byte << (8 * place), ROW_BYTES, &powers)));
    }
    words.extend(powers);
    words
}

/// The raw CRC of `bytes` by the kernel's arithmetic, warp by warp and lane by lane.
pub fn raw_by_rows(bytes: &[u8], tables: &[u32]) -> u32 {
    let rows = bytes.len() as u32 / ROW_BYTES;
    let pieces = rows.div_ceil(PIECE_ROWS);
    let powers = tables[20 * 256..].first_chunk().expect("the powers end the tables");
    let lanes = (0..pieces).flat_map(|piece| (0..32).map(move |lane| (piece, lane)));
    let raw = lanes.fold(0, |raw, (piece, lane)| raw ^ lane_of(bytes, piece, lane, tables, powers));
    let tail = &bytes[(rows * ROW_BYTES) as usize..];
    raw ^ tail.iter().fold(0, |state, byte| (state >> 8) ^ raw_byte((state ^ u32::from(*byte)) & 255))
}

fn lane_of(bytes: &[u8], piece: u32, lane: u32, tables: &[u32], powers: &[u32; POWERS]) -> u32 {
    let length = bytes.len() as u32;
    let first = piece * PIECE_ROWS;
    let end = (first + PIECE_ROWS).min(length / ROW_BYTES);
    let mut state = 0u32;
    for row in first..end {
        let at = (row * ROW_BYTES + lane * 16) as usize;
        let past =
            (0..4).fold(0, |sum, place| sum ^ tables[(16 + place) * 256 + (state >> (8 * place) & 255) as usize]);
        let raw = (0..16).fold(0, |sum, place| sum ^ tables[place * 256 + usize::from(bytes[at + place])]);
        state = past ^ raw;
    }
    advance(state, length - ((end - 1) * ROW_BYTES + lane * 16 + 16), powers)
}

/// The raw CRC of one byte.
fn raw_byte(byte: u32) -> u32 {
    (0..8).fold(byte, |state, _| if state & 1 == 1 { (state >> 1) ^ POLYNOMIAL } else { state >> 1 })
}

/// The raw CRC after so many zero bytes more.
fn advance(state: u32, bytes: u32, powers: &[u32; POWERS]) -> u32 {
    (0..32).filter(|bit| bytes >> bit & 1 == 1).fold(state, |state, bit| multiply(state, powers[bit]))
}

/// x^(8 · 2^i) modulo the polynomial.
fn powers() -> [u32; POWERS] {
    let mut power = (0..8).fold(ONE, |power, _| multiply(power, ONE >> 1));
    std::array::from_fn(|_| {
        let squared = multiply(power, power);
        std::mem::replace(&mut power, squared)
    })
}

/// Product of two polynomials modulo the CRC's, lowest power in the highest bit.
fn multiply(left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if left >> bit & 1 == 1 {
            product ^= right;
        }
        right = if right & 1 == 1 { (right >> 1) ^ POLYNOMIAL } else { right >> 1 };
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_arithmetic_is_crc32_at_every_edge_of_rows_and_pieces() {
        let tables = tables();
        assert_eq!(tables.len(), TABLE_WORDS);
        let bytes: Vec<u8> = (0..70_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in [1, 15, 16, 511, 512, 513, 1024, 16_383, 16_384, 16_385, 16_896, 32_768, 70_000] {
            let raw = raw_by_rows(&bytes[..length], &tables);
            assert_eq!(finish(raw, length as u32), crc32fast::hash(&bytes[..length]), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn the_kernels_arithmetic_is_crc32(bytes in proptest::collection::vec(any::<u8>(), 1..5_000)) {
            let raw = raw_by_rows(&bytes, &tables());
            prop_assert_eq!(finish(raw, bytes.len() as u32), crc32fast::hash(&bytes));
        }
    }
}
