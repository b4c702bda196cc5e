//! The host tier: arenas of memory that hold KV blocks between GPU and NVMe, one per security domain.
//!
//! [`Arenas`] implements the engine's [`Memory`](kvtier_engine::port::Memory) port over sealed memfds, so that the same
//! pages can be given to io_uring, to CUDA and, by passing the file descriptor, to local workers. It is *not* an
//! allocator: the catalog decides which slot belongs to whom, the arena only touches the bytes of a slot it is told.
//!
//! # Who owns the memory
//!
//! - [`Arena`] owns a mapping. Every [`Region`](kvtier_engine::port::Region) and every view (`Bytes`) holds a
//!   reference to it: the pages stay mapped until the last of them is gone, whoever dropped the arena (INV-8).
//! - A view also holds its caller's *pin*, which keeps the catalog from reusing the slot under the view (INV-4).
//! - The size never changes: the file is sealed against growing and shrinking, so neither this process nor a worker
//!   that holds the descriptor can make a mapped page disappear (no SIGBUS) or take more than the cap.
//!
//! # The aliasing rule
//!
//! The catalog guarantees that each byte of a slot has *one writer or any number of readers* at a time. All unsafe code
//! (in `mapping.rs`; `generation.rs` has only atomics) leans on that one sentence and on the bounds that the arena asserts. A worker process that
//! maps the arena could break it from outside; then a reader sees changing bytes, the checksum disagrees and the block
//! is quarantined. No memory safety of the daemon depends on the *values* of arena bytes.
//!
//! # What a crash does
//!
//! Nothing survives it: a memfd has no name. The host tier is empty after a restart, by design.
//!
//! # Example
//!
//! ```
//! use kvtier_engine::place::Slot;
//! use kvtier_engine::port::Memory;
//! use kvtier_host::{Arena, ArenaSettings};
//!
//! let arena = Arena::create(&ArenaSettings { bytes: 1 << 20, extent_bytes: 1 << 16, ..Default::default() })?;
//! let slot = Slot { device: 0, offset: 1 << 16, bytes: 8192 };
//! let crc = arena.write(slot, 0, b"keys and values");
//! assert_eq!(crc, arena.checksum(slot, 0, 15));
//! assert_eq!(&arena.view(slot, 5, 3, Box::new(()))[..], b"and");
//! # Ok::<(), kvtier_host::ArenaError>(())
//! ```
//!
//! Reading order: [`settings`], [`arena`], [`arenas`], `mapping`, `generation`, [`prefault`], [`conformance`].
#![deny(unsafe_code)]

pub mod arena;
pub mod arenas;
pub mod conformance;
mod generation;
pub mod machine;
mod mapping;
pub mod prefault;
pub mod report;
pub mod settings;
mod view;

pub use arena::{Arena, ArenaError};
pub use arenas::Arenas;
pub use prefault::{Prefault, PrefaultProgress};
pub use report::{ArenaReport, HugePages, Locking};
pub use settings::{ArenaSettings, Problem, Wish};
