//! An address that stays good.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use pyo3::PyErr;
use pyo3::ffi::{Py_buffer, PyBuffer_FillInfo, PyObject};
use pyo3::prelude::*;

/// What keeps an address good for as long as it lives.
pub(crate) trait Keep: Send + Sync {}

impl<T: Send + Sync> Keep for T {}

/// A range of memory, and what keeps it.
#[derive(Clone)]
pub(crate) struct Lent {
    pub(super) start: NonNull<u8>,
    pub(super) length: usize,
    pub(super) writable: bool,
    pub(super) _keep: Arc<dyn Keep>,
}

// SAFETY: the range is plain memory bound to no thread, and what keeps it is itself `Send`.
unsafe impl Send for Lent {}
// SAFETY: shared access gives the address away and nothing else; who may write there is said by `writable`.
unsafe impl Sync for Lent {}

impl Lent {
    /// Bytes that `keep` keeps where they are.
    pub(super) fn reading(bytes: &[u8], keep: Arc<dyn Keep>) -> Self {
        Self { start: NonNull::from(bytes).cast(), length: bytes.len(), writable: false, _keep: keep }
    }

    /// The same for bytes that only the borrower writes.
    pub(super) fn writing(bytes: &mut [u8], keep: Arc<dyn Keep>) -> Self {
        let length = bytes.len();
        Self { start: NonNull::from(bytes).cast(), length, writable: true, _keep: keep }
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Fills a buffer request of Python. `owner` is what the view will hold; it must keep this alive.
    ///
    /// # Safety
    ///
    /// `view` is what Python gave to `__getbuffer__`.
    pub(super) unsafe fn fill(&self, view: *mut Py_buffer, flags: c_int, owner: *mut PyObject) -> PyResult<()> {
        let start = self.start.as_ptr().cast::<c_void>();
        let length = isize::try_from(self.length).expect("a block has at most 64 MiB");
        // SAFETY: `view` is Python's by the caller's word, and the range is good for as long as `owner` lives.
        let filled = unsafe { PyBuffer_FillInfo(view, owner, start, length, c_int::from(!self.writable), flags) };
        match filled {
            0 => Ok(()),
            _ => Err(Python::attach(PyErr::fetch)),
        }
    }
}
