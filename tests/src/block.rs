//! Blocks whose bytes follow from their keys.

use bytes::Bytes;

/// A block to put, and what a get must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its key.
    pub key: Bytes,
    /// Key of the block before it.
    pub parent: Option<Bytes>,
    /// Its bytes.
    pub payload: Bytes,
}

impl Block {
    /// A first block.
    pub fn root(key: &[u8], bytes: usize) -> Self {
        Self { key: Bytes::copy_from_slice(key), parent: None, payload: payload(key, bytes) }
    }

    /// The block after this one.
    pub fn child(&self, key: &[u8], bytes: usize) -> Self {
        Self { parent: Some(self.key.clone()), ..Self::root(key, bytes) }
    }

    /// A chain of `count` blocks, named after `name`.
    pub fn chain(name: &str, count: usize, bytes: usize) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(count);
        for index in 0..count {
            let key = format!("{name}/{index}");
            let block = Self::root(key.as_bytes(), bytes);
            let parent = chain.last().map(|last| last.key.clone());
            chain.push(Self { parent, ..block });
        }
        chain
    }

    /// CRC32 of its bytes.
    pub fn crc(&self) -> u32 {
        crc32fast::hash(&self.payload)
    }
}

/// The keys of a chain.
pub fn keys(chain: &[Block]) -> Vec<Bytes> {
    chain.iter().map(|block| block.key.clone()).collect()
}

/// `bytes` bytes that belong to `key` and to no other.
pub fn payload(key: &[u8], bytes: usize) -> Bytes {
    let mut state = key.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    });
    let mut payload = Vec::with_capacity(bytes + 8);
    while payload.len() < bytes {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        payload.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    payload.truncate(bytes);
    payload.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_follows_from_its_key_alone() {
        assert_eq!(payload(b"a", 1000), payload(b"a", 1000));
        assert_ne!(payload(b"a", 1000), payload(b"b", 1000));
        assert_eq!(payload(b"a", 1000)[..13], payload(b"a", 13)[..]);
    }
}
