//! A block that is there, as Python sees it.

use std::ffi::c_int;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi::Py_buffer;
use pyo3::prelude::*;

use super::dlpack;
use super::lent::Lent;
use crate::acquired::Chain;
use crate::error::raise;
use crate::process;

/// Where a block's bytes are.
pub(crate) enum Source {
    /// In the daemon's memory.
    Arena(Arc<Chain>),
    /// In this process: they came over gRPC, and were compared with their checksum.
    Received(Arc<Bytes>),
}

/// A resident block. Its bytes are read in place: `memoryview(block)`, `numpy.frombuffer(block, ...)`,
/// `torch.from_dlpack(block)`.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Block {
    source: Source,
    /// Position in the chain that was asked for.
    #[pyo3(get)]
    index: usize,
    /// CRC-32 of the bytes as the daemon knows it.
    #[pyo3(get)]
    crc32: u32,
    /// Length in bytes; 0 when the block is not in host memory.
    #[pyo3(get)]
    nbytes: usize,
    /// The tier it was found in.
    #[pyo3(get)]
    tier: String,
    process: u32,
}

impl Block {
    /// A block of an acquired chain.
    pub(crate) fn acquired(chain: &Arc<Chain>, index: usize) -> Self {
        let acquired = chain.peek();
        let bytes = acquired.bytes(index);
        Self {
            index,
            crc32: acquired.crc(index).unwrap_or_default(),
            nbytes: bytes.map_or(0, <[u8]>::len),
            tier: if bytes.is_some() { "host" } else { "nvme" }.to_owned(),
            source: Source::Arena(Arc::clone(chain)),
            process: std::process::id(),
        }
    }

    /// A block that came over gRPC.
    pub(crate) fn received(block: kvtier_client::Block) -> Self {
        Self {
            index: block.index as usize,
            crc32: block.crc32,
            nbytes: block.bytes.len(),
            tier: kvtier_client::word::tier(block.tier.into()),
            source: Source::Received(Arc::new(block.bytes)),
            process: std::process::id(),
        }
    }

    /// Its bytes for as long as the answer lives.
    pub(crate) fn lend(&self) -> PyResult<Lent> {
        process::check(self.process)?;
        match &self.source {
            Source::Received(bytes) => Ok(Lent::reading(bytes, Arc::clone(bytes) as _)),
            Source::Arena(chain) => match chain.get()?.bytes(self.index) {
                Some(bytes) => Ok(Lent::reading(bytes, Arc::clone(chain) as _)),
                None => {
                    let message = format!("block {} is not in host memory: acquire with min_tier=\"host\"", self.index);
                    Err(PyBufferError::new_err(message))
                }
            },
        }
    }
}

#[pymethods]
impl Block {
    /// Whether everything read of it so far was this block's. Ask after the bytes were used; False means that the
    /// lease had ended and the slot was given back, so throw away what was made of them.
    fn still_valid(&self) -> PyResult<bool> {
        process::check(self.process)?;
        Ok(match &self.source {
            Source::Arena(chain) => chain.get()?.is_intact(self.index),
            Source::Received(_) => true,
        })
    }

    /// Reads the block once and compares it with its checksum; raises Corrupt.
    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        match &self.source {
            Source::Arena(chain) => {
                let acquired = chain.get()?;
                py.detach(|| acquired.verify(self.index)).map_err(raise)
            }
            Source::Received(_) => Ok(()),
        }
    }

    fn __len__(&self) -> usize {
        self.nbytes
    }

    fn __repr__(&self) -> String {
        format!("<kvtier.Block {}: {} bytes in {}, crc32 {:08x}>", self.index, self.nbytes, self.tier, self.crc32)
    }

    /// # Safety
    ///
    /// Called by Python alone, with a view of its own.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut Py_buffer, flags: c_int) -> PyResult<()> {
        let lent = slf.get().lend()?;
        // SAFETY: `view` is Python's, and this block, which the view holds, keeps the bytes.
        unsafe { lent.fill(view, flags, slf.as_ptr()) }
    }

    /// The bytes as a DLPack capsule: CPU, uint8, one dimension, read-only.
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
