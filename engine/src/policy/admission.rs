//! Which blocks are worth a write to NVMe. The catalog adds the rule that a parent goes first.

use super::{AdmissionKind, Seen};

/// Decides from a block's fingerprint.
pub(crate) trait Admission: Send {
    /// The block was put; true: write it back.
    fn put(&mut self, mark: u64) -> bool;
    /// The block was hit in the host tier and is not on NVMe; true: write it back.
    fn hit(&mut self, mark: u64) -> bool;
    /// Bytes of RAM.
    fn bytes(&self) -> u64;
}

/// Builds an admission policy that remembers up to `count_max` blocks.
pub(crate) fn admission(kind: AdmissionKind, count_max: u32) -> Box<dyn Admission> {
    match kind {
        AdmissionKind::All => Box::new(All),
        AdmissionKind::SecondTouch => Box::new(SecondTouch::new(count_max)),
    }
}

struct All;

impl Admission for All {
    fn put(&mut self, _mark: u64) -> bool {
        true
    }

    fn hit(&mut self, _mark: u64) -> bool {
        true
    }

    fn bytes(&self) -> u64 {
        0
    }
}

/// Remembers first puts.
struct SecondTouch {
    seen: Seen,
}

impl SecondTouch {
    fn new(count_max: u32) -> Self {
        Self { seen: Seen::new(count_max.clamp(64, 1 << 26) as usize) }
    }
}

impl Admission for SecondTouch {
    fn put(&mut self, mark: u64) -> bool {
        self.seen.note(mark)
    }

    fn hit(&mut self, _mark: u64) -> bool {
        true
    }

    fn bytes(&self) -> u64 {
        self.seen.bytes()
    }
}
