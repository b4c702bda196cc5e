//! The first page of a data file: whose it is and how it is cut. Drawn in `docs/FORMAT-nvme.md`.

use std::fmt;

use kvtier_engine::place::PAGE_BYTES;

/// Bytes of the encoded superblock, one disk sector; the rest of its page is zero.
pub const SUPERBLOCK_BYTES: usize = 512;
/// The version this build writes, and the only one it reads.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"KVTIERNV";
const CRC_AT: usize = SUPERBLOCK_BYTES - 4;

/// Which data directory a data file belongs to: 128 random bits made with the directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub [u8; 16]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node:{self}")
    }
}

/// What a superblock says. Fixed for the life of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Whose.
    pub node: NodeId,
    /// Place of the file among the node's data files.
    pub device: u16,
    /// How many data files there are.
    pub device_count: u16,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Bytes of one extent.
    pub extent_bytes: u64,
    /// Device offset of the first extent.
    pub first_extent_offset: u64,
}

/// Why bytes are not a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Nothing but zeroes: never written.
    #[error("blank")]
    Blank,
    /// Something else's.
    #[error("not a kvtier superblock")]
    Foreign,
    /// The checksum disagrees: torn or rotten.
    #[error("superblock checksum disagrees")]
    Checksum,
    /// Of another version.
    #[error("superblock version {0} is not supported, this build reads version {VERSION}")]
    Version(u32),
    /// A field is out of its bounds although the checksum agrees.
    #[error("superblock field {0} is out of bounds")]
    Field(&'static str),
}

impl Superblock {
    /// Encodes into a whole page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES as usize];
        page[0..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[16..32].copy_from_slice(&self.node.0);
        page[32..34].copy_from_slice(&self.device.to_le_bytes());
        page[34..36].copy_from_slice(&self.device_count.to_le_bytes());
        page[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        page[48..56].copy_from_slice(&self.extent_bytes.to_le_bytes());
        page[56..64].copy_from_slice(&self.first_extent_offset.to_le_bytes());
        let crc = crc32fast::hash(&page[..CRC_AT]);
        page[CRC_AT..SUPERBLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Decodes the first [`SUPERBLOCK_BYTES`] of a page. Never panics on any input.
    pub fn decode(page: &[u8]) -> Result<Self, SuperblockError> {
        let bytes: &[u8; SUPERBLOCK_BYTES] = page.first_chunk().ok_or(SuperblockError::Field("page length"))?;
        if page.iter().all(|&byte| byte == 0) {
            return Err(SuperblockError::Blank);
        }
        if field::<8>(bytes, 0) != MAGIC {
            return Err(SuperblockError::Foreign);
        }
        if u32::from_le_bytes(field(bytes, CRC_AT)) != crc32fast::hash(&bytes[..CRC_AT]) {
            return Err(SuperblockError::Checksum);
        }
        let version = u32::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            return Err(SuperblockError::Version(version));
        }
        let superblock = Self {
            node: NodeId(field(bytes, 16)),
            device: u16::from_le_bytes(field(bytes, 32)),
            device_count: u16::from_le_bytes(field(bytes, 34)),
            bytes: u64::from_le_bytes(field(bytes, 40)),
            extent_bytes: u64::from_le_bytes(field(bytes, 48)),
            first_extent_offset: u64::from_le_bytes(field(bytes, 56)),
        };
        superblock.check_bounds()
    }

    fn check_bounds(self) -> Result<Self, SuperblockError> {
        let pages = |value: u64| value.is_multiple_of(PAGE_BYTES);
        if self.device >= self.device_count {
            return Err(SuperblockError::Field("device"));
        }
        if self.extent_bytes == 0 || !pages(self.extent_bytes) {
            return Err(SuperblockError::Field("extent_bytes"));
        }
        if self.first_extent_offset < PAGE_BYTES || !pages(self.first_extent_offset) {
            return Err(SuperblockError::Field("first_extent_offset"));
        }
        match self.bytes.checked_sub(self.first_extent_offset) {
            Some(room) if room >= self.extent_bytes => Ok(self),
            _ => Err(SuperblockError::Field("bytes")),
        }
    }
}

fn field<const N: usize>(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests;
