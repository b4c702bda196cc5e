//! A GPU without a GPU: host memory, and an order of events that follows from a seed (INV-9).
//!
//! Work put on a lane is only noted; it happens when somebody waits for a mark behind it, in pieces, and before each piece
//! a coin decides whether another lane goes first. So a copy is half done while others run, bytes change late, and the
//! same calls with the same seed give the same history. There is no real time.
//!
//! A [`Machine`] stands for the driver of one computer: devices made from it open each other's memory by handle, as
//! processes would; a real process lends its memory with [`shared_handle`]. [`Faults`] make a device refuse, run out of memory or be lost. Work that meets memory that was
//! released meanwhile is a violation of INV-8: the device counts it, and tests assert that there was none.

mod device;
mod faults;
mod memory;
mod shared;

pub use device::Simulated;
pub use faults::Faults;
pub use memory::Machine;
pub use shared::shared_handle;
