//! Finding the longest resident prefix of a chain, and keeping it there: leases, pins, prefetch.

use std::time::Duration;

use bytes::Bytes;

use crate::call::Call;
use crate::{Client, ClientError, KEY_BYTES_MAX, SpaceDigest, Tier, why, wire};

/// The most keys one chain may have.
pub const CHAIN_KEYS_MAX: usize = 65_536;

const LOOKUP: Call = Call::reading("lookup");
const RELEASE: Call = Call::changing("release");
const PREFETCH: Call = Call::reading("prefetch");
const PIN: Call = Call::changing("pin");
const UNPIN: Call = Call::changing("unpin");

/// The answer to a lookup.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    /// One entry per block of the longest resident prefix.
    pub prefix: Vec<Resident>,
    /// Present when one was asked for and something is resident.
    pub lease: Option<Lease>,
    /// Why the block after the prefix missed; absent when the whole chain is resident.
    pub miss: Option<wire::Miss>,
}

/// A block that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// The fastest tier that holds it.
    pub tier: Tier,
    /// Its length in bytes.
    pub length: u32,
}

/// A prefix the daemon keeps resident until it is released, its deadline passes or this client goes away.
///
/// Dropping it does not release it: that takes a call. See [`Client::release`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The daemon's name for it, valid for this client only.
    pub id: Bytes,
    /// How many blocks it holds.
    pub blocks: u32,
    /// When it ends by itself, in milliseconds since 1970 by the daemon's clock.
    pub deadline_unix_ms: u64,
}

impl Client {
    /// Finds the longest resident prefix of a chain; with `lease` it stays resident that long.
    pub async fn lookup(
        &self,
        space: SpaceDigest,
        keys: &[Bytes],
        lease: Option<Duration>,
    ) -> Result<Lookup, ClientError> {
        self.lookup_for(None, space, keys, lease).await
    }

    /// The same for a request of this name; what it is answered is remembered for [`Client::why`].
    pub async fn lookup_for(
        &self,
        request: Option<&str>,
        space: SpaceDigest,
        keys: &[Bytes],
        lease: Option<Duration>,
    ) -> Result<Lookup, ClientError> {
        check_chain(keys)?;
        let lease_ms = lease.map(|lease| to_ms("lease", lease)).transpose()?;
        let request = why::name(request)?;
        let request = wire::LookupRequest { space: space.0.to_vec(), keys: keys.to_vec(), lease_ms, request };
        let response = {
            let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
            self.answer(LOOKUP, deadline, wire.lookup(self.bounded(request, deadline))).await?
        };
        read_lookup(response, keys.len())
    }

    /// Ends a lease before its deadline. A lease that is already over is no error.
    pub async fn release(&self, lease: Lease) -> Result<(), ClientError> {
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = wire::ReleaseRequest { lease: lease.id.to_vec() };
        match self.answer(RELEASE, deadline, wire.release(self.bounded(request, deadline))).await {
            Ok(_) | Err(ClientError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Starts moving a chain's resident prefix to the host tier. Answers at once with what was started.
    pub async fn prefetch(&self, space: SpaceDigest, keys: &[Bytes]) -> Result<wire::PrefetchResponse, ClientError> {
        check_chain(keys)?;
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = wire::PrefetchRequest { space: space.0.to_vec(), keys: to_vecs(keys) };
        self.answer(PREFETCH, deadline, wire.prefetch(self.bounded(request, deadline))).await
    }

    /// Keeps a chain's resident prefix under a name until `ttl` ends. Pinning again under a name replaces the pin.
    pub async fn pin(
        &self,
        space: SpaceDigest,
        name: &str,
        keys: &[Bytes],
        ttl: Duration,
    ) -> Result<wire::PinResponse, ClientError> {
        check_chain(keys)?;
        let ttl_ms = u64::from(to_ms("ttl", ttl)?);
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = wire::PinRequest { space: space.0.to_vec(), name: name.to_owned(), keys: to_vecs(keys), ttl_ms };
        self.answer(PIN, deadline, wire.pin(self.bounded(request, deadline))).await
    }

    /// Ends a pin; whether there was one.
    pub async fn unpin(&self, space: SpaceDigest, name: &str) -> Result<bool, ClientError> {
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = wire::UnpinRequest { space: space.0.to_vec(), name: name.to_owned() };
        let response = self.answer(UNPIN, deadline, wire.unpin(self.bounded(request, deadline))).await?;
        Ok(response.existed)
    }
}

fn read_lookup(response: wire::LookupResponse, keys: usize) -> Result<Lookup, ClientError> {
    if response.prefix.len() > keys {
        let detail = format!("a prefix of {} blocks for a chain of {keys}", response.prefix.len());
        return Err(ClientError::protocol(LOOKUP.name, detail));
    }
    let prefix: Vec<Resident> =
        response.prefix.iter().map(|block| Resident { tier: block.tier(), length: block.length }).collect();
    let lease = (!response.lease.is_empty()).then(|| Lease {
        id: response.lease.into(),
        blocks: u32::try_from(prefix.len()).expect("no longer than the chain"),
        deadline_unix_ms: response.lease_deadline_unix_ms,
    });
    Ok(Lookup { prefix, lease, miss: response.miss })
}

/// Refuses what the daemon would refuse, without a round trip.
pub(crate) fn check_chain(keys: &[Bytes]) -> Result<(), ClientError> {
    if keys.is_empty() || keys.len() > CHAIN_KEYS_MAX {
        return Err(ClientError::invalid("keys", format!("{} keys", keys.len()), "a chain has 1 to 65,536 keys"));
    }
    keys.iter().try_for_each(|key| check_key("keys", key))
}

pub(crate) fn check_key(field: &str, key: &[u8]) -> Result<(), ClientError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(ClientError::invalid(field, format!("{} bytes long", key.len()), "a key has 1 to 64 bytes"));
    }
    Ok(())
}

pub(crate) fn to_vecs(keys: &[Bytes]) -> Vec<Vec<u8>> {
    keys.iter().map(|key| key.to_vec()).collect()
}

pub(crate) fn to_ms(field: &str, duration: Duration) -> Result<u32, ClientError> {
    match u32::try_from(duration.as_millis()) {
        Ok(ms @ 1..) => Ok(ms),
        _ => Err(ClientError::invalid(field, format!("{duration:?}"), "use 1 ms to 49 days")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_1_to_65536_keys_of_1_to_64_bytes() {
        let key = |length| Bytes::from(vec![1; length]);
        assert!(check_chain(&[]).is_err());
        assert!(check_chain(&vec![key(1); CHAIN_KEYS_MAX + 1]).is_err());
        assert!(check_chain(&[key(1), key(0)]).is_err());
        assert!(check_chain(&[key(65)]).is_err());
        assert_eq!(check_chain(&vec![key(64); CHAIN_KEYS_MAX]), Ok(()));
    }

    #[test]
    fn a_prefix_longer_than_the_chain_is_refused() {
        let response = wire::LookupResponse { prefix: vec![wire::ResidentBlock::default(); 3], ..Default::default() };
        assert!(matches!(read_lookup(response, 2), Err(ClientError::Protocol { .. })));
    }

    #[test]
    fn a_wait_of_nothing_or_of_months_is_refused() {
        assert!(to_ms("lease", Duration::from_micros(10)).is_err());
        assert!(to_ms("lease", Duration::from_secs(50 * 86_400)).is_err());
        assert_eq!(to_ms("lease", Duration::from_secs(2)), Ok(2000));
    }
}
