//! Maps keyed by small numbers, hashed alike in every process (INV-9).

use std::hash::{BuildHasherDefault, Hasher};

/// For dense numbers that nobody outside can choose: neighbours stay neighbours, so that a run of blocks touches a run
/// of buckets; the high bits, which tell the entries of a bucket group apart, are mixed.
#[derive(Default, Clone, Copy)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57 << 57)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(3) ^ number;
    }
}

pub(super) type NumberMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<NumberHasher>>;
pub(super) type NumberSet<K> = hashbrown::HashSet<K, BuildHasherDefault<NumberHasher>>;
