//! A real GPU through its driver, which is loaded at run time: the same binary runs on machines without one.
//!
//! [`probe`] is the only way in and never panics: it looks for the driver's library, then for every symbol this crate
//! calls, and only then calls any. Everything unsafe is in `driver.rs`, one call of the driver per function; `device.rs`
//! checks every range against the memory it was given before an address leaves it.
//!
//! The kernels are embedded as PTX for compute capability 8.0, which the driver compiles for its device when the module is
//! loaded; no compiler is needed on the machine. `make/kernels.sh` makes the PTX.

mod arguments;
mod device;
mod driver;
mod memory;
mod probe;
mod registered;

pub use device::CudaGpu;
pub use probe::{Absent, Machine, probe};
