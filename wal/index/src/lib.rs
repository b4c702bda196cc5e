//! The metadata index: which persistent blocks there are, kept in RocksDB and found again after a restart.
//!
//! It implements the engine's `Index` port. What it is *not*: a log (the journal is the only one), a cache (the catalog
//! keeps every entry in RAM), or the place where bytes are checked (the slot headers and payload checksums do that).
//!
//! # How it holds together
//!
//! Five column families (`docs/FORMAT-index.md` draws every byte): `blocks`, `spaces`, `quarantine`, `meta` and RocksDB's
//! own empty `default`. RocksDB's write-ahead log is off. Every batch also writes `meta/covered`, the journal position it
//! brings the index to, and RocksDB flushes all column families atomically; so whatever state a crash leaves behind is
//! the state after some whole batch, and `meta/covered` says which. The journal's tail is applied on top of it.
//!
//! | a crash | leaves |
//! |---|---|
//! | between `apply` and a flush | the state of the last flush, explicit or RocksDB's own; never part of a batch |
//! | inside a flush | the state before it or after it: one manifest record switches all column families |
//! | while the index is created | nothing yet; the next open creates it again |
//! | inside [`rebuild()`] | the old index, or none and an error that says how to go on; never an empty one taken for good |
//!
//! RocksDB blocks its caller, so [`RocksIndex`] owns its threads: one writer, which keeps the order of batches and
//! flushes, and a few readers, behind queues of bounded length (INV-5). Work that was queued is done even if its future
//! is dropped. Batches must become durable in order, so after a refused batch nothing applies until its caller has seen
//! the refusal ([`order`]).
//!
//! Every value ends in a CRC32 over its key and itself: a damaged or misplaced value is an error, never an entry (INV-1).
//!
//! Reading order: [`codec`], [`columns`], [`store`], [`order`], [`lane`], [`rocks`], [`memory`], [`conformance`],
//! [`inspection`], [`rebuild()`].
#![forbid(unsafe_code)]

pub mod codec;
pub mod columns;
pub mod conformance;
mod fault;
pub mod inspection;
pub mod lane;
mod lock;
mod manifest;
pub mod memory;
mod opening;
pub mod order;
mod rebuild;
pub mod rocks;
pub mod settings;
mod stall;
pub mod store;
mod tuning;

pub use inspection::{Inspection, inspect};
pub use memory::{MemoryFaults, MemoryIndex};
pub use rebuild::{Contents, rebuild};
pub use rocks::{IndexStatus, RocksIndex};
pub use settings::{IndexSettings, SettingProblem};

/// The most changes one batch may have. A batch is atomic, so it is never cut up here.
pub const BATCH_LEN_MAX: usize = 1 << 16;
/// The most blocks one lookup may ask for: the longest chain.
pub const LOOKUP_LEN_MAX: usize = 1 << 16;
