//! Copies between the buffers of an engine and the blocks of a chain: one call, one pass, no GIL.
//!
//! An engine's KV cache is one large buffer per layer, and a block of ours is a piece of each. [`Segments`] says which
//! piece goes where; all of it is checked before the first byte moves.

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use bytes::Bytes;
use kvtier_client::ClientError;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use super::lent::Lent;
use crate::error::{invalid, raise, unfit};

/// Numbers of one segment.
const COLUMNS: usize = 5;

/// A buffer of the caller, kept where it is until this is dropped.
pub(crate) struct Foreign {
    pub(super) start: NonNull<u8>,
    pub(super) length: usize,
    _buffer: PyUntypedBuffer,
}

// SAFETY: the range is plain memory bound to no thread, and the buffer that keeps it is `Send`.
unsafe impl Send for Foreign {}
// SAFETY: shared access gives the address away and nothing else.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// Its bytes as they are now.
    pub(crate) fn to_bytes(&self) -> Bytes {
        // SAFETY: the range is the buffer's, which this value keeps. A caller that writes it meanwhile gets what it
        // wrote or what was there before, which the checksum over the copy then covers.
        Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) })
    }
}

/// One copy: `length` bytes between a block at `block_at` and a buffer at `buffer_at`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) block: usize,
    pub(super) block_at: usize,
    pub(super) buffer: usize,
    pub(super) buffer_at: usize,
    pub(super) length: usize,
}

/// Which bytes go where.
pub(crate) struct Segments(pub(super) Vec<Segment>);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From buffers into blocks.
    IntoBlocks,
    /// From blocks into buffers.
    IntoBuffers,
}

/// Borrows the caller's buffers. Their bytes must lie in one piece; those that are to be written must be writable.
pub(crate) fn borrow_all(buffers: &[Bound<'_, PyAny>], way: Way) -> PyResult<Vec<Foreign>> {
    buffers.iter().enumerate().map(|(index, buffer)| borrow(index, buffer, way)).collect()
}

pub(super) fn borrow(index: usize, given: &Bound<'_, PyAny>, way: Way) -> PyResult<Foreign> {
    let buffer = PyUntypedBuffer::get(given)?;
    if !buffer.is_c_contiguous() {
        let message = format!("buffer {index} is strided: give a C-contiguous one and its pieces as segments");
        return Err(PyBufferError::new_err(message));
    }
    if way == Way::IntoBuffers && buffer.readonly() {
        return Err(PyBufferError::new_err(format!("buffer {index} is read-only: give one that can be written")));
    }
    let length = buffer.len_bytes();
    // Only an empty buffer may have no address.
    let start = NonNull::new(buffer.buf_ptr().cast::<u8>()).unwrap_or(NonNull::dangling());
    Ok(Foreign { start, length, _buffer: buffer })
}

impl<'py> FromPyObject<'_, 'py> for Segments {
    type Error = PyErr;

    /// Rows of five 64-bit whole numbers, C-contiguous: block, offset in it, buffer, offset in it, length.
    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(&given)?;
        let wrong = |value: String| {
            let remedy = "give a C-contiguous array of 64-bit integers with rows of five: block, offset in the block, \
                          buffer, offset in the buffer, length";
            invalid("segments", value, remedy)
        };
        let numbers = buffer.len_bytes() / 8;
        if buffer.item_size() != 8 || !is_whole_number(buffer.format()) || !buffer.is_c_contiguous() {
            return Err(wrong(format!("an array of {:?}", buffer.format())));
        }
        if numbers % COLUMNS != 0 {
            return Err(wrong(format!("{numbers} numbers")));
        }
        let mut segments = Vec::with_capacity(numbers / COLUMNS);
        for row in 0..numbers / COLUMNS {
            let [block, block_at, buffer, buffer_at, length] = read_row(&buffer, row).map(whole);
            segments.push(Segment { block, block_at, buffer, buffer_at, length });
        }
        Ok(Self(segments))
    }
}

/// Numbers that fit nowhere are refused as out of bounds.
fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn is_whole_number(format: &CStr) -> bool {
    let format = format.to_bytes();
    matches!(format.strip_prefix(b"@").or(format.strip_prefix(b"<")).unwrap_or(format), b"Q" | b"L" | b"q" | b"l")
}

fn read_row(buffer: &PyUntypedBuffer, row: usize) -> [u64; COLUMNS] {
    let first = buffer.buf_ptr().cast::<u64>();
    std::array::from_fn(|column| {
        let index = row * COLUMNS + column;
        // SAFETY: the caller counted the buffer's whole rows, and this one is among them.
        let number = unsafe { first.add(index) };
        // SAFETY: inside the buffer, as above; an exporter may have aligned it to anything.
        unsafe { number.read_unaligned() }
    })
}

