//! A daemon with a connected client and an open space.

use kvtier_proto::v1;

use crate::{Block, Daemon, Wire};

/// Largest block of the world's space in bytes.
pub const BLOCK_BYTES_MAX: u32 = 1 << 20;

/// The usual beginning of a test.
pub struct World {
    /// The daemon.
    pub daemon: Daemon,
    /// A client over TCP.
    pub wire: Wire,
    /// A space of one part with blocks up to [`BLOCK_BYTES_MAX`].
    pub space: Vec<u8>,
}

impl World {
    /// A small daemon.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A small daemon with these settings on top.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::of(Daemon::start(settings)).await
    }

    /// A world on this daemon.
    pub async fn of(daemon: Daemon) -> Self {
        let mut wire = Wire::tcp(daemon.endpoints()).await;
        let space = wire.open_space("world", BLOCK_BYTES_MAX).await;
        Self { daemon, wire, space }
    }

    /// Puts a chain and fails unless all of it is stored.
    pub async fn store(&mut self, chain: &[Block], durability: v1::Durability) {
        let space = self.space.clone();
        self.wire.store(&space, chain, durability).await;
    }

    /// The world after `kill -9` and a new start.
    pub async fn crash_and_restart(self) -> Self {
        Self::of(self.daemon.crash_and_restart()).await
    }

    /// The world after SIGTERM and a new start.
    pub async fn restart(self) -> Self {
        Self::of(self.daemon.restart()).await
    }
}
