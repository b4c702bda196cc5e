//! A check of RocksDB's manifest before RocksDB reads it.
//!
//! RocksDB 11.8 looks at a record's type before its checksum, and a flipped type can send it into an endless loop
//! (facebook/rocksdb#13333): opening a damaged index would hang. So every record is verified here first. A manifest is
//! a run of blocks of 32 KiB; a record never crosses a block, and the last bytes of a block too few for a header are zero:
//!
//! ```text
//! 0        4        6      7
//! | crc32c | length | type | length bytes ...      crc32c over type and bytes, masked; type 1 full, 2 first, 3 middle, 4 last
//! ```
//!
//! A record that ends after the file is what a power cut leaves of a manifest that was not yet synced: not damage.

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;

/// What is wrong with a manifest, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestDamage {
    /// A record of a type that manifests do not have.
    #[error("the record at byte {0} has a type that manifests do not have")]
    Type(usize),
    /// A record that would cross its block.
    #[error("the record at byte {0} crosses its block")]
    Length(usize),
    /// A record whose checksum disagrees.
    #[error("the checksum of the record at byte {0} disagrees")]
    Checksum(usize),
}

/// Verifies every whole record.
pub(crate) fn verify(manifest: &[u8]) -> Result<(), ManifestDamage> {
    for (number, block) in manifest.chunks(BLOCK_BYTES).enumerate() {
        verify_block(block, number * BLOCK_BYTES)?;
    }
    Ok(())
}

fn verify_block(block: &[u8], start: usize) -> Result<(), ManifestDamage> {
    let mut at = 0;
    while let Some((header, rest)) = block[at..].split_first_chunk::<HEADER_BYTES>() {
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if !(1..=4).contains(&kind) {
            return Err(ManifestDamage::Type(start + at));
        }
        if at + HEADER_BYTES + length > BLOCK_BYTES {
            return Err(ManifestDamage::Length(start + at));
        }
        let Some(bytes) = rest.get(..length) else { return Ok(()) };
        if masked(crc32c(kind, bytes)) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(ManifestDamage::Checksum(start + at));
        }
        at += HEADER_BYTES + length;
    }
    Ok(())
}

/// RocksDB stores checksums masked, because it also sums bytes that contain checksums.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC32C, Castagnoli's polynomial: another one than the index's own. Manifests are small, so a table of bytes will do.
fn crc32c(kind: u8, bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(step(!0, &kind), step)
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let mut record = masked(crc32c(kind, bytes)).to_le_bytes().to_vec();
        record.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        record.push(kind);
        record.extend(bytes);
        record
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of CRC-32C: "123456789".
        assert_eq!(crc32c(b'1', b"23456789"), 0xe306_9283);
    }

    #[test]
    fn whole_records_verify_and_a_torn_one_at_the_end_is_not_damage() {
        let first = record(1, b"one edit");
        let whole = [first.clone(), record(1, b"another")].concat();
        for length in 0..=whole.len() {
            assert_eq!(verify(&whole[..length]), Ok(()), "{length} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_that_is_not_the_last_is_found() {
        let first = record(1, b"one edit");
        let whole = [first.clone(), record(2, b"another")].concat();
        for bit in 0..first.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A length that now ends after the file looks torn; RocksDB is then no wiser and opens what is before it.
            let torn = (32..48).contains(&bit) && verify(&flipped).is_ok();
            assert!(torn || verify(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn records_continue_in_the_next_block() {
        let filler = record(2, &[7; BLOCK_BYTES - HEADER_BYTES - 3]);
        let mut manifest = [filler, vec![0; 3], record(4, b"the rest")].concat();
        assert_eq!(verify(&manifest), Ok(()));
        manifest[BLOCK_BYTES + 6] = 5;
        assert_eq!(verify(&manifest), Err(ManifestDamage::Type(BLOCK_BYTES)));
    }

    #[test]
    fn a_record_may_not_cross_its_block() {
        let mut manifest = record(1, &[7; 100]);
        manifest[5] = 0xff;
        assert_eq!(verify(&manifest), Err(ManifestDamage::Length(0)));
    }
}
