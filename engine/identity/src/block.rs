//! The name of a block on every tier: 128 bits that nobody without the tenant's secret can aim.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{KEY_BYTES_MAX, Key, SpaceDigest};

/// 128 bits of keyed BLAKE3 over (space digest, key), keyed with the tenant's secret.
///
/// Uniformly distributed, so tables may use its low bits as the hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockId(pub u128);

/// What makes one tenant's block ids unguessable to the others. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct TenantSecret([u8; 32]);

const DOMAIN: &[u8] = b"kvtier block id v1\0";

impl TenantSecret {
    /// Takes 32 bytes from a cryptographic source.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives the secret of one tenant from a node's root secret.
    pub fn derive(root: &[u8; 32], tenant: &str) -> Self {
        Self(
            blake3::Hasher::new_keyed(root)
                .update(b"kvtier tenant secret v1\0")
                .update(tenant.as_bytes())
                .finalize()
                .into(),
        )
    }

    /// Names the block with this key in this space.
    pub fn block_id(&self, space: &SpaceDigest, key: &Key) -> BlockId {
        self.block_id_of(space, key.as_bytes())
    }

    /// The same for a key that was checked elsewhere ([`crate::KeyRun`]). Panics if it is longer than a key can be.
    ///
    /// One call on one piece of memory: half the time of a hasher that is fed three times.
    pub fn block_id_of(&self, space: &SpaceDigest, key: &[u8]) -> BlockId {
        let mut words = [0; DOMAIN.len() + 32 + KEY_BYTES_MAX];
        let (domain, rest) = words.split_at_mut(DOMAIN.len());
        domain.copy_from_slice(DOMAIN);
        rest[..32].copy_from_slice(&space.0);
        rest[32..32 + key.len()].copy_from_slice(key);
        let hash = blake3::keyed_hash(&self.0, &words[..DOMAIN.len() + 32 + key.len()]);
        let (id, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        BlockId(u128::from_le_bytes(*id))
    }
}

impl fmt::Debug for TenantSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantSecret(..)")
    }
}

impl BlockId {
    /// The 16 bytes as they stand on disk and on the wire, little endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// The inverse of [`BlockId::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block:{self}")
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
