//! One frame: a run of records of one group, with length and checksum. Drawn in the crate page.

use kvtier_engine::port::Record;

use crate::codec::{CodecError, PAYLOAD_VERSION, RECORD_BYTES_MAX, encode_record};
use crate::segment::SEQ_MAX;

/// Bytes before the payload.
pub const FRAME_HEADER_BYTES: usize = 28;
/// A frame is closed when its payload has reached this many bytes.
pub const FRAME_PAYLOAD_BYTES_TARGET: usize = 32 << 10;
/// The longest payload: one record more than the target. A length beyond it is damage and is not read.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_TARGET + RECORD_BYTES_MAX;
/// Smallest useful bound of a group.
pub(crate) const GROUP_BYTES_FLOOR: u64 = 64 << 10;

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Payload bytes.
    pub payload_bytes: u32,
    /// CRC32 over the segment's seed, the length, everything behind this field and the payload.
    pub crc: u32,
    /// Sequence number of the first record.
    pub seq: u64,
    /// Sequence number of the first record of the group this frame was written with. Every record before it had been
    /// synced when this frame was written: that tells damage from a torn tail.
    pub group_seq: u64,
    /// Records in the payload; 0 in the mark that a clean shutdown leaves.
    pub count: u32,
}

/// Why some bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The file ends inside the frame.
    #[error("the file ends inside a frame")]
    Short,
    /// The length, count or numbers cannot be.
    #[error("the frame header's {0} is out of bounds")]
    Field(&'static str),
    /// The checksum disagrees.
    #[error("the frame's checksum disagrees")]
    Checksum,
    /// A sound frame that does not belong here.
    #[error("the frame begins with sequence number {found}, {expected} was expected")]
    Sequence {
        /// What it says.
        found: u64,
        /// What must come next.
        expected: u64,
    },
}

impl FrameHeader {
    /// Reads a header and checks its bounds, not its checksum. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameFault> {
        let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk().ok_or(FrameFault::Short)?;
        let header = Self {
            payload_bytes: u32::from_le_bytes(field(bytes, 0)),
            crc: u32::from_le_bytes(field(bytes, 4)),
            seq: u64::from_le_bytes(field(bytes, 8)),
            group_seq: u64::from_le_bytes(field(bytes, 16)),
            count: u32::from_le_bytes(field(bytes, 24)),
        };
        if header.payload_bytes == 0 || header.payload_bytes as usize > FRAME_PAYLOAD_BYTES_MAX {
            return Err(FrameFault::Field("length"));
        }
        if header.count >= header.payload_bytes {
            return Err(FrameFault::Field("record count"));
        }
        if header.seq == 0 || header.seq > SEQ_MAX || header.group_seq > header.seq {
            return Err(FrameFault::Field("sequence number"));
        }
        Ok(header)
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_bytes as usize
    }

    /// The sequence number after the frame's last record.
    pub fn next_seq(&self) -> u64 {
        self.seq + u64::from(self.count)
    }

    /// Whether `frame`, the header's own bytes and the payload, is what was written.
    pub fn verify(&self, frame: &[u8], seed: u32) -> Result<(), FrameFault> {
        if frame.len() < self.frame_bytes() {
            return Err(FrameFault::Short);
        }
        if checksum(&frame[..self.frame_bytes()], seed) == self.crc { Ok(()) } else { Err(FrameFault::Checksum) }
    }
}

/// Over the length field, and everything behind the checksum field.
fn checksum(frame: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&frame[0..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

fn field<const N: usize>(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Where a frame begins in the encoded group: its first sequence number and byte offset.
pub(crate) type FrameMark = (u64, u64);

/// A group's frames; their checksums are set by [`EncodedGroup::seal`], because they depend on the segment.
#[derive(Debug)]
pub(crate) struct EncodedGroup {
    pub(crate) bytes: Vec<u8>,
    /// Where each frame begins.
    pub(crate) marks: Vec<FrameMark>,
}

impl EncodedGroup {
    /// Encodes records from `first_seq` on.
    pub(crate) fn encode(first_seq: u64, records: &[Record]) -> Result<Self, CodecError> {
        let mut bytes = Vec::with_capacity(128 * records.len() + FRAME_HEADER_BYTES);
        let mut marks = Vec::new();
        let mut seq = first_seq;
        let mut rest = records;
        while !rest.is_empty() {
            let start = bytes.len();
            marks.push((seq, start as u64));
            let count = encode_payload(&mut bytes, rest)?;
            fill_header(&mut bytes[start..], seq, first_seq, count);
            seq += count as u64;
            rest = &rest[count..];
        }
        Ok(Self { bytes, marks })
    }

    /// Sets the checksums for the segment with this seed.
    pub(crate) fn seal(&mut self, seed: u32) {
        let mut end = self.bytes.len();
        for (_, start) in self.marks.iter().rev() {
            let start = usize::try_from(*start).expect("an offset in a Vec");
            seal(&mut self.bytes[start..end], seed);
            end = start;
        }
    }
}

/// The mark a clean shutdown leaves: a frame without records, which says that everything before it was synced.
pub(crate) fn encode_mark(seed: u32, next_seq: u64) -> Vec<u8> {
    let mut out = vec![0; FRAME_HEADER_BYTES];
    out.push(PAYLOAD_VERSION);
    fill_header(&mut out, next_seq, next_seq, 0);
    seal(&mut out, seed);
    out
}

/// Room for the header, then records until the frame is full. Returns how many.
fn encode_payload(out: &mut Vec<u8>, records: &[Record]) -> Result<usize, CodecError> {
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    let start = out.len();
    out.push(PAYLOAD_VERSION);
    for (index, record) in records.iter().enumerate() {
        if out.len() - start >= FRAME_PAYLOAD_BYTES_TARGET {
            return Ok(index);
        }
        encode_record(record, out)?;
    }
    Ok(records.len())
}

fn fill_header(frame: &mut [u8], seq: u64, group_seq: u64, count: usize) {
    let payload_bytes = u32::try_from(frame.len() - FRAME_HEADER_BYTES).expect("a payload has at most about 1 MiB");
    frame[0..4].copy_from_slice(&payload_bytes.to_le_bytes());
    frame[8..16].copy_from_slice(&seq.to_le_bytes());
    frame[16..24].copy_from_slice(&group_seq.to_le_bytes());
    frame[24..28].copy_from_slice(&u32::try_from(count).expect("a frame has few records").to_le_bytes());
}

fn seal(frame: &mut [u8], seed: u32) {
    let crc = checksum(frame, seed);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests;
