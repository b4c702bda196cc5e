//! Disks, behind two small ports: [`Disk`] (aligned block I/O on one big file or device, for the NVMe tier) and
//! [`Folder`] (named append-only files, for the WAL). Each has a real implementation and one in the seeded simulator,
//! whose faults both share.
//!
//! | port | adapter | for |
//! |---|---|---|
//! | [`Disk`] | [`UringDisk`] | production: io_uring, O_DIRECT, registered file and memory |
//! | | [`PoolDisk`] | where io_uring is forbidden |
//! | | [`sim::SimDisk`] | tests: seeded faults, crashes |
//! | [`Folder`] | [`StdFolder`] | tools and tests; blocks |
//! | | [`sim::SimFolder`] | tests |
//!
//! What this crate is not: it knows nothing of blocks, slots or checksums. It moves bytes, says truthfully whether they
//! moved, and keeps memory alive while a device may touch it (INV-8).
//!
//! Reading order: [`port`], `local`, `transfer`, `backlog`, `sync_line`, `uring/reactor`, [`sim`], [`conformance`].
//!
//! # Memory
//!
//! A [`DiskBuffer`] is an address; that it names mapped memory of that size for as long as `keep` lives is the promise
//! of whoever made it. Safe makers are [`AlignedBuffer`] and the host tier's arena. All unsafe code of the disks stands
//! on that promise.

mod aligned;
mod answer;
mod backing;
mod backlog;
pub mod conformance;
mod ledger;
mod local;
mod memory;
mod pool;
pub mod port;
mod settings;
pub mod sim;
mod std_folder;
mod sync_line;
mod transfer;
mod uring;

pub use aligned::{AlignedBuffer, Arena};
pub use backing::{Backing, DiskIdentity, IdentityChange, OpenError};
pub use local::{LocalDisk, open_disk};
pub use pool::PoolDisk;
pub use port::{
    BoxFuture, Disk, DiskBuffer, DiskCounters, DiskError, DiskOp, Folder, LocalBoxFuture, LogFile, Priority,
};
pub use settings::{DiskSettings, Driver};
pub use std_folder::StdFolder;
pub use transfer::ALIGNMENT_BYTES;
pub use uring::{UringDisk, UringProbe, probe};
