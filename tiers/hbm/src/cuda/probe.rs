//! Whether this machine has a usable GPU, without ever panicking.

use super::device::CudaGpu;
use super::driver;
use crate::gpu::GpuError;

/// Why there is no GPU. Not an error: the tier then has no room, and everything else works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// No library of the driver was found.
    #[error("no NVIDIA driver here (libcuda.so.1 was not found)")]
    NoDriver,
    /// The driver lacks a call.
    #[error("the NVIDIA driver lacks {0}; it is too old, 525 or newer is needed")]
    OldDriver(&'static str),
    /// The driver would not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Broken(GpuError),
    /// It found nothing.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
}

/// How many GPUs there are; open them with [`CudaGpu::open`].
pub fn probe() -> Result<u32, Absent> {
    if !driver::is_present() {
        return Err(Absent::NoDriver);
    }
    if let Some(symbol) = driver::missing_symbol() {
        return Err(Absent::OldDriver(symbol));
    }
    driver::start().map_err(Absent::Broken)?;
    match driver::device_count().map_err(Absent::Broken)? {
        0 => Err(Absent::NoDevice),
        count => Ok(count),
    }
}

impl CudaGpu {
    /// Every GPU of this machine; those that cannot be used are left out and logged.
    pub fn open_all() -> Result<Vec<Self>, Absent> {
        let opened = (0..probe()?).filter_map(|ordinal| match Self::open(ordinal) {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                tracing::warn!(ordinal, %error, "a GPU is left out");
                None
            }
        });
        Ok(opened.collect())
    }
}
