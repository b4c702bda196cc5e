//! Bytes to and from any memory of a GPU, through pinned memory; waits for each.

use std::sync::Arc;

use crate::gpu::{Gpu, GpuError, Lane, MemoryId, Place, Run};

/// Pinned memory of its own and a GPU. For checks; one thread at a time.
pub struct Shuttle {
    gpu: Arc<dyn Gpu>,
    pinned: MemoryId,
}

const BYTES: u64 = 4 << 20;

impl Shuttle {
    /// Takes 4 MiB of pinned memory.
    pub fn new(gpu: &Arc<dyn Gpu>) -> Result<Self, GpuError> {
        Ok(Self { pinned: gpu.pin(BYTES)?, gpu: Arc::clone(gpu) })
    }

    /// Writes a memory from its beginning.
    pub fn upload(&self, to: Place, bytes: &[u8]) -> Result<(), GpuError> {
        let pinned = Place { memory: self.pinned, offset: 0 };
        for (number, piece) in bytes.chunks(BYTES as usize).enumerate() {
            self.gpu.write(pinned, piece)?;
            self.copy(Run { from: pinned, to: to.after(number as u64 * BYTES), bytes: piece.len() as u64 })?;
        }
        Ok(())
    }

    /// Reads so many bytes.
    pub fn download(&self, from: Place, bytes: usize) -> Result<Vec<u8>, GpuError> {
        let pinned = Place { memory: self.pinned, offset: 0 };
        let mut read = vec![0; bytes];
        for (number, piece) in read.chunks_mut(BYTES as usize).enumerate() {
            self.copy(Run { from: from.after(number as u64 * BYTES), to: pinned, bytes: piece.len() as u64 })?;
            self.gpu.read(pinned, piece)?;
        }
        Ok(read)
    }

    /// Flips the lowest bit of a byte.
    pub fn damage(&self, at: Place) -> Result<(), GpuError> {
        let byte = self.download(at, 1)?;
        self.upload(at, &[byte[0] ^ 1])
    }

    fn copy(&self, run: Run) -> Result<(), GpuError> {
        self.gpu.copy(Lane::SaveOut, &[run])?;
        self.gpu.wait(self.gpu.mark(Lane::SaveOut)?)
    }
}

impl Drop for Shuttle {
    fn drop(&mut self) {
        // Every copy was waited for.
        self.gpu.release(self.pinned).ok();
    }
}
