//! Which block goes first when room is needed, and which block is worth a write.
//!
//! A [`Policy`] only orders the copies of one tier: each domain's in an order of its own, which shares nothing but the
//! memory of the links with the others. What may go at all (not held, no descendants below it) is the
//! catalog's [`Verdict`], so the leaf constraint holds for every policy. A victim scan is cheap because a copy that may
//! not go is *parked*: taken out of the order until the catalog says that its obstacle may be gone (`unpark`). Each
//! parking is paid for by the event that ends it.

mod admission;
mod lru;
mod ring;
mod s3fifo;
mod seen;
pub(crate) mod slab;
#[cfg(test)]
mod tests;

pub(crate) use admission::{Admission, admission};
pub use seen::Seen;

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

/// The eviction orders of one tier's copies, numbered from 0; a copy stays in the one it was inserted into. `mark` is a
/// block's fingerprint, for policies that remember ghosts.
pub(crate) trait Policy: Send {
    /// A copy arrived: as hot as its parent's copy `above`, but just colder; without one, the hottest.
    fn insert(&mut self, order: usize, index: u32, mark: u64, above: Option<u32>);
    /// A run of a chain was used, each block the child of the one before, the first that of `above`.
    fn touch(&mut self, order: usize, run: &[u32], above: Option<u32>);
    /// A copy is gone; `evicted` when `victim` chose it.
    fn remove(&mut self, order: usize, index: u32, mark: u64, evicted: bool);
    /// Looks at candidates, coldest first, until one is taken or `skip_max` were skipped. Does not remove it.
    fn victim(&mut self, order: usize, skip_max: usize, judge: &mut dyn FnMut(u32) -> Verdict) -> Option<u32>;
    /// A parked copy may be a candidate again. Does nothing if the copy is not parked.
    fn unpark(&mut self, order: usize, index: u32);
    /// After recovery: `index` becomes the coldest.
    fn sink(&mut self, order: usize, index: u32);
    /// Whether a known copy is set aside.
    fn is_parked(&self, index: u32) -> bool;
    /// Whether the copy is known, parked or not.
    fn contains(&self, index: u32) -> bool;
    /// The copies of an order, parked ones last. For checks: it visits all.
    fn members(&self, order: usize) -> Vec<u32>;
    /// Bytes of RAM.
    fn bytes(&self) -> u64;
}

/// Builds a policy of so many orders; `ghost_count` bounds what they remember of copies that are gone, in equal shares.
pub(crate) fn policy(kind: PolicyKind, order_count: usize, ghost_count: u32) -> Box<dyn Policy> {
    match kind {
        PolicyKind::LeafLru => Box::new(lru::LeafLru::new(order_count)),
        PolicyKind::S3Fifo => Box::new(s3fifo::S3Fifo::new(order_count, ghost_count)),
    }
}
