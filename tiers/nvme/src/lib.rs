//! The NVMe tier: KV blocks in preallocated data files or raw devices, one disk each.
//!
//! [`NvmeTier`] implements the engine's [`Tier`](kvtier_engine::port::Tier) port over
//! [`Disk`](kvtier_device::Disk)s. It moves whole slots between the host arena and the devices without a bounce copy
//! and verifies every block it reads. It is *not* where slots are given out (the catalog), nor where it is remembered
//! what is in them (the index and the log): a data file holds a superblock and slots, and nothing that says which
//! slots are in use. The extent map is derived from the index at start.
//!
//! # One block's way
//!
//! ```text
//! store   payload still as committed? -> header page -> ONE transfer of header and payload -> Written
//!         -> sync (shared by all who wait) -> file still there? -> durable                       INV-3, INV-7
//! load    ONE transfer -> header decodes? -> block, generation, length, checksum as the index says?
//!         -> payload checksum -> Verified                                                        INV-1
//! ```
//!
//! Anything else is `Corrupt` (the device answered with other bytes) or `Failed` (it did not answer).
//!
//! # Who owns the memory
//!
//! Host slots belong to an operation from the call until its outcome, whoever drops the future (INV-8): every
//! operation is a task of its own, run by the `Spawn` port, and the disk keeps the mapping alive. Verification in
//! place uses the tier's own scratch memory, one lane per device.
//!
//! # What a crash does at each step
//!
//! | crash | the slot then holds | after the restart |
//! |---|---|---|
//! | before or during the transfer | old bytes, or a mixture | nothing in the index names it; an older entry finds another generation or checksum: corrupt, a miss |
//! | after the transfer, before the sync | new bytes, or not | as above |
//! | after the sync, before the log record | new bytes | nothing names it: free space |
//! | after the log record | new bytes | a hit |
//!
//! # What goes wrong, and what happens then
//!
//! | fault | outcome | device |
//! |---|---|---|
//! | flipped bit, torn, lost, misdirected or swapped write, stale slot, zeroed sector | `Corrupt(reason)` | counted; many of them open the breaker |
//! | read error | `Failed(Io)` | counted |
//! | breaker open | `Failed(Io)` at once, loads and stores | `Tripped`; probed until it reads again |
//! | sync failed | `Poisoned`, for good | `Poisoned`: loads only |
//! | file deleted, replaced or truncated | stores and syncs `Poisoned`; loads as before | `Poisoned` |
//! | queue full | `Failed(Busy)` | |
//!
//! Reading order: [`settings`], [`layout`], [`superblock`], [`open`], `chunk`, `store`, `load`, `check`, `sync`,
//! `breaker`, `probe`, `verify`; [`conformance`] and [`fake`] for tests.
#![forbid(unsafe_code)]

mod answers;
mod breaker;
pub mod check;
mod chunk;
pub mod conformance;
mod device;
pub mod fake;
pub mod layout;
mod load;
pub mod open;
mod pace;
mod permit;
pub mod presence;
mod probe;
mod scratch;
pub mod settings;
mod shared;
mod store;
pub mod superblock;
mod sync;
pub mod tier;
mod verify;

pub use device::DeviceCounters;
pub use open::{DeviceSource, OpenError, Refusal, bytes_to_create};
pub use presence::{AlwaysPresent, Presence};
pub use scratch::scratch_bytes;
pub use settings::{NvmeSettings, Problem};
pub use superblock::{NodeId, Superblock, SuperblockError};
pub use tier::{NvmeTier, Ports};
