//! The HBM tier: KV blocks in GPU memory, and moves between blocks and the KV memory of inference workers.
//!
//! **Not yet verified on hardware.** Everything here is tested on a simulated device; the calls of the driver are written
//! from its documentation, run on a stand-in that was written from it, too (`tests/hbm/driver`), and have not run on a GPU yet
//! (`make gpu-check` is what will show).
//!
//! [`HbmTier`] implements the engine's [`Tier`](kvtier_engine::port::Tier) port over [`Gpu`](gpu::Gpu)s. It moves whole
//! slots between host arenas and a pool on each GPU. [`WorkerMemory`] is a worker's KV cache, opened by CUDA IPC, and moves
//! chains between it and slots. The crate is *not* where slots are given out: of the pool, [`HotPool`] keeps a catalog of
//! its own; of host memory, the engine does.
//!
//! # Who owns what
//!
//! ```text
//! one per GPU   context (primary, retained) ── 4 lanes: streams, loads with priority, one per direction
//!               queue ── submitter thread, one waiter thread per lane
//!               pool  ── one allocation, cut into extents and slots like an arena; header page, then payload
//!               arenas of the host tier, registered: pinned until the tier closes
//! per worker    imported allocations, open until their last move is over and their owner has gone
//! per job       its slots, its worker's memory, its scratch memory: until the device is done with it (INV-8)
//! ```
//!
//! # Errors
//!
//! Every call of the driver is checked. What a later call may get right is that operation's failure. What the driver calls
//! sticky poisons that GPU's tier: its blocks are misses, its operations fail at once, `status` says why; host and NVMe
//! tier and other GPUs go on, and only a restart of the daemon helps. Without a driver there is no device and no room.
//!
//! # What a crash does
//!
//! GPU memory does not survive the daemon. A worker keeps its own memory; it hears nothing more and recomputes.
//!
//! Reading order: [`gpu`], [`simulated`], [`cuda`], [`layout`], [`checksum`], `queue`, [`tier`], [`chain`], `ways`, [`pool`].
#![deny(unsafe_code)]

mod answers;
pub mod chain;
pub mod checksum;
pub mod conformance;
#[allow(unsafe_code, reason = "calls of the driver; every unsafe block is in cuda/driver.rs")]
pub mod cuda;
mod device;
pub mod gpu;
pub mod layout;
mod news;
pub mod pool;
mod queue;
pub mod settings;
pub mod simulated;
pub mod tier;
mod ways;

pub use chain::{BlockPlace, ChainBlock, ChainMove, WorkerMemory};
pub use pool::HotPool;
pub use settings::{HbmSettings, PoolSize};
pub use tier::{Drive, HbmTier, OpenError};
pub use ways::CopiedFrom;
