//! Small deterministic stand-ins for tests: memory, a disk with faults, a tier, a clock and an executor.
//!
//! All of them are safe code and share nothing with the real adapters but the ports. [`HeapDisk`] moves bytes only from
//! and to [`HeapMemory`]; use the arena with real disks and with the simulator's.

mod clock;
mod disk;
mod memory;
mod memory_tier;
mod tasks;

pub use clock::HandClock;
pub use disk::{Fault, HeapDisk, Submitted};
pub use memory::HeapMemory;
pub use memory_tier::MemoryTier;
pub use tasks::Tasks;
