//! What the engine needs from the world. Adapters live in other crates; `server/src/assemble.rs` names them.
//!
//! Rules every adapter keeps, and the conformance suites check:
//! - one boxed future per batch, never per block;
//! - an operation starts when the method is called and finishes even if its future is dropped: its memory and slots
//!   belong to it until the device is done (INV-8);
//! - "not there" and "could not tell" are different answers;
//! - refusal is a value; an error is what nobody asked for.

pub mod clock;
pub mod index;
pub mod journal;
pub mod memory;
pub mod random;
pub mod spawn;
pub mod tier;

/// A boxed future that outlives its caller.
pub type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'static>>;

pub use clock::{Clock, Moment};
pub use index::{Index, IndexChange, IndexEntry, IndexError};
pub use journal::{
    AppendRefused, Journal, JournalError, JournalState, JournalStatus, Position, ReadRefused, Record, RemovalCause,
    SpaceRecord,
};
pub use memory::{Memory, Region};
pub use random::Random;
pub use spawn::Spawn;
pub use tier::{
    DeviceGeometry, DeviceHealth, DeviceState, Load, LoadOutcome, Store, StoreOutcome, Tier, TierError, Verify,
};
