//! Files as chains: a file is cut into blocks, and each block's key covers everything before it.
//!
//! `key(0) = BLAKE3-keyed(domain, bytes(0))`, `key(n) = BLAKE3-keyed(domain, key(n-1) | bytes(n))`: equal keys mean
//! equal prefixes, so two files with a common beginning share its blocks, as two prompts would.

use std::io::Read;

use bytes::Bytes;

/// One block of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) key: Bytes,
    pub(crate) parent: Option<Bytes>,
    pub(crate) bytes: Bytes,
}

/// Cuts a stream of bytes; only the chunk at hand is in memory.
#[derive(Debug)]
pub(crate) struct Chunks<R> {
    from: R,
    block_bytes: usize,
    last: Option<Bytes>,
    ended: bool,
}

impl<R: Read> Chunks<R> {
    pub(crate) fn new(from: R, block_bytes: u32) -> Self {
        Self { from, block_bytes: block_bytes as usize, last: None, ended: false }
    }

    fn read_chunk(&mut self) -> std::io::Result<Option<Chunk>> {
        let mut bytes = Vec::with_capacity(self.block_bytes);
        self.from.by_ref().take(self.block_bytes as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let key = chain_key(self.last.as_deref(), &bytes);
        let parent = self.last.replace(key.clone());
        Ok(Some(Chunk { key, parent, bytes: bytes.into() }))
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = std::io::Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let chunk = self.read_chunk().transpose();
        self.ended = !matches!(chunk, Some(Ok(_)));
        chunk
    }
}

fn chain_key(parent: Option<&[u8]>, bytes: &[u8]) -> Bytes {
    let mut hasher = blake3::Hasher::new_derive_key("kvtier file chain v1");
    hasher.update(parent.unwrap_or_default()).update(bytes);
    Bytes::copy_from_slice(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(bytes: &[u8], block_bytes: u32) -> Vec<Chunk> {
        Chunks::new(bytes, block_bytes).collect::<std::io::Result<_>>().expect("memory does not fail")
    }

    #[test]
    fn files_share_the_keys_of_their_common_beginning() {
        let (one, two) = (cut(b"aaaabbbbcc", 4), cut(b"aaaabbbbdd", 4));
        assert_eq!(one[..2], two[..2]);
        assert_ne!(one[2].key, two[2].key);
        assert_eq!(one[2].parent.as_ref(), Some(&one[1].key));
        assert_ne!(cut(b"aaaa", 4)[0].key, cut(b"bbbbaaaa", 4)[1].key, "a key covers what comes before");
    }

    #[test]
    fn an_empty_file_has_no_blocks() {
        assert_eq!(cut(b"", 4), []);
    }

    #[test]
    fn a_read_error_ends_the_chain() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::PermissionDenied.into())
            }
        }
        let mut chunks = Chunks::new(Broken, 4);
        assert!(chunks.next().expect("an error").is_err());
        assert!(chunks.next().is_none());
    }

    proptest! {
        #[test]
        fn the_chunks_of_a_file_are_the_file(bytes in prop::collection::vec(any::<u8>(), 0..5000), block_bytes in 1_u32..700) {
            let chunks = cut(&bytes, block_bytes);
            prop_assert_eq!(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect::<Vec<_>>(), bytes);
            prop_assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.bytes.len() == block_bytes as usize));
        }
    }
}
