//! A slot of the arena that Python writes.
//!
//! ```text
//!   Write ── lend (views counted) ──> Write ── take, with no view left ──> Gone (committed or given up)
//! ```

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use kvtier_client::local::{Commitment, Slot as Reserved};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi::Py_buffer;
use pyo3::prelude::*;

use super::dlpack;
use super::lent::Lent;
use crate::outcome::Outcome;
use crate::process::{self, Owned};

/// One part of one block, reserved. `memoryview(slot)` and `numpy.frombuffer(slot, ...)` write it in place; write all
/// of it, since its bytes are whatever stood there before. It cannot be committed or aborted while a view of it lives.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Slot {
    place: Arc<Writing>,
    /// Position in the chain.
    #[pyo3(get)]
    index: usize,
    /// Length in bytes; 0 when there is nothing to write.
    #[pyo3(get)]
    nbytes: usize,
    /// "write", "duplicate" (it is there already), "declined" or "rejected".
    #[pyo3(get)]
    kind: &'static str,
    /// Why it was declined, as one word.
    #[pyo3(get)]
    reason: Option<String>,
    /// Why it was declined or rejected, and what to do.
    #[pyo3(get)]
    detail: String,
}

/// What is reserved, and how many views write it.
#[derive(Debug)]
pub(crate) struct Writing {
    held: Mutex<Option<Owned<Commitment>>>,
    views: AtomicUsize,
    process: u32,
}

/// One view of a slot.
struct View(Arc<Writing>);

impl View {
    fn new(place: &Arc<Writing>) -> Self {
        place.views.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(place))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.0.views.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Writing {
    fn held(&self) -> MutexGuard<'_, Option<Owned<Commitment>>> {
        self.held.lock().expect("nobody panics while looking at a slot")
    }

    /// Raises BufferError while anybody may write it.
    fn check_unlent(&self, index: usize) -> PyResult<()> {
        match self.views.load(Ordering::SeqCst) {
            0 => Ok(()),
            views => Err(PyBufferError::new_err(format!(
                "slot {index} can still be written through {views} views: release them first (memoryview.release(), \
                 del the arrays)"
            ))),
        }
    }
}

impl Slot {
    pub(crate) fn new(index: usize, reserved: Reserved) -> Self {
        let (kind, reason, detail) = describe(&reserved);
        let held = match reserved {
            Reserved::Write(reservation) => Some(Commitment::Written(reservation)),
            Reserved::Duplicate(existing) => existing.map(Commitment::Existing),
            Reserved::Declined { .. } | Reserved::Rejected(_) => None,
        };
        let nbytes = match &held {
            Some(Commitment::Written(reservation)) => reservation.len(),
            _ => 0,
        };
        let process = std::process::id();
        let writing = Writing { held: Mutex::new(held.map(Owned::new)), views: AtomicUsize::new(0), process };
        Self { place: Arc::new(writing), index, nbytes, kind, reason, detail }
    }

    /// What a slot comes to if nothing is committed.
    pub(crate) fn outcome_of(reserved: &Reserved) -> Outcome {
        let (kind, reason, detail) = describe(reserved);
        Outcome::of_slot(kind, reason, detail)
    }

    /// What it will come to if nothing is committed.
    pub(crate) fn refused(&self) -> Outcome {
        Outcome::of_slot(self.kind, self.reason.clone(), self.detail.clone())
    }

    /// Its bytes for as long as the answer lives, to be written.
    pub(crate) fn lend(&self) -> PyResult<Lent> {
        process::check(self.place.process)?;
        let mut held = self.place.held();
        match held.as_mut().map(Owned::get_mut).transpose()? {
            // The view is counted under the lock, so that nobody takes the reservation in between.
            Some(Commitment::Written(reservation)) => {
                Ok(Lent::writing(&mut reservation[..], Arc::new(View::new(&self.place))))
            }
            _ => {
                let index = self.index;
                let why = match self.kind {
                    "write" => "it was committed or given up".to_owned(),
                    kind => format!("it is {kind}, there is nothing to write"),
                };
                Err(PyBufferError::new_err(format!("slot {index} cannot be written: {why}")))
            }
        }
    }

    /// Whether there is something to write, still.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.place.held().as_ref().map(Owned::peek), Some(Commitment::Written(_)))
    }

    /// Raises BufferError while a view of it is alive.
    pub(crate) fn check_unlent(&self) -> PyResult<()> {
        process::check(self.place.process)?;
        self.place.check_unlent(self.index)
    }

    /// Takes the reservation, to commit it or give it up. None: there is none (any more).
    pub(crate) fn take(&self) -> PyResult<Option<Commitment>> {
        process::check(self.place.process)?;
        let mut held = self.place.held();
        self.place.check_unlent(self.index)?;
        held.take().map(Owned::into_value).transpose()
    }
}

#[pymethods]
impl Slot {
    fn __len__(&self) -> usize {
        self.nbytes
    }

    fn __repr__(&self) -> String {
        match self.kind {
            "write" => format!("<kvtier.Slot {}: {} bytes to write>", self.index, self.nbytes),
            kind => format!("<kvtier.Slot {}: {kind} {}>", self.index, self.detail),
        }
    }

    /// # Safety
    ///
    /// Called by Python alone, with a view of its own.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut Py_buffer, flags: c_int) -> PyResult<()> {
        let lent = slf.get().lend()?;
        // SAFETY: `view` is Python's. The slot, which the view holds, keeps the reservation, and the view stays counted
        // until `__releasebuffer__`.
        unsafe { lent.fill(view, flags, slf.as_ptr()) }?;
        slf.get().place.views.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// # Safety
    ///
    /// Called by Python alone, once for each view it was given.
    unsafe fn __releasebuffer__(&self, _view: *mut Py_buffer) {
        self.place.views.fetch_sub(1, Ordering::SeqCst);
    }

    /// The bytes as a DLPack capsule: CPU, uint8, one dimension, writable.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        dlpack::check(stream.is_some(), dl_device, copy)?;
        dlpack::capsule(py, self.lend()?, max_version)
    }

    /// (1, 0): the CPU.
    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }
}

/// Its kind, and why it was refused: as one word, and in words.
fn describe(reserved: &Reserved) -> (&'static str, Option<String>, String) {
    match reserved {
        Reserved::Write(_) => ("write", None, String::new()),
        Reserved::Duplicate(_) => ("duplicate", None, String::new()),
        Reserved::Declined { reason, detail } => {
            ("declined", Some(kvtier_client::word::decline_reason((*reason).into())), detail.clone())
        }
        Reserved::Rejected(detail) => ("rejected", None, detail.clone()),
    }
}
