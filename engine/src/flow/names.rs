//! Block ids of keys that were named lately, so that a worker who asks for a long chain again does not wait for a
//! thousand hashes (about 0.1 µs each; a hit costs a fifth).
//!
//! Direct-mapped: a key has one place, and the last one named there has it. Bounded, and never wrong: key and space are
//! compared whole.

use kvtier_identity::{BlockId, KEY_BYTES_MAX, KeyRun};

use super::spaces::Space;

/// Places; a power of two. About 3 MiB, taken when the first chain is named.
const PLACE_COUNT: usize = 1 << 15;

#[derive(Debug, Clone, Copy)]
struct Place {
    /// A space's number is never reused, so a dropped space's names are never met again.
    space: u32,
    /// 0: nobody.
    key_bytes: u32,
    key: [u8; KEY_BYTES_MAX],
    block: BlockId,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct NameCache {
    places: Vec<Place>,
}

impl NameCache {
    /// The block ids of a run of keys.
    pub(crate) fn block_ids(&mut self, space: &Space, keys: &KeyRun<'_>) -> Vec<BlockId> {
        if self.places.is_empty() {
            let nobody = Place { space: 0, key_bytes: 0, key: [0; KEY_BYTES_MAX], block: BlockId(0) };
            self.places = vec![nobody; PLACE_COUNT];
        }
        keys.iter().map(|key| self.block_id(space, key)).collect()
    }

    fn block_id(&mut self, space: &Space, key: &[u8]) -> BlockId {
        let number = space.record.number;
        let place = &mut self.places[place_of(number, key)];
        if place.space == number && place.key_bytes as usize == key.len() && place.key[..key.len()] == *key {
            return place.block;
        }
        let block = space.block_id_of(key);
        place.key[..key.len()].copy_from_slice(key);
        (place.space, place.key_bytes, place.block) = (number, key.len() as u32, block);
        block
    }
}

/// Mixes every byte of a key. Not secret: whoever aims keys at one place only makes them slow.
fn place_of(space: u32, key: &[u8]) -> usize {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let (words, rest) = key.as_chunks::<8>();
    let sum = words.iter().fold(u64::from(space), |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let sum = rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)));
    (sum.wrapping_mul(FACTOR) >> 32) as usize % PLACE_COUNT
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvtier_identity::{SpaceDescription, TenantSecret};

    use super::super::spaces::SpaceTable;
    use super::*;
    use crate::port::SpaceRecord;

    fn space(table: &mut SpaceTable, number: u32, model: &str) -> Space {
        let description = SpaceDescription::single_part("acme", model, 16, 4096);
        let digest = description.digest().expect("a good description");
        table.insert(SpaceRecord { number, name: model.into(), digest, description }, 0);
        table.find(&digest).expect("just inserted").clone()
    }

    #[test]
    fn a_cached_name_is_the_name() {
        let mut table = SpaceTable::new([7; 32], BTreeMap::new(), 1);
        let spaces = [space(&mut table, 1, "a"), space(&mut table, 2, "b")];
        let secret = TenantSecret::derive(&[7; 32], "acme");
        let mut cache = NameCache::default();
        // More keys than places, in two spaces, twice: hits, misses and displaced ones.
        let bytes: Vec<u8> = (0..40_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let keys = KeyRun::even(&bytes, 4).expect("keys of 4 bytes");
        for space in spaces.iter().chain(&spaces) {
            let ids = cache.block_ids(space, &keys);
            for (key, id) in keys.iter().zip(ids) {
                assert_eq!(id, secret.block_id_of(&space.record.digest, key));
            }
        }
    }

    #[test]
    fn keys_that_share_a_place_keep_their_names() {
        let mut table = SpaceTable::new([7; 32], BTreeMap::new(), 1);
        let space = space(&mut table, 1, "a");
        let mut cache = NameCache::default();
        // One key is the beginning of the other, with zeros where the cache has zeros.
        let short = KeyRun::uneven(b"ab", &[2]).expect("a key");
        let long = KeyRun::uneven(b"ab\0", &[3]).expect("a key");
        for _ in 0..2 {
            assert_ne!(cache.block_ids(&space, &short), cache.block_ids(&space, &long));
        }
    }
}
