//! The local path: blocks written and read in the daemon's own memory, for workers of its machine.
//!
//! [`LocalClient`] attaches to the daemon's raw socket and maps the arena. To put, [`LocalClient::reserve`] slots, write
//! them and [`LocalClient::commit`]; to get, [`LocalClient::acquire`] a chain and read it in place. No byte of a block
//! is copied by anybody but the caller. Spaces are opened over gRPC ([`crate::Client::open_space`]).
//!
//! Who owns the memory: a [`Reservation`] is the only writer of its slot until it is committed or dropped; an
//! [`Acquired`] holds a lease until it is dropped, and [`Acquired::is_intact`] tells a reader that has outlived it. Both
//! keep the mapping alive, also when the daemon has gone.
//!
//! When the daemon restarts, calls in flight fail with [`ClientError::Unavailable`] or [`ClientError::Indeterminate`],
//! the next call attaches again, and what was reserved or leased before is refused as lost. Nothing waits without a
//! deadline. A forked child has no writable mapping: attach after forking.
//!
//! Reading order: [`client`], [`chain`], [`slots`], [`acquired`], [`gpu`], `ahead`, `attach`, `link`, `mapping`.

mod acquired;
mod ahead;
mod attach;
pub mod chain;
pub mod client;
pub mod gpu;
mod link;
mod mapping;
pub mod slots;
mod tokio_client;

use std::time::Duration;

use crate::ClientError;

pub use acquired::Acquired;
pub use ahead::{Acquiring, Committing};
pub use chain::{AcquireChain, Lengths, ReserveChain};
pub use client::LocalClient;
pub use gpu::{GpuLayout, GpuMemory, GpuName, LoadChain, Loading, NotMoved, SaveChain};
pub use slots::{Commitment, Committed, Existing, Reservation, Slot};
pub use tokio_client::AsyncLocalClient;

/// The settings of a [`LocalClient`].
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// A name for people and the daemon's log.
    pub client: String,
    /// Whose spaces are used.
    pub tenant: String,
    /// Whether blocks will be written; a reader's mapping cannot be.
    pub writer: bool,
    /// Longest wait for a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest wait for an answer that waits for nothing itself. Default 10 s.
    pub call_timeout: Duration,
    /// Longest wait for room, for blocks on their way up and for durable commits. Default 60 s.
    pub wait_timeout: Duration,
    /// How long to look for an answer before sleeping. Default 100 µs; zero saves CPU and costs a wake-up a call.
    pub spin: Duration,
    /// Whether short requests and answers go through rings of shared memory, without system calls while both ends look.
    /// Default true; the socket alone is for measuring.
    pub ring: bool,
    /// Whether the daemon is told at once of what nobody waits for: leases that end, slots given up, reports. False: with
    /// the next request, or with [`LocalClient::nudge`], for a thread that has no time for several system calls.
    pub notes_at_once: bool,
}

impl LocalOptions {
    /// A writer of a tenant's blocks, with the default waits.
    pub fn writer(client: impl Into<String>, tenant: impl Into<String>) -> Self {
        Self {
            client: client.into(),
            tenant: tenant.into(),
            writer: true,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            wait_timeout: Duration::from_secs(60),
            spin: Duration::from_micros(100),
            ring: true,
            notes_at_once: true,
        }
    }

    /// A reader of a tenant's blocks.
    pub fn reader(client: impl Into<String>, tenant: impl Into<String>) -> Self {
        Self { writer: false, ..Self::writer(client, tenant) }
    }

    fn validate(&self) -> Result<(), ClientError> {
        let waits = [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
            ("wait_timeout", self.wait_timeout),
        ];
        match waits.iter().find(|(_, wait)| wait.is_zero()) {
            Some((field, _)) => Err(ClientError::invalid(*field, "0", "a wait needs some time")),
            None => Ok(()),
        }
    }
}
