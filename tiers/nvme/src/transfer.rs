//! Turns a batch of slots into few, large transfers.
//!
//! Pieces are sorted by their place on the device. Neighbours on the device that are also neighbours in host memory
//! become one transfer, up to `coalesce_bytes`; a slot whose block does not fill it ends a run, because the gap's bytes
//! are nobody's to move. Transfers are handed to the disk in chunks of about [`CHUNK_BYTES`]: one chunk is verified
//! while the next ones are still at the device, and small transfers still share a submission.

use std::sync::Arc;

use kvtier_device::{DiskBuffer, DiskOp};
use kvtier_engine::port::Region;

/// A chunk is closed once it has this many bytes: 0.2 ms of checksumming.
const CHUNK_BYTES: u64 = 4 << 20;
/// And never has more transfers than this.
const CHUNK_TRANSFERS: usize = 256;

/// One slot's part of a transfer.
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

/// One operation of the device, for one or more neighbouring slots.
#[derive(Debug)]
pub(crate) struct Transfer<T> {
    pub(crate) pieces: Vec<Piece<T>>,
    bytes: u32,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    FromDevice,
    ToDevice,
}

impl<T> Piece<T> {
    pub(crate) fn operation(&self, way: Way) -> DiskOp {
        operation(way, self.offset, part(&self.region, 0, self.bytes))
    }

    fn is_followed_by(&self, next: &Self) -> bool {
        let (disk, host) = (u64::from(self.bytes), self.bytes as usize);
        self.offset + disk == next.offset
            && self.region.address + host == next.region.address
            && self.region.arena_offset + disk == next.region.arena_offset
            && Arc::ptr_eq(&self.region.keep, &next.region.keep)
    }
}

impl<T> Transfer<T> {
    pub(crate) fn operation(&self, way: Way) -> DiskOp {
        let first = self.pieces.first().expect("a transfer has a piece");
        assert!(self.pieces.iter().all(|piece| piece.bytes <= piece.region.bytes), "a piece stays in its region");
        // The regions of all pieces lie side by side in one mapping: `is_followed_by`.
        operation(way, first.offset, span(&first.region, 0, self.bytes))
    }

    fn of(piece: Piece<T>) -> Self {
        Self { bytes: piece.bytes, pieces: vec![piece] }
    }
}

/// Part of a region, for a device.
pub(crate) fn part(region: &Region, skip: u32, bytes: u32) -> DiskBuffer {
    assert!(u64::from(skip) + u64::from(bytes) <= u64::from(region.bytes), "a transfer stays in its region");
    span(region, skip, bytes)
}

/// Sorts pieces by place, merges neighbours and cuts the result into chunks.
pub(crate) fn plan<T>(mut pieces: Vec<Piece<T>>, coalesce_bytes: u32) -> Vec<Vec<Transfer<T>>> {
    pieces.sort_by_key(|piece| piece.offset);
    let mut transfers: Vec<Transfer<T>> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match transfers.last_mut() {
            Some(last) if last.bytes.saturating_add(piece.bytes) <= coalesce_bytes && follows(last, &piece) => {
                last.bytes += piece.bytes;
                last.pieces.push(piece);
            }
            _ => transfers.push(Transfer::of(piece)),
        }
    }
    cut(transfers)
}

fn follows<T>(last: &Transfer<T>, piece: &Piece<T>) -> bool {
    last.pieces.last().is_some_and(|before| before.is_followed_by(piece))
}

fn cut<T>(transfers: Vec<Transfer<T>>) -> Vec<Vec<Transfer<T>>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for transfer in transfers {
        bytes += u64::from(transfer.bytes);
        chunk.push(transfer);
        if bytes >= CHUNK_BYTES || chunk.len() >= CHUNK_TRANSFERS {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

fn span(region: &Region, skip: u32, bytes: u32) -> DiskBuffer {
    DiskBuffer {
        address: region.address + skip as usize,
        bytes,
        arena_offset: Some(region.arena_offset + u64::from(skip)),
        keep: region.keep.clone(),
    }
}

fn operation(way: Way, offset: u64, buffer: DiskBuffer) -> DiskOp {
    match way {
        Way::FromDevice => DiskOp::Read { offset, into: buffer },
        Way::ToDevice => DiskOp::Write { offset, from: buffer },
    }
}

#[cfg(test)]
mod tests;
