//! Equal rows of one buffer of the caller's, such as the pool in which an engine keeps blocks it has taken off its device.

use pyo3::prelude::*;

use super::copy::{Foreign, Way, borrow, copy};
use crate::error::invalid;

/// Rows `stride` bytes apart, of which `bytes` count. The buffer stays where it is until this is dropped; who may write
/// a row at a time is the caller's business, as with any buffer of Python's.
pub(crate) struct Rows {
    buffer: Foreign,
    stride: usize,
    bytes: usize,
}

impl Rows {
    /// Borrows a writable buffer in one piece.
    pub(crate) fn borrow(given: &Bound<'_, PyAny>, stride: usize, bytes: usize) -> PyResult<Self> {
        if bytes == 0 || bytes > stride || u32::try_from(bytes).is_err() {
            return Err(invalid("row_bytes", bytes.to_string(), &format!("use 1 to {stride}, the stride")));
        }
        Ok(Self { buffer: borrow(0, given, Way::IntoBuffers)?, stride, bytes })
    }

    /// Bytes of a row that count.
    pub(crate) fn row_bytes(&self) -> u32 {
        u32::try_from(self.bytes).expect("checked when it was borrowed")
    }

    /// How many rows lie in the buffer with all their bytes.
    pub(crate) fn count(&self) -> usize {
        let last = self.buffer.length.checked_sub(self.bytes);
        last.map_or(0, |last| last / self.stride + 1)
    }

    /// Fills a row from a block of the same length.
    pub(crate) fn fill(&self, row: usize, block: &[u8]) {
        assert!(row < self.count() && block.len() == self.bytes, "rows and lengths are checked before");
        copy(std::ptr::NonNull::from(block).cast(), 0, self.buffer.start, row * self.stride, self.bytes);
    }

    /// Copies a row into a slot of the same length.
    pub(crate) fn copy_into(&self, row: usize, slot: &mut [u8]) {
        assert!(row < self.count() && slot.len() == self.bytes, "rows and lengths are checked before");
        copy(self.buffer.start, row * self.stride, std::ptr::NonNull::from(slot).cast(), 0, self.bytes);
    }
}
