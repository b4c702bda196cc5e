//! Reserved slots of a chain, as Python sees them.

use kvtier_client::LocalClient as Native;
use kvtier_client::local::{Commitment, Slot as Reserved};
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyTuple};
use std::sync::Arc;

use crate::error::raise;
use crate::local::Worker;
use crate::memory::{Segments, Slot, Way, borrow_all, gather, move_segments};
use crate::outcome::Outcome;
use crate::pending::Pending;

/// Slots for a chain's blocks, or for one part of each: a sequence of Slot, one for every key.
///
/// Write those whose kind is "write", then commit(). What is neither committed nor aborted is given up when the slots
/// are garbage, and at the end of a `with`.
#[pyclass(frozen, sequence, module = "kvtier")]
pub(crate) struct Reservation {
    slots: Vec<Py<Slot>>,
    worker: Arc<Worker>,
}

/// What is committed, and where its outcomes belong.
struct Taken {
    commitments: Vec<Commitment>,
    places: Vec<usize>,
    /// One for every slot that was asked about; what is committed replaces its own.
    outcomes: Vec<Outcome>,
}

impl Taken {
    /// Commits; one outcome per slot.
    fn commit(self, client: &Native) -> Result<Vec<Outcome>, kvtier_client::ClientError> {
        let Self { commitments, places, mut outcomes } = self;
        for (place, committed) in places.into_iter().zip(client.commit(commitments)?) {
            outcomes[place] = committed.into();
        }
        Ok(outcomes)
    }
}

impl Reservation {
    pub(crate) fn new(py: Python<'_>, worker: &Arc<Worker>, reserved: Vec<Reserved>) -> PyResult<Self> {
        let slots = reserved.into_iter().enumerate();
        let slots = slots.map(|(index, slot)| Py::new(py, Slot::new(index, slot))).collect::<PyResult<_>>()?;
        Ok(Self { slots, worker: Arc::clone(worker) })
    }

    fn slot(&self, index: isize) -> PyResult<&Py<Slot>> {
        let length = self.slots.len();
        let found = if index < 0 { length.checked_add_signed(index) } else { usize::try_from(index).ok() };
        let found = found.and_then(|found| self.slots.get(found));
        found.ok_or_else(|| PyIndexError::new_err(format!("slot {index} of {length}")))
    }

    /// Takes what these slots hold, or nothing if one of them is still lent.
    fn take(&self, indices: Option<Vec<usize>>) -> PyResult<Taken> {
        let indices = indices.unwrap_or_else(|| (0..self.slots.len()).collect());
        let slots = indices.into_iter().map(|index| self.slot(isize::try_from(index).unwrap_or(isize::MAX)));
        let slots: Vec<&Slot> = slots.map(|slot| slot.map(Py::get)).collect::<PyResult<_>>()?;
        slots.iter().try_for_each(|slot| slot.check_unlent())?;
        let mut taken = Taken { commitments: Vec::new(), places: Vec::new(), outcomes: Vec::new() };
        for (place, slot) in slots.into_iter().enumerate() {
            taken.outcomes.push(slot.refused());
            if let Some(commitment) = slot.take()? {
                taken.commitments.push(commitment);
                taken.places.push(place);
            }
        }
        Ok(taken)
    }
}

#[pymethods]
impl Reservation {
    fn __len__(&self) -> usize {
        self.slots.len()
    }

    fn __getitem__(&self, py: Python<'_>, index: isize) -> PyResult<Py<Slot>> {
        Ok(self.slot(index)?.clone_ref(py))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.slots.iter().map(|slot| slot.clone_ref(py)))?.try_iter()
    }

    /// The indices of the slots there is something to write to.
    #[getter]
    fn writable(&self) -> Vec<usize> {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| slot.get().is_writable()).map(|(index, _)| index).collect()
    }

    /// Writes buffers one after the other into a slot, which they must fill. Returns the bytes copied.
    fn write(&self, py: Python<'_>, index: usize, buffers: Vec<Bound<'_, PyAny>>) -> PyResult<usize> {
        let lent = self.slot(isize::try_from(index).unwrap_or(isize::MAX))?.get().lend()?;
        gather(py, &lent, &borrow_all(&buffers, Way::IntoBlocks)?)
    }

    /// Copies pieces of buffers into pieces of slots, all in one call and without the GIL. `segments` are rows of five
    /// 64-bit whole numbers: slot, offset in the slot, buffer, offset in the buffer, length. All of them are checked
    /// before the first byte moves. Returns the bytes copied. Every byte of a slot must be written before its commit.
    fn write_all(&self, py: Python<'_>, buffers: Vec<Bound<'_, PyAny>>, segments: Segments) -> PyResult<usize> {
        let buffers = borrow_all(&buffers, Way::IntoBlocks)?;
        let mut slots = vec![None; self.slots.len()];
        for slot in segments.blocks().into_iter().filter(|slot| *slot < self.slots.len()) {
            slots[slot] = Some(self.slots[slot].get().lend()?);
        }
        move_segments(py, Way::IntoBlocks, &segments, &slots, &buffers)
    }

    /// Says that slots (all, or those of `indices`) are written. One Outcome per slot, in their order. Raises
    /// BufferError, and commits nothing, while one of them can still be written through a view.
    #[pyo3(signature = (indices=None))]
    fn commit(&self, py: Python<'_>, indices: Option<Vec<usize>>) -> PyResult<Vec<Outcome>> {
        let client = self.worker.client.get()?;
        let taken = self.take(indices)?;
        py.detach(|| taken.commit(client)).map_err(raise)
    }

    /// The same without waiting: a Pending[list[Outcome]]. The commit happens even if that is dropped.
    #[pyo3(signature = (indices=None))]
    fn commit_start(&self, indices: Option<Vec<usize>>) -> PyResult<Pending> {
        let client = self.worker.client.get()?.clone();
        let lane = self.worker.slow()?;
        let taken = self.take(indices)?;
        let work = move || {
            let outcomes = taken.commit(&client)?;
            Ok(Box::new(move |py: Python<'_>| Ok(outcomes.into_pyobject(py)?.unbind().into_any())) as _)
        };
        lane.change(work).map_err(raise)
    }

    /// Gives slots (all, or those of `indices`) up. Raises BufferError while one of them can still be written.
    #[pyo3(signature = (indices=None))]
    fn abort(&self, indices: Option<Vec<usize>>) -> PyResult<()> {
        self.take(indices).map(drop)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Gives up what was not committed. A slot that is still lent goes with its last view.
    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        for slot in self.slots.iter().map(Py::get) {
            if slot.check_unlent().is_ok() {
                drop(slot.take()?);
            }
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<kvtier.Reservation: {} slots, {} to write>", self.slots.len(), self.writable().len())
    }
}

/// Lengths of parts: one for all, or one for each.
pub(crate) enum Lengths {
    All(u32),
    Each(Vec<u32>),
}

impl<'py> FromPyObject<'_, 'py> for Lengths {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(all) = given.extract() {
            return Ok(Self::All(all));
        }
        let wrong = |_| PyTypeError::new_err("lengths: give one whole number of bytes, or a list with one per key");
        given.extract().map(Self::Each).map_err(wrong)
    }
}
