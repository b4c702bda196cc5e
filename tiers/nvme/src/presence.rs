//! Whether the file the tier writes to is still the file that the next start will open.
//!
//! A deleted or replaced data file goes on taking writes through its open descriptor, and they all vanish with the
//! process. So every sync asks before it promises durability, and stores stop as soon as it is known.

/// Compares what a path names with what is open. Production asks the device crate, which has the open descriptor.
pub trait Presence: Send + Sync + 'static {
    /// `Err` says what happened, e.g. `the file was deleted`. Cheap; called for every sync.
    fn check(&self) -> Result<(), String>;
}

/// For devices that cannot go away, such as those of tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysPresent;

impl Presence for AlwaysPresent {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
