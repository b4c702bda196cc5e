//! Which blocks are worth a write to NVMe. The catalog adds the rule that a parent goes first.

use super::AdmissionKind;

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

/// Remembers first puts in a direct-mapped table: a newer block takes an older one's place.
struct SecondTouch {
    seen: Box<[u32]>,
}

impl SecondTouch {
    fn new(count_max: u32) -> Self {
        let count = count_max.clamp(64, 1 << 26).next_power_of_two() as usize;
        Self { seen: vec![0; count].into() }
    }
}

impl Admission for SecondTouch {
    fn put(&mut self, mark: u64) -> bool {
        let at = mark as usize & (self.seen.len() - 1);
        // Zero means empty, so no fingerprint is zero.
        let fingerprint = (mark >> 32) as u32 | 1;
        std::mem::replace(&mut self.seen[at], fingerprint) == fingerprint
    }

    fn hit(&mut self, _mark: u64) -> bool {
        true
    }

    fn bytes(&self) -> u64 {
        (self.seen.len() * size_of::<u32>()) as u64
    }
}
