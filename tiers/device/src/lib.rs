//! Disks, behind two small ports: [`Disk`] (aligned block I/O on one big file or device, for the NVMe tier) and
//! [`Folder`] (named append-only files, for the WAL). Each has a real implementation and one in the seeded simulator,
//! whose faults both share.
#![allow(clippy::module_name_repetitions)]

pub mod port;

pub use port::{Disk, DiskBuffer, DiskCounters, DiskError, DiskOp, Folder, LocalBoxFuture, LogFile, Priority};
