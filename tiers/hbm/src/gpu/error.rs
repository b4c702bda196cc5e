//! Why a GPU did not do something.

/// What the caller would do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The call makes no sense: a range outside its memory, a memory that is not there. Nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// The device has less memory than was asked for.
    #[error("{asked_bytes} bytes of GPU memory cannot be had: {cause}; ask for less, or free some")]
    OutOfMemory {
        /// Asked for.
        asked_bytes: u64,
        /// What the driver said.
        cause: String,
    },
    /// There is no such device, or it cannot be used here.
    #[error("{0}")]
    Unavailable(String),
    /// The driver refused this call; others may succeed.
    #[error("{call} failed: {cause}")]
    Refused {
        /// Which call of the driver.
        call: &'static str,
        /// Its name for the error.
        cause: String,
    },
    /// The device or its context is gone: nothing succeeds any more until the daemon is started again.
    #[error("the GPU is lost: {0}")]
    Lost(String),
}

impl GpuError {
    /// Whether this GPU must not be used any more.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}