impl Segments {
    /// The blocks that are named, each once, in rising order.
    pub(crate) fn blocks(&self) -> Vec<usize> {
        let mut blocks: Vec<usize> = self.0.iter().map(|segment| segment.block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// Checks every segment against `lengths` of blocks and buffers; the bytes of all.
    fn check(&self, blocks: &[Option<Lent>], buffers: &[Foreign]) -> Result<usize, ClientError> {
        let mut bytes: usize = 0;
        for (row, segment) in self.0.iter().enumerate() {
            let block = blocks.get(segment.block).and_then(Option::as_ref).map(Lent::length);
            let buffer = buffers.get(segment.buffer).map(|buffer| buffer.length);
            check_range(row, "block", segment.block, segment.block_at, segment.length, block)?;
            check_range(row, "buffer", segment.buffer, segment.buffer_at, segment.length, buffer)?;
            bytes = bytes.saturating_add(segment.length);
        }
        Ok(bytes)
    }
}

/// Whether a segment's range lies in a block or buffer of `size` bytes; `None`: there is no such one.
pub(super) fn check_range(
    row: usize,
    what: &str,
    index: usize,
    at: usize,
    length: usize,
    size: Option<usize>,
) -> Result<(), ClientError> {
    match size {
        None => Err(unfit("segments", format!("{what} {index} in row {row}"), "name one that was given")),
        Some(size) if at.checked_add(length).is_none_or(|end| end > size) => {
            let value = format!("bytes {at} and {length} more of {what} {index} in row {row}");
            Err(unfit("segments", value, &format!("stay within its {size} bytes")))
        }
        Some(_) => Ok(()),
    }
}

/// Carries out every segment, without the GIL; how many bytes. `blocks` holds what [`Segments::blocks`] names.
pub(crate) fn move_segments(
    py: Python<'_>,
    way: Way,
    segments: &Segments,
    blocks: &[Option<Lent>],
    buffers: &[Foreign],
) -> PyResult<usize> {
    let bytes = segments.check(blocks, buffers).map_err(raise)?;
    py.detach(|| {
        for segment in &segments.0 {
            let Some(block) = &blocks[segment.block] else { continue };
            let buffer = &buffers[segment.buffer];
            match way {
                Way::IntoBlocks => {
                    debug_assert!(block.writable, "only slots are written");
                    copy(buffer.start, segment.buffer_at, block.start, segment.block_at, segment.length);
                }
                Way::IntoBuffers => {
                    copy(block.start, segment.block_at, buffer.start, segment.buffer_at, segment.length)
                }
            }
        }
    });
    Ok(bytes)
}

/// Writes buffers one after the other into a slot, which they must fill.
pub(crate) fn gather(py: Python<'_>, slot: &Lent, buffers: &[Foreign]) -> PyResult<usize> {
    check_sum("what the slot holds", slot.length, buffers)?;
    py.detach(|| {
        let mut at = 0;
        for buffer in buffers {
            copy(buffer.start, 0, slot.start, at, buffer.length);
            at += buffer.length;
        }
    });
    Ok(slot.length)
}

/// Fills buffers one after the other from a block, all of which they must take.
pub(crate) fn scatter(py: Python<'_>, block: &Lent, buffers: &[Foreign]) -> PyResult<usize> {
    check_sum("what the block has", block.length, buffers)?;
    py.detach(|| {
        let mut at = 0;
        for buffer in buffers {
            copy(block.start, at, buffer.start, 0, buffer.length);
            at += buffer.length;
        }
    });
    Ok(block.length)
}

fn check_sum(what: &str, length: usize, buffers: &[Foreign]) -> PyResult<()> {
    let sum = buffers.iter().map(|buffer| buffer.length).fold(0, usize::saturating_add);
    if sum == length {
        return Ok(());
    }
    let remedy = format!("they must come to {length} bytes, {what}; for pieces of it there are segments");
    Err(invalid("buffers", format!("{sum} bytes in all"), &remedy))
}

/// `length` bytes; both ranges were checked. They may overlap, for a caller may give a view of the arena.
pub(super) fn copy(from: NonNull<u8>, from_at: usize, into: NonNull<u8>, into_at: usize, length: usize) {
    // SAFETY: the offset lies within the range, which is one allocation.
    let from = unsafe { from.add(from_at) };
    // SAFETY: as above.
    let into = unsafe { into.add(into_at) };
    // SAFETY: both ranges are inside what their owners keep, one of them may be written, and bytes have no other rules.
    // What other threads do to them meanwhile is the caller's, as with any two buffers in Python.
    unsafe { ptr::copy(from.as_ptr(), into.as_ptr(), length) };
}
