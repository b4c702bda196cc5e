//! The two real folders: on io_uring, and with blocking calls where io_uring is refused.

mod blocking;
mod uring;

pub use blocking::BlockingFolder;
pub use uring::UringFolder;
