//! A worker's KV memory and the moves of chains between it and blocks, one call per chain.
//!
//! ```text
//!  worker KV (IPC, any layout)  ── save: gather ──►  canonical bytes in a host arena or in the pool
//!                               ◄─ load: scatter ──
//! ```
//!
//! A call is one job on one lane, in stages: ranges of layers, in the order asked for. [`MoveProgress::wait`] tells when a
//! range has arrived, so that attention of layer 0 can start while layer 20 still travels.
//!
//! # Which way the bytes go
//!
//! Between GPU memory and GPU memory a kernel gathers and scatters. Between GPU and host long runs go through the copy
//! engines, in one batch where the driver has it, and short ones through the same kernel, which reaches pinned host memory
//! itself. What is long is measured on the machine ([`CopiedFrom`](crate::CopiedFrom)).
//!
//! # Checksums: which hop each covers
//!
//! | move | computed or verified | covers |
//! |---|---|---|
//! | host → worker | host copy before the upload, if the block says what to expect | everything up to the arena |
//! | pool → worker | by the GPU before the scatter, if the block says what to expect | the stay in the pool |
//! | worker → pool | by the GPU after the gather; [`MoveProgress::checksums`] | from the pool on |
//! | worker → pool → host | the same, and whoever commits the host slot compares | from the pool on, the bus included |
//! | worker → host | by whoever commits the host slot | from the arena on |
//!
//! What travels last, over the bus or through the scatter, is covered by the bus's and the memory's own ECC only.
//!
//! # A worker that dies
//!
//! | when | what happens |
//! |---|---|
//! | before the import | the handle is refused |
//! | imported, idle | the driver keeps the memory while it is open here; it is closed when the last [`WorkerMemory`] goes |
//! | the device hangs | the tier is poisoned, whoever waits is told; the job keeps all it has until the device is done, or for ever |
//! | a job waits or flies | the job holds the [`WorkerMemory`]: it is closed behind it (INV-8), and the outcome is nobody's |
//! | it frees the memory meanwhile | the same: the driver's mapping here is its own; should the device fault, its tier is poisoned and no other |

use std::any::Any;

mod call;
mod progress;
mod worker;

pub use call::{BlockPlace, CHECKED_BLOCKS_MAX, ChainBlock, ChainMove, MoveRefused, PartOf};
pub use progress::{MoveError, MoveProgress};
pub use worker::{ImportError, WorkerMemory};

/// What owns slots and memory while a device uses them.
pub type Keep = Box<dyn Any + Send>;
