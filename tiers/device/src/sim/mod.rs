//! A machine's disks and folders in a seeded simulator.
//!
//! One [`SimWorld`] holds every device of a simulated machine, the fault plan they share, and the operations under way.
//! Nothing moves by itself: an operation is only queued when it is called, and each [`SimWorld::step`] picks one of
//! those under way, by the seed, and completes it. There are no threads and no clocks, so one seed and one program have
//! one history (INV-9), whose [`Fingerprint`] two runs can compare.
//!
//! ```text
//!   SimDisk, SimFolder ── call ──> under way ── step() picks one ──> Image / Directory ──> future wakes
//!                                     │                                    │
//!                                     └────────────── image() ─────────────┘──> restart(seed): a new world
//! ```
//!
//! A power cut ([`SimWorld::crash`]) leaves the durable image and a seeded choice of what was not synced, including
//! parts of writes still under way. With [`SimWorld::record_images`] the state before and after every sync is kept, so
//! that a test can cut the power at each of them.
//!
//! Memory belongs to an operation until its step (INV-8): the bytes of a write are read at that step, not when it was
//! called, so a caller who reuses a buffer early stores wrong bytes, and a test sees it.
//!
//! ```
//! use kvtier_device::sim::{Faults, SimWorld};
//! use kvtier_device::{AlignedBuffer, Disk, DiskOp, Priority};
//!
//! let world = SimWorld::new(7, Faults::default());
//! world.add_disk("nvme0", 1 << 20, 4096);
//! let disk = world.disk("nvme0");
//! let page = AlignedBuffer::holding(b"kept");
//! let write = DiskOp::Write { offset: 8192, from: page.disk_buffer() };
//! assert_eq!(world.block_on(disk.submit(vec![write], Priority::Store)), [Ok(())]);
//! assert_eq!(world.block_on(disk.sync()), Ok(()));
//! let after = world.crash(8);
//! assert_eq!(after.peek("nvme0", 8192, 4), b"kept");
//! ```

mod dice;
mod directory;
mod disk;
mod faults;
mod folder;
mod history;
mod image;
mod world;

pub use dice::Dice;
pub use disk::SimDisk;
pub use faults::{Faults, Tearing};
pub use folder::SimFolder;
pub use history::Fingerprint;
pub use world::{SimImage, SimWorld};

#[cfg(test)]
mod tests;
