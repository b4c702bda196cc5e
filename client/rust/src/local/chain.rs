//! What is asked about a chain, packed for the wire.

use std::time::Duration;

use crate::lookup::{CHAIN_KEYS_MAX, check_key, to_ms};
use crate::{ClientError, Durability, SpaceDigest, why, wire};

/// Blocks (or one part of each) to be written, in chain order.
#[derive(Debug, Clone)]
pub struct ReserveChain<'a, K> {
    /// The space.
    pub space: SpaceDigest,
    /// Their keys. Every block comes after the one before it.
    pub keys: &'a [K],
    /// Key of the block before the first; none: it is the first of its chain.
    pub parent: Option<&'a [u8]>,
    /// Which part of every block.
    pub part: u32,
    /// Bytes of the part.
    pub lengths: Lengths<'a>,
    /// When a commit is answered.
    pub durability: Durability,
}

/// Bytes of the parts.
#[derive(Debug, Clone, Copy)]
pub enum Lengths<'a> {
    /// All the same.
    All(u32),
    /// One for each block.
    Each(&'a [u32]),
}

/// A chain to be found and read.
#[derive(Debug, Clone)]
pub struct AcquireChain<'a, K> {
    /// The space.
    pub space: SpaceDigest,
    /// Its keys, first block first.
    pub keys: &'a [K],
    /// How long the blocks stay. A reader that takes longer must ask [`super::Acquired::is_intact`].
    pub lease: Duration,
    /// Bring blocks up that are not in host memory.
    pub stage: bool,
    /// Answer at once instead of waiting for them.
    pub poll: bool,
    /// The request it is for: what it is answered is remembered for `kvtier why`.
    pub request: Option<&'a str>,
}

impl<'a, K> ReserveChain<'a, K> {
    /// Blocks of one part and one length, volatile, from the beginning of a chain.
    pub fn new(space: SpaceDigest, keys: &'a [K], length: u32) -> Self {
        let lengths = Lengths::All(length);
        Self { space, keys, parent: None, part: 0, lengths, durability: Durability::Volatile }
    }
}

impl<'a, K> AcquireChain<'a, K> {
    /// Waits until everything resident is in host memory; leased for 10 s.
    pub fn new(space: SpaceDigest, keys: &'a [K]) -> Self {
        Self { space, keys, lease: Duration::from_secs(10), stage: true, poll: false, request: None }
    }
}

/// Keys as they travel: the bytes, their length if it is one, and otherwise all lengths.
pub(super) fn pack<K: AsRef<[u8]>>(keys: &[K]) -> Result<(Vec<u8>, u32, Vec<u32>), ClientError> {
    if keys.is_empty() || keys.len() > CHAIN_KEYS_MAX {
        return Err(ClientError::invalid("keys", format!("{} keys", keys.len()), "a chain has 1 to 65,536 keys"));
    }
    let each = keys[0].as_ref().len();
    let mut bytes = Vec::with_capacity(keys.len() * each);
    let mut uniform = true;
    for key in keys {
        let key = key.as_ref();
        check_key("keys", key)?;
        uniform &= key.len() == each;
        bytes.extend_from_slice(key);
    }
    match uniform {
        true => Ok((bytes, each as u32, Vec::new())),
        false => Ok((bytes, 0, keys.iter().map(|key| key.as_ref().len() as u32).collect())),
    }
}

pub(super) fn reserve_request<K: AsRef<[u8]>>(
    wanted: &ReserveChain<'_, K>,
) -> Result<wire::ReserveRequest, ClientError> {
    let (keys, key_bytes, key_lengths) = pack(wanted.keys)?;
    let (length, lengths) = match wanted.lengths {
        Lengths::All(length) => (length, Vec::new()),
        Lengths::Each(lengths) if lengths.len() == wanted.keys.len() => (0, lengths.to_vec()),
        Lengths::Each(lengths) => {
            return Err(ClientError::invalid("lengths", format!("{} lengths", lengths.len()), "give every key one"));
        }
    };
    if let Some(parent) = wanted.parent {
        check_key("parent", parent)?;
    }
    Ok(wire::ReserveRequest {
        space: wanted.space.0.to_vec(),
        keys,
        key_bytes,
        key_lengths,
        parent: wanted.parent.map(<[u8]>::to_vec),
        part: wanted.part,
        length,
        lengths,
        durability: wanted.durability.into(),
    })
}

pub(super) fn acquire_request<K: AsRef<[u8]>>(
    wanted: &AcquireChain<'_, K>,
) -> Result<wire::AcquireRequest, ClientError> {
    let (keys, key_bytes, key_lengths) = pack(wanted.keys)?;
    let min_tier = if wanted.stage { wire::Tier::Host } else { wire::Tier::Nvme };
    Ok(wire::AcquireRequest {
        space: wanted.space.0.to_vec(),
        keys,
        key_bytes,
        key_lengths,
        lease_ms: to_ms("lease", wanted.lease)?,
        min_tier: min_tier.into(),
        poll: wanted.poll,
        request: why::name(wanted.request)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_length_travel_without_their_lengths() {
        assert_eq!(pack(&[b"aa", b"bb"]), Ok((b"aabb".to_vec(), 2, vec![])));
        assert_eq!(pack(&[&b"a"[..], b"bb"]), Ok((b"abb".to_vec(), 0, vec![1, 2])));
    }

    #[test]
    fn what_the_daemon_would_refuse_is_refused_here() {
        assert!(pack::<&[u8]>(&[]).is_err());
        assert!(pack(&[&b""[..]]).is_err());
        assert!(pack(&[&[1; 65][..]]).is_err());
        let space = SpaceDigest([0; 32]);
        let uneven = ReserveChain { lengths: Lengths::Each(&[1]), ..ReserveChain::new(space, &[b"a", b"b"], 0) };
        assert!(reserve_request(&uneven).is_err());
        let hasty = AcquireChain { lease: Duration::ZERO, ..AcquireChain::new(space, &[b"a"]) };
        assert!(acquire_request(&hasty).is_err());
    }
}
