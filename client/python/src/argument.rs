//! What callers give: spaces, keys, waits and words, checked where the client does not.

use std::time::Duration;

use bytes::Bytes;
use kvtier_client::{Durability, SpaceDigest, Verdict};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::error::invalid;

/// A space's digest, as `open_space` returns it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space(pub(crate) SpaceDigest);

impl<'py> FromPyObject<'_, 'py> for Space {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let bytes: PyBackedBytes = given.extract()?;
        let digest = <[u8; 32]>::try_from(&bytes[..]);
        let wrong = |_| invalid("space", format!("{} bytes long", bytes.len()), "use the 32 bytes open_space returned");
        Ok(Self(SpaceDigest(digest.map_err(wrong)?)))
    }
}

/// A wait in seconds.
pub(crate) fn seconds(field: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| invalid(field, value.to_string(), "give seconds, zero or more"))
}

/// `"volatile"` or `"durable"`.
pub(crate) fn durability(word: &str) -> PyResult<Durability> {
    match word {
        "volatile" => Ok(Durability::Volatile),
        "durable" => Ok(Durability::Durable),
        other => Err(invalid("durability", format!("{other:?}"), "use \"volatile\" or \"durable\"")),
    }
}

/// Whether blocks are to be brought to host memory: `"host"`, or `"nvme"` to leave them where they are.
pub(crate) fn stages(min_tier: &str) -> PyResult<bool> {
    match min_tier {
        "host" => Ok(true),
        "nvme" => Ok(false),
        other => Err(invalid("min_tier", format!("{other:?}"), "use \"host\" or \"nvme\"")),
    }
}

/// What became of a request: `"loaded"`, `"declined"` or `"failed"`.
pub(crate) fn verdict(word: &str) -> PyResult<Verdict> {
    match word {
        "loaded" => Ok(Verdict::Loaded),
        "declined" => Ok(Verdict::Declined),
        "failed" => Ok(Verdict::Failed),
        other => Err(invalid("verdict", format!("{other:?}"), "use \"loaded\", \"declined\" or \"failed\"")),
    }
}

/// Keys in one piece, for a thread of ours.
pub(crate) struct Packed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packed {
    pub(crate) fn new(keys: &[PyBackedBytes]) -> Self {
        let mut bytes = Vec::with_capacity(keys.iter().map(|key| key.len()).sum());
        let mut ends = Vec::with_capacity(keys.len());
        for key in keys {
            bytes.extend_from_slice(key);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// Each of them.
    pub(crate) fn keys(&self) -> Vec<&[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end]).collect()
    }
}

/// Keys for a gRPC call.
pub(crate) fn owned(keys: &[PyBackedBytes]) -> Vec<Bytes> {
    keys.iter().map(|key| Bytes::copy_from_slice(key)).collect()
}
