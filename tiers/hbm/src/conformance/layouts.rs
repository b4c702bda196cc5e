//! Layouts as inference engines have them, and odder ones.

use super::Dice;
use crate::layout::{KvLayout, Surface};

/// A valid layout and the sizes of its memories: NHD or HND, K and V in one tensor, two planes or two tensors, layers in
/// one memory or many, padded or dense.
pub fn random_layout(dice: &mut Dice) -> (KvLayout, Vec<u64>) {
    let element_bytes = dice.pick(&[1, 2, 2, 4]);
    let head_elements = dice.pick(&[3, 8, 16, 64, 80, 128]);
    let (tokens, heads) = (dice.pick(&[1, 4, 8, 16, 32]), dice.pick(&[1, 2, 4, 8]));
    let surfaces_per_layer = dice.pick(&[1, 2]);
    let planes = if surfaces_per_layer == 2 { 1 } else { dice.pick(&[1, 2]) };
    let block_count = 3 + dice.below(6);
    let head_bytes = u64::from(head_elements * element_bytes);
    let page = head_bytes * u64::from(tokens * heads);
    let (token_stride, head_stride) = match dice.below(2) {
        0 => (head_bytes * u64::from(heads), head_bytes),
        _ => (head_bytes, head_bytes * u64::from(tokens)),
    };
    let padding = dice.pick(&[0, 0, 64, 512, u64::from(element_bytes)]);
    // K and V of a block side by side, or all K before all V.
    let (block_stride, plane_stride) = match dice.below(2) {
        0 => (page * u64::from(planes) + padding, page),
        _ => (page + padding, (page + padding) * block_count),
    };
    let surface_count = (1 + dice.below(5) as u32) * surfaces_per_layer;
    let reach = block_stride * (block_count - 1) + plane_stride * u64::from(planes - 1) + page;
    let shift = dice.pick(&[0, 256, 4096, u64::from(element_bytes)]);
    let room = (shift + reach).next_multiple_of(512);
    let apart = dice.below(2) == 0;
    let place = |number: u32| match apart {
        true => Surface { memory: number, offset: shift },
        false => Surface { memory: 0, offset: u64::from(number) * room + shift },
    };
    let layout = KvLayout {
        surfaces: (0..surface_count).map(place).collect(),
        surfaces_per_layer,
        planes,
        tokens,
        heads,
        head_elements,
        element_bytes,
        block_count,
        block_stride,
        plane_stride,
        token_stride,
        head_stride,
    };
    let bytes = if apart { vec![room; surface_count as usize] } else { vec![room * u64::from(surface_count)] };
    (layout, bytes)
}
