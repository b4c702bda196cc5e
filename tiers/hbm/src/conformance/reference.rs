//! Gather and scatter as the layout's words say, element run by element run: what the clever ways are compared with. Shares
//! nothing with them.

use crate::layout::KvLayout;

/// Visits each head of each token: its canonical offset, its memory and its offset there.
fn visit(layout: &KvLayout, number: u64, mut each: impl FnMut(usize, usize, usize, usize)) {
    let head_bytes = (layout.head_elements * layout.element_bytes) as usize;
    let mut canonical = 0;
    for surface in &layout.surfaces {
        for plane in 0..u64::from(layout.planes) {
            for token in 0..u64::from(layout.tokens) {
                for head in 0..u64::from(layout.heads) {
                    let at = surface.offset
                        + number * layout.block_stride
                        + plane * layout.plane_stride
                        + token * layout.token_stride
                        + head * layout.head_stride;
                    each(canonical, surface.memory as usize, at as usize, head_bytes);
                    canonical += head_bytes;
                }
            }
        }
    }
}

/// The canonical bytes of a block.
pub fn gather(layout: &KvLayout, memories: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut block = vec![0; layout.block_bytes() as usize];
    visit(layout, number, |canonical, memory, at, bytes| {
        block[canonical..canonical + bytes].copy_from_slice(&memories[memory][at..at + bytes]);
    });
    block
}

/// Puts the canonical bytes of a block into a worker's memory.
pub fn scatter(layout: &KvLayout, memories: &mut [Vec<u8>], number: u64, block: &[u8]) {
    visit(layout, number, |canonical, memory, at, bytes| {
        memories[memory][at..at + bytes].copy_from_slice(&block[canonical..canonical + bytes]);
    });
}
