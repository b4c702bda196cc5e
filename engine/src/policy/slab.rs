//! A growing array in fixed chunks.
//!
//! A `Vec` of ten million entries would double, and for a moment hold its bytes twice. A slab grows by one chunk, never
//! moves what it holds, and wastes less than one chunk.

use std::ops::{Index, IndexMut};

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Elements by `u32` index, in boxed chunks of 4,096.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[T; CHUNK]>>,
    blank: T,
}

impl<T: Clone> Slab<T> {
    /// An empty slab whose new elements are copies of `blank`.
    pub(crate) fn new(blank: T) -> Self {
        Self { chunks: Vec::new(), blank }
    }

    /// Makes every index below `count` valid.
    pub(crate) fn reach(&mut self, count: u32) {
        while self.capacity() < count {
            let chunk = vec![self.blank.clone(); CHUNK].into_boxed_slice();
            self.chunks.push(chunk.try_into().ok().expect("the chunk was made with CHUNK elements"));
        }
    }

    /// How many indexes are valid.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).expect("indexes have 32 bits")
    }

    /// Bytes of RAM.
    pub(crate) fn bytes(&self) -> u64 {
        let chunks = self.chunks.len() * CHUNK * size_of::<T>();
        (chunks + self.chunks.capacity() * size_of::<usize>()) as u64
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_keeps_what_it_holds_when_it_grows() {
        let mut slab = Slab::new(0u64);
        slab.reach(1);
        slab[0] = 7;
        slab.reach(10_000);
        slab[9_999] = 8;
        assert_eq!((slab[0], slab[9_999], slab[5_000]), (7, 8, 0));
        assert_eq!(slab.capacity(), 3 * CHUNK as u32);
        assert!(slab.bytes() >= 3 * 4096 * 8);
    }
}
