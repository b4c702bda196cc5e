//! A frame's payload: a version byte, then records in bincode. The only module that knows how a [`Record`] is encoded.
//!
//! bincode's standard configuration: little endian, variable-length integers, enum variants by their index. Variants
//! and fields are therefore only ever added at the end, and any other change takes a new version byte; the golden
//! bytes in the tests fail when this is forgotten.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use kvtier_engine::port::Record;

/// The version written. The byte every payload begins with. All versions since [`PAYLOAD_VERSION_OLDEST`] are read: each has
/// the records of the one before and more. 2 added what engines tell of their own memory.
pub const PAYLOAD_VERSION: u8 = 2;
/// The oldest version that is read.
pub const PAYLOAD_VERSION_OLDEST: u8 = 1;
/// The largest record in bytes, encoded. The longest space description has about 14 KiB.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Why a payload is not a run of records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer kvtier.
    #[error(
        "payload version {0} is not supported, this build reads versions {PAYLOAD_VERSION_OLDEST} to {PAYLOAD_VERSION}"
    )]
    Version(u8),
    /// The bytes are not what a record looks like.
    #[error("record {index} of the frame does not decode: {cause}")]
    Record {
        /// Which record of the frame, from 0.
        index: u32,
        /// What bincode says.
        cause: String,
    },
    /// The frame's header promised another number of records.
    #[error("{0} bytes are left over after the last record of the frame")]
    LeftOver(usize),
    /// A record larger than [`RECORD_BYTES_MAX`].
    #[error("a record of {0} bytes exceeds {RECORD_BYTES_MAX}")]
    TooLarge(usize),
}

fn config() -> Configuration<LittleEndian, Varint, Limit<RECORD_BYTES_MAX>> {
    bincode::config::standard().with_limit::<RECORD_BYTES_MAX>()
}

/// Appends one encoded record to `out`; on an error `out` is as before.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let before = out.len();
    let written = bincode::serde::encode_into_std_write(record, out, config());
    let bytes = out.len() - before;
    match written {
        Ok(_) if bytes <= RECORD_BYTES_MAX => Ok(()),
        _ => {
            out.truncate(before);
            Err(CodecError::TooLarge(bytes))
        }
    }
}

/// Decodes a payload of `count` records. Never panics; memory is bounded by the payload's size.
pub fn decode_payload(payload: &[u8], count: u32) -> Result<Vec<Record>, CodecError> {
    let mut rest = check_version(payload)?;
    let mut records = Vec::with_capacity(rest.len().min(count as usize).min(4096));
    for index in 0..count {
        let (record, bytes) = bincode::serde::decode_from_slice(rest, config())
            .map_err(|cause| CodecError::Record { index, cause: cause.to_string() })?;
        records.push(record);
        rest = &rest[bytes..];
    }
    if rest.is_empty() { Ok(records) } else { Err(CodecError::LeftOver(rest.len())) }
}

/// The payload behind its version byte.
pub fn check_version(payload: &[u8]) -> Result<&[u8], CodecError> {
    match payload.split_first() {
        Some((&(PAYLOAD_VERSION_OLDEST..=PAYLOAD_VERSION), rest)) => Ok(rest),
        Some((&other, _)) => Err(CodecError::Version(other)),
        None => Err(CodecError::Version(0)),
    }
}

/// Memory a record takes while it waits or is kept for readers. At least its encoded size.
pub fn record_bytes_in_memory(record: &Record) -> usize {
    let heap = match record {
        Record::Reset { reason, .. } => reason.len(),
        Record::SpaceOpened(space) => {
            let description = &space.description;
            space.name.len() + 1024 + description.canonical_bytes().len() + description.parts.len() * 8
        }
        Record::StoredHost { key, .. } => key.as_bytes().len(),
        Record::StoredNvme { entry, .. } => entry.key.as_bytes().len(),
        Record::EngineStored { engine, key, .. } => engine.len() + key.as_bytes().len(),
        Record::EngineRemoved { engine, .. } => engine.len(),
        Record::EngineReset { engine, reason } => engine.len() + reason.len(),
        Record::SpaceDropped { .. } | Record::Removed { .. } | Record::Quarantined { .. } => 0,
    };
    size_of::<Record>() + heap
}

#[cfg(test)]
mod tests;
