//! Cuts a batch into chunks for the disk.
//!
//! Pieces are sorted by their place on the device, so that the disk finds neighbours next to each other and joins them
//! (it joins and cuts within a submission, and takes joined transfers apart again if they fail). A chunk has about
//! [`CHUNK_BYTES`]: it is verified while the next ones are still at the device, and small blocks still share a
//! submission.

use kvtier_device::{DiskBuffer, DiskOp};
use kvtier_engine::port::Region;

/// A chunk is closed once it has this many bytes: 0.2 ms of checksumming.
const CHUNK_BYTES: u64 = 4 << 20;
/// And never has more pieces than this.
const CHUNK_PIECES: usize = 512;

/// One block's transfer: header page and payload.
#[derive(Debug)]
pub(crate) struct Piece<T> {
    /// Byte offset on the device.
    pub(crate) offset: u64,
    /// Bytes to move.
    pub(crate) bytes: u32,
    /// Host memory, at least as large.
    pub(crate) region: Region,
    /// What the caller wants back.
    pub(crate) tag: T,
}

impl<T> Piece<T> {
    /// From the device to host memory.
    pub(crate) fn read(&self) -> DiskOp {
        DiskOp::Read { offset: self.offset, into: part(&self.region, 0, self.bytes) }
    }

    /// From host memory to the device.
    pub(crate) fn write(&self) -> DiskOp {
        DiskOp::Write { offset: self.offset, from: part(&self.region, 0, self.bytes) }
    }
}

/// Part of a region, for a device.
pub(crate) fn part(region: &Region, skip: u32, bytes: u32) -> DiskBuffer {
    assert!(u64::from(skip) + u64::from(bytes) <= u64::from(region.bytes), "a transfer stays in its region");
    DiskBuffer {
        address: region.address + skip as usize,
        bytes,
        arena_offset: Some(region.arena_offset + u64::from(skip)),
        keep: region.keep.clone(),
    }
}

/// Sorts pieces by place and cuts them into chunks.
pub(crate) fn cut<T>(mut pieces: Vec<Piece<T>>) -> Vec<Vec<Piece<T>>> {
    pieces.sort_by_key(|piece| piece.offset);
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        bytes += u64::from(piece.bytes);
        chunk.push(piece);
        if bytes >= CHUNK_BYTES || chunk.len() >= CHUNK_PIECES {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests;
