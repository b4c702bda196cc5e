//! The bytes of a value: payload, then CRC32 over key and payload. Drawn in `docs/FORMAT-index.md`.
//!
//! The key is part of the checksum, so that a value which ended up under another key does not decode. Entries, spaces and
//! quarantine marks begin with a version byte; then come the fields in bincode's standard configuration (little endian,
//! variable-length integers). Decoding never panics and never allocates more than a value of the largest size needs.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};

/// First byte of entries, space records and quarantine marks.
pub const VALUE_VERSION: u8 = 1;
/// Bytes of the checksum at the end.
pub const CHECKSUM_BYTES: usize = 4;
/// The largest decoded value in bytes; a space's twelve text fields of at most 1 KiB and 64 parts fit well.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Why bytes are not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Shorter than the smallest value.
    #[error("it is too short")]
    Short,
    /// The checksum over key and payload disagrees.
    #[error("its checksum disagrees")]
    Checksum,
    /// Written by another version.
    #[error("its version is {0}, this build reads {VALUE_VERSION}")]
    Version(u8),
    /// The checksum agrees but the fields do not decode.
    #[error("its fields do not decode")]
    Fields,
}

fn configuration() -> Configuration<LittleEndian, Varint, Limit<VALUE_BYTES_MAX>> {
    bincode::config::standard().with_limit::<VALUE_BYTES_MAX>()
}

/// Encodes `value` for `key` into `out`, which is cleared first.
pub fn encode<T: Serialize>(key: &[u8], value: &T, out: &mut Vec<u8>) {
    out.clear();
    out.push(VALUE_VERSION);
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard())
        .expect("entries and spaces hold nothing bincode refuses, and a Vec takes every byte");
    seal(key, out);
}

/// Decodes what [`encode`] wrote for `key`.
pub fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, CodecError> {
    let (version, fields) = unseal(key, bytes)?.split_first().ok_or(CodecError::Short)?;
    if *version != VALUE_VERSION {
        return Err(CodecError::Version(*version));
    }
    let (value, length) = bincode::serde::decode_from_slice(fields, configuration()).map_err(|_| CodecError::Fields)?;
    if length != fields.len() {
        return Err(CodecError::Fields);
    }
    Ok(value)
}

/// Appends the checksum to a payload.
pub fn seal(key: &[u8], payload: &mut Vec<u8>) {
    let checksum = checksum(key, payload);
    payload.extend_from_slice(&checksum.to_le_bytes());
}

/// The payload of a sealed value.
pub fn unseal<'a>(key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let (payload, stored) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CodecError::Short)?;
    if u32::from_le_bytes(*stored) != checksum(key, payload) {
        return Err(CodecError::Checksum);
    }
    Ok(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
