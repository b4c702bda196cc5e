//! Copies out of blocks that are leased later, on a thread without the GIL.

use super::copy::{Foreign, Segment, Segments, check_range, copy};
use crate::error::raise;
use kvtier_client::ClientError;
use pyo3::PyResult;
use std::ptr::NonNull;

/// Which pieces of which block go where, block by block. Owns the buffers it writes until it is dropped, which takes
/// the GIL.
pub(crate) struct Plan {
    segments: Vec<Segment>,
    /// Where each block's segments end.
    ends: Vec<usize>,
    buffers: Vec<Foreign>,
}

impl Plan {
    /// A plan for a chain of `blocks`. Segments must name its blocks and stay within the buffers; whether they stay
    /// within the blocks shows when those are there.
    pub(crate) fn new(segments: Segments, buffers: Vec<Foreign>, blocks: usize) -> PyResult<Self> {
        let mut segments = segments.0;
        for (row, segment) in segments.iter().enumerate() {
            let block = (segment.block < blocks).then_some(usize::MAX);
            let buffer = buffers.get(segment.buffer).map(|buffer| buffer.length);
            check_range(row, "block", segment.block, segment.block_at, segment.length, block).map_err(raise)?;
            check_range(row, "buffer", segment.buffer, segment.buffer_at, segment.length, buffer).map_err(raise)?;
        }
        segments.sort_by_key(|segment| segment.block);
        let ends = (0..blocks).map(|block| segments.partition_point(|segment| segment.block <= block)).collect();
        Ok(Self { segments, ends, buffers })
    }

    /// How many blocks the chain has.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Copies what is wanted of a block out of its bytes, if all of it is in there; how many bytes.
    pub(crate) fn carry_out(&self, block: usize, bytes: &[u8]) -> Result<usize, ClientError> {
        let first = block.checked_sub(1).map_or(0, |before| self.ends[before]);
        let segments = &self.segments[first..self.ends[block]];
        for (row, segment) in segments.iter().enumerate() {
            check_range(row, "block", block, segment.block_at, segment.length, Some(bytes.len()))?;
        }
        let from = NonNull::from(bytes).cast();
        for segment in segments {
            copy(from, segment.block_at, self.buffers[segment.buffer].start, segment.buffer_at, segment.length);
        }
        Ok(segments.iter().map(|segment| segment.length).sum())
    }
}
