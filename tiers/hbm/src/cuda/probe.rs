//! Whether this machine has a usable GPU, without ever panicking.

use super::device::CudaGpu;
use super::driver;
use crate::gpu::GpuError;

/// The CUDA that the kernels' PTX, 8.1, came with.
const KERNELS_VERSION: u32 = 12010;

/// Why there is no GPU. Not an error: the tier then has no room, and everything else works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// No library of the driver was found.
    #[error("no NVIDIA driver here (libcuda.so.1 was not found)")]
    NoDriver,
    /// The driver lacks a call.
    #[error("the NVIDIA driver lacks {0}; it is too old, 530 or newer is needed")]
    OldDriver(&'static str),
    /// The driver cannot compile the kernels.
    #[error("the NVIDIA driver knows CUDA {}.{}, and 12.1 is needed: install 530 or newer", .0 / 1000, .0 % 1000 / 10)]
    OldCuda(u32),
    /// The driver would not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Broken(GpuError),
    /// It found nothing.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// None of those it found can be used; the first one's number and reason.
    #[error("no GPU can be used; GPU {0}: {1}")]
    Unusable(u32, GpuError),
}

/// How many GPUs there are; open one with [`CudaGpu::open`], all with [`Machine::open`].
pub fn probe() -> Result<u32, Absent> {
    if !driver::is_present() {
        return Err(Absent::NoDriver);
    }
    if let Some(symbol) = driver::missing_symbol() {
        return Err(Absent::OldDriver(symbol));
    }
    if !driver::start().map_err(Absent::Broken)? {
        return Err(Absent::NoDevice);
    }
    let version = driver::driver_version().map_err(Absent::Broken)?;
    if version < KERNELS_VERSION {
        return Err(Absent::OldCuda(version));
    }
    match driver::device_count().map_err(Absent::Broken)? {
        0 => Err(Absent::NoDevice),
        count => Ok(count),
    }
}

/// The GPUs of this machine.
pub struct Machine {
    /// Those that can be used: at least one.
    pub gpus: Vec<CudaGpu>,
    /// Why the others cannot, by their numbers.
    pub left_out: Vec<(u32, GpuError)>,
}

impl Machine {
    /// Opens them.
    pub fn open() -> Result<Self, Absent> {
        let (mut gpus, mut left_out) = (Vec::new(), Vec::new());
        for ordinal in 0..probe()? {
            match CudaGpu::open(ordinal) {
                Ok(gpu) => gpus.push(gpu),
                Err(error) => left_out.push((ordinal, error)),
            }
        }
        match left_out.first() {
            Some((ordinal, error)) if gpus.is_empty() => Err(Absent::Unusable(*ordinal, error.clone())),
            _ => Ok(Self { gpus, left_out }),
        }
    }
}
