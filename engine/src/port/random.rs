//! Randomness, as the engine sees it.

/// A source of random numbers. Production uses the system's cryptographic source (lease ids must not be guessable);
/// the simulator uses its seed.
pub trait Random: Send + Sync + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}
