//! Which block goes first when room is needed, and which block is worth a write.
//!
//! A [`Policy`] only orders the copies of one tier. What may go at all (not held, no descendants below it) is the
//! catalog's [`Verdict`], so the leaf constraint holds for every policy. A victim scan is cheap because a copy that may
//! not go is *parked*: taken out of the order until the catalog says that its obstacle may be gone (`unpark`). Each
//! parking is paid for by the event that ends it.

mod admission;
mod lru;
mod ring;
mod s3fifo;
pub(crate) mod slab;
#[cfg(test)]
mod tests;

pub(crate) use admission::{Admission, admission};

/// Eviction order of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyKind {
    /// Least recently used, descendants before ancestors.
    #[default]
    LeafLru,
    /// Small, main and ghost queue; descendants before ancestors.
    S3Fifo,
}

/// Which blocks are written to NVMe without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdmissionKind {
    /// Every block whose parent is there or on its way.
    #[default]
    All,
    /// The same, but only from a block's second put or first hit on.
    SecondTouch,
}

/// What the catalog says of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Evict it.
    Take,
    /// It could go, but would not help now: look further, leave it where it is.
    Skip,
    /// It must not go: set it aside until `unpark`.
    Park,
}

/// The eviction order of one tier's copies. `mark` is a block's fingerprint, for policies that remember ghosts.
pub(crate) trait Policy: Send {
    /// A copy arrived: as hot as its parent's copy `above`, but just colder; without one, the hottest.
    fn insert(&mut self, index: u32, mark: u64, above: Option<u32>);
    /// A run of a chain was used, each block the child of the one before, the first that of `above`.
    fn touch(&mut self, run: &[u32], above: Option<u32>);
    /// A copy is gone; `evicted` when `victim` chose it.
    fn remove(&mut self, index: u32, mark: u64, evicted: bool);
    /// Looks at candidates, coldest first, until one is taken or `skip_max` were skipped. Does not remove it.
    fn victim(&mut self, skip_max: usize, judge: &mut dyn FnMut(u32) -> Verdict) -> Option<u32>;
    /// A parked copy may be a candidate again. Does nothing if the copy is not parked.
    fn unpark(&mut self, index: u32);
    /// After recovery: `index` becomes the coldest.
    fn sink(&mut self, index: u32);
    /// Whether a known copy is set aside.
    fn is_parked(&self, index: u32) -> bool;
    /// Whether the copy is known, parked or not.
    fn contains(&self, index: u32) -> bool;
    /// Copies known.
    fn count(&self) -> u64;
    /// Bytes of RAM.
    fn bytes(&self) -> u64;
}

/// Builds a policy; `ghost_count` bounds what it remembers of copies that are gone.
pub(crate) fn policy(kind: PolicyKind, ghost_count: u32) -> Box<dyn Policy> {
    match kind {
        PolicyKind::LeafLru => Box::new(lru::LeafLru::new()),
        PolicyKind::S3Fifo => Box::new(s3fifo::S3Fifo::new(ghost_count)),
    }
}
