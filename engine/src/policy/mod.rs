//! Which block goes first when room is needed, and which block is worth a write.

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
