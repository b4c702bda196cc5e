//! A leased prefix in the daemon's memory, as Python sees it.

use std::sync::Arc;

use kvtier_client::local::Acquired as Native;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use crate::error::{plain, raise};
use crate::memory::{Block, Lent, Segments, Way, borrow_all, move_segments, scatter};
use crate::outcome::Miss;
use crate::process::Owned;

/// What all views of a chain share.
pub(crate) type Chain = Owned<Native>;

/// The longest resident prefix of a chain, leased, in the daemon's memory: a sequence of Block.
///
/// The lease ends with release(), at the end of a `with`, at its deadline, or when this and every view of its blocks are
/// gone. A reader that may be late asks still_valid() after it has used the bytes.
#[pyclass(frozen, sequence, module = "kvtier")]
pub(crate) struct Acquired {
    chain: Arc<Chain>,
}

impl Acquired {
    pub(crate) fn new(acquired: Native) -> Self {
        Self { chain: Arc::new(Owned::new(acquired)) }
    }

    fn block(&self, index: isize) -> PyResult<Block> {
        let length = self.chain.get()?.len();
        let found = if index < 0 { length.checked_add_signed(index) } else { usize::try_from(index).ok() };
        let found = found.filter(|found| *found < length);
        let missing =
            || PyIndexError::new_err(format!("block {index} of {length}: see .miss for why there are no more"));
        Ok(Block::acquired(&self.chain, found.ok_or_else(missing)?))
    }

    fn lend(&self, index: usize) -> PyResult<Lent> {
        self.block(isize::try_from(index).unwrap_or(isize::MAX))?.lend()
    }

    /// Raises Stale unless everything read of these blocks so far was theirs.
    fn check_intact(&self, mut blocks: impl Iterator<Item = usize>) -> PyResult<()> {
        let acquired = self.chain.get()?;
        match blocks.find(|block| !acquired.is_intact(*block)) {
            None => Ok(()),
            Some(block) => {
                let message =
                    format!("the lease had ended and block {block}'s slot was given back: throw the copy away");
                Err(plain("Stale", &message))
            }
        }
    }
}

#[pymethods]
impl Acquired {
    fn __len__(&self) -> usize {
        self.chain.peek().len()
    }

    fn __getitem__(&self, index: isize) -> PyResult<Block> {
        self.block(index)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let length = self.chain.get()?.len();
        PyList::new(py, (0..length).map(|index| Block::acquired(&self.chain, index)))?.try_iter()
    }

    /// Why the block after the last one is not there; None when the whole chain is.
    #[getter]
    fn miss(&self) -> Option<Miss> {
        let acquired = self.chain.peek();
        acquired.miss.clone().map(|miss| Miss::new(acquired.len(), miss))
    }

    /// When the lease ends by itself: seconds since 1970 by the daemon's clock.
    #[getter]
    fn deadline(&self) -> f64 {
        self.chain.peek().deadline_unix_ms as f64 / 1000.0
    }

    /// Bytes of all blocks that are in host memory.
    #[getter]
    fn nbytes(&self) -> usize {
        let acquired = self.chain.peek();
        (0..acquired.len()).filter_map(|index| acquired.bytes(index)).map(<[u8]>::len).sum()
    }

    /// How many blocks from the first on are in host memory.
    #[getter]
    fn in_host(&self) -> usize {
        let acquired = self.chain.peek();
        (0..acquired.len()).take_while(|index| acquired.offset(*index).is_some()).count()
    }

    /// Whether everything read of every block so far was that block's. Ask after the bytes were used.
    fn still_valid(&self) -> PyResult<bool> {
        Ok(self.chain.get()?.all_intact())
    }

    /// Reads every block once and compares it with its checksum; raises Corrupt. Without the GIL, at memory speed.
    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        let acquired = self.chain.get()?;
        py.detach(|| (0..acquired.len()).try_for_each(|index| acquired.verify(index))).map_err(raise)
    }

    /// Copies a block into buffers, one after the other, which must take all of it. Returns the bytes copied. Raises
    /// Stale when the block's slot was given back meanwhile.
    fn read_into(&self, py: Python<'_>, index: usize, buffers: Vec<Bound<'_, PyAny>>) -> PyResult<usize> {
        let lent = self.lend(index)?;
        let bytes = scatter(py, &lent, &borrow_all(&buffers, Way::IntoBuffers)?)?;
        self.check_intact(std::iter::once(index))?;
        Ok(bytes)
    }

    /// Copies pieces of blocks into pieces of buffers, all in one call and without the GIL. `segments` are rows of five
    /// 64-bit whole numbers: block, offset in the block, buffer, offset in the buffer, length. All of them are checked
    /// before the first byte moves. Returns the bytes copied. Raises Stale when a slot was given back meanwhile.
    fn read_all(&self, py: Python<'_>, buffers: Vec<Bound<'_, PyAny>>, segments: Segments) -> PyResult<usize> {
        let buffers = borrow_all(&buffers, Way::IntoBuffers)?;
        let named = segments.blocks();
        let mut blocks = vec![None; self.chain.get()?.len()];
        for block in named.iter().filter(|block| **block < self.__len__()) {
            blocks[*block] = Some(self.lend(*block)?);
        }
        let bytes = move_segments(py, Way::IntoBuffers, &segments, &blocks, &buffers)?;
        self.check_intact(named.into_iter())?;
        Ok(bytes)
    }

    /// Ends the lease now. Views stay readable, but their bytes may become another block's: still_valid() tells.
    fn release(&self) -> PyResult<()> {
        self.chain.get()?.release();
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.release()
    }

    fn __repr__(&self) -> String {
        let missing = self.miss().map_or_else(String::new, |miss| format!(", then {}", miss.describe()));
        format!("<kvtier.Acquired: {} blocks{missing}>", self.__len__())
    }
}
