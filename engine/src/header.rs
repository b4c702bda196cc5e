//! The first page of every slot: what the bytes behind it are. Drawn in `docs/FORMAT.md`.
//!
//! A header that does not decode, or that names another block, length or generation than the index, makes the block a
//! miss (INV-1). It also carries key, parent and space, so that a lost index can be rebuilt from the slots alone.

use kvtier_identity::{BlockId, Key, SpaceDigest};

/// Bytes of the encoded header; the rest of the page is zero.
pub const HEADER_BYTES: usize = 256;
const MAGIC: u32 = u32::from_le_bytes(*b"KVSL");
const VERSION: u16 = 1;
const HAS_PARENT: u16 = 1;

/// What a slot's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotHeader {
    /// The block.
    pub block: BlockId,
    /// Its space.
    pub space: SpaceDigest,
    /// The engine's key.
    pub key: Key,
    /// The block before it in its chain.
    pub parent: Option<BlockId>,
    /// Payload length in bytes.
    pub length: u32,
    /// CRC32 of the payload.
    pub crc: u32,
    /// Which store of this slot this is; never repeats on a node.
    pub generation: u64,
}

/// Why bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The page does not begin with the magic number: never written, or overwritten by something else.
    #[error("no slot header")]
    NotAHeader,
    /// A version this build does not read.
    #[error("slot header version {0} is not supported")]
    Version(u16),
    /// The header's own checksum disagrees.
    #[error("slot header checksum disagrees")]
    Checksum,
    /// A field is out of its bounds although the checksum agrees.
    #[error("slot header field {0} is out of bounds")]
    Field(&'static str),
}

impl SlotHeader {
    /// Encodes into the first [`HEADER_BYTES`] of a page. `checksum` is CRC32.
    pub fn encode(&self, checksum: impl Fn(&[u8]) -> u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let key = self.key.as_bytes();
        let flags = if self.parent.is_some() { HAS_PARENT } else { 0 };
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        out[8..24].copy_from_slice(&self.block.to_bytes());
        out[24..32].copy_from_slice(&self.generation.to_le_bytes());
        out[32..36].copy_from_slice(&self.length.to_le_bytes());
        out[36..40].copy_from_slice(&self.crc.to_le_bytes());
        out[40..72].copy_from_slice(&self.space.0);
        out[72..88].copy_from_slice(&self.parent.unwrap_or(BlockId(0)).to_bytes());
        out[88] = u8::try_from(key.len()).expect("a key has at most 64 bytes");
        out[96..96 + key.len()].copy_from_slice(key);
        let crc = checksum(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes the first [`HEADER_BYTES`] of a page. Never panics on any input.
    pub fn decode(page: &[u8], checksum: impl Fn(&[u8]) -> u32) -> Result<Self, HeaderError> {
        let bytes: &[u8; HEADER_BYTES] = page.first_chunk().ok_or(HeaderError::Field("page length"))?;
        if field::<4>(bytes, 0) != MAGIC.to_le_bytes() {
            return Err(HeaderError::NotAHeader);
        }
        let stored = u32::from_le_bytes(field(bytes, HEADER_BYTES - 4));
        if checksum(&bytes[..HEADER_BYTES - 4]) != stored {
            return Err(HeaderError::Checksum);
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let flags = u16::from_le_bytes(field(bytes, 6));
        let key_bytes = usize::from(bytes[88]);
        let key = bytes.get(96..96 + key_bytes).and_then(|key| Key::new(key).ok()).ok_or(HeaderError::Field("key"))?;
        let length = u32::from_le_bytes(field(bytes, 32));
        if length == 0 {
            return Err(HeaderError::Field("length"));
        }
        Ok(Self {
            block: BlockId::from_bytes(field(bytes, 8)),
            space: SpaceDigest(field(bytes, 40)),
            key,
            parent: (flags & HAS_PARENT != 0).then(|| BlockId::from_bytes(field(bytes, 72))),
            length,
            crc: u32::from_le_bytes(field(bytes, 36)),
            generation: u64::from_le_bytes(field(bytes, 24)),
        })
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
