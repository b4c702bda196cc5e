//! A segment's name and its first 80 bytes. Drawn in the crate page.
//!
//! A header is written and synced, and the folder with it, before the first frame is; so a file that is longer than a
//! header has a sound one, or it is damaged. Every header names the segment before it and that one's last record:
//! a segment that is missing from the middle, or was cut at a frame's edge, is noticed.

/// Bytes of the header.
pub const SEGMENT_HEADER_BYTES: usize = 80;
/// The version written and read.
pub const SEGMENT_VERSION: u16 = 1;
/// Larger sequence numbers and epochs are refused: nothing kvtier wrote can have them.
pub const SEQ_MAX: u64 = 1 << 62;

const MAGIC: [u8; 4] = *b"KVWL";
const CRC_AT: usize = SEGMENT_HEADER_BYTES - 4;

/// What the first bytes of a segment say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Sequence number of the first record; also the file's name.
    pub first_seq: u64,
    /// Epoch of every record in the segment.
    pub epoch: u64,
    /// The log it belongs to.
    pub log_id: u128,
    /// First sequence number of the segment before; 0 if this is the log's first.
    pub previous_first_seq: u64,
    /// Last sequence number before this segment; 0 if there is none.
    pub previous_last_seq: u64,
    /// When it was begun, in milliseconds since 1970; the segment before was closed then.
    pub created_unix_ms: u64,
}

/// Why some bytes are not a segment header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Fewer bytes than a header has.
    #[error("the segment header is cut short after {0} bytes")]
    Short(usize),
    /// Not a segment.
    #[error("the segment header does not begin with its magic number")]
    Magic,
    /// The checksum disagrees.
    #[error("the segment header's checksum disagrees")]
    Checksum,
    /// Written by a newer kvtier.
    #[error("segment version {0} is not supported, this build reads version {SEGMENT_VERSION}")]
    Version(u16),
    /// A field that cannot be.
    #[error("the segment header's {0} is out of bounds")]
    Field(&'static str),
}

impl SegmentHeader {
    /// The bytes as they stand on disk.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&self.first_seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        out[24..40].copy_from_slice(&self.log_id.to_le_bytes());
        out[40..48].copy_from_slice(&self.previous_first_seq.to_le_bytes());
        out[48..56].copy_from_slice(&self.previous_last_seq.to_le_bytes());
        out[56..64].copy_from_slice(&self.created_unix_ms.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header. Never panics on any input.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let bytes: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderFault::Short(bytes.len()))?;
        if bytes[0..4] != MAGIC {
            return Err(HeaderFault::Magic);
        }
        if crc32fast::hash(&bytes[..CRC_AT]) != u32::from_le_bytes(field(bytes, CRC_AT)) {
            return Err(HeaderFault::Checksum);
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version != SEGMENT_VERSION {
            return Err(HeaderFault::Version(version));
        }
        let header = Self {
            first_seq: u64::from_le_bytes(field(bytes, 8)),
            epoch: u64::from_le_bytes(field(bytes, 16)),
            log_id: u128::from_le_bytes(field(bytes, 24)),
            previous_first_seq: u64::from_le_bytes(field(bytes, 40)),
            previous_last_seq: u64::from_le_bytes(field(bytes, 48)),
            created_unix_ms: u64::from_le_bytes(field(bytes, 56)),
        };
        header.check_fields()
    }

    fn check_fields(self) -> Result<Self, HeaderFault> {
        if self.first_seq == 0 || self.first_seq > SEQ_MAX {
            return Err(HeaderFault::Field("first sequence number"));
        }
        if self.epoch == 0 || self.epoch > SEQ_MAX {
            return Err(HeaderFault::Field("epoch"));
        }
        if self.previous_last_seq >= self.first_seq || self.previous_first_seq >= self.first_seq {
            return Err(HeaderFault::Field("link to the segment before"));
        }
        Ok(self)
    }

    /// Seeds the checksum of every frame of the segment: a frame of another log, segment or epoch does not verify.
    pub fn frame_seed(&self) -> u32 {
        u32::from_le_bytes(field(&self.encode(), CRC_AT))
    }
}

fn field<const N: usize>(bytes: &[u8; SEGMENT_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// The file of the segment that begins with `first_seq`.
pub fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.wal")
}

/// The first sequence number a file's name states; `None` when it is not a segment's name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            first_seq: 0x0102,
            epoch: 3,
            log_id: 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00,
            previous_first_seq: 7,
            previous_last_seq: 0x0101,
            created_unix_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_header_has_these_bytes() {
        let bytes: String = sample().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let expect = concat!(
            "4b56574c",
            "0100",
            "0000",
            "0201000000000000",
            "0300000000000000",
            "00ffeeddccbbaa998877665544332211",
            "0700000000000000",
            "0101000000000000",
            "0068e5cf8b010000",
            "000000000000000000000000",
        );
        assert_eq!(bytes[..152], *expect);
        assert_eq!(SegmentHeader::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn names_are_twenty_digits() {
        assert_eq!(file_name(42), "00000000000000000042.wal");
        assert_eq!(parse_file_name("00000000000000000042.wal"), Some(42));
        assert_eq!(parse_file_name("18446744073709551615.wal"), Some(u64::MAX));
        for stranger in ["42.wal", "+0000000000000000042.wal", "00000000000000000042", "99999999999999999999.wal", ""] {
            assert_eq!(parse_file_name(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let mut bytes = sample().encode();
        bytes[4] = 9;
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Version(9)));
    }
}
