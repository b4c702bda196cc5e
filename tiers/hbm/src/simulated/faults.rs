//! What a simulated device does wrong, when told to.

/// Faults of one device. Counted in pieces of work that happened since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// The context is lost when so many pieces of work have happened: everything fails from then on.
    pub lose_after_pieces: Option<u64>,
    /// The driver refuses so many calls that put copies on a lane, each after half of the copies was put.
    pub refuse_copies: u64,
    /// Importing memory is refused.
    pub refuse_imports: bool,
    /// Registering host memory is refused.
    pub refuse_registration: bool,
}
