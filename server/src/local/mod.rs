//! The local path: workers of this machine that share the host tier's memory with the daemon.
//!
//! Names and offsets travel over a raw unix socket (or gRPC), bytes through the arena of the tenant's domain: a client is
//! given that arena's descriptors and no other's, and every offset it hears or says is one in that arena. Nothing is decided here: the
//! catalog owns slots and leases, this module only remembers which client was told which slot, and until when that
//! client may still write it.
//!
//! ```text
//!   local.socket ─► reactor (one thread) ─► session ─► engine        answered at once when nothing has to be waited for
//!                        ▲                     │
//!                        └──── wake ◄── task ◄─┘                      loads, durable waits, large checksums
//!   gRPC Local ────────────────────────────► session                 the same methods
//! ```
//!
//! # Who may write a slot, and when it is free again
//!
//! ```text
//!   reserve ─► HELD ── commit ─► checksummed, visible                       the client has said it is done
//!               │ ├─── abort, detach ─► free                                 the client has said it is done
//!               │ └─── part deadline ─► given up; still HELD                 the client may be stopped: it cannot know
//!               └─ connection lost ─► QUARANTINE ── process ends, fence ─► free
//! ```
//!
//! A slot that was handed out comes back only when its client cannot or will not write it any more (INV-2, INV-8). What is
//! held and quarantined counts against its process's quota and against `limits.put_bytes_in_flight_max`.
//!
//! A crash of the daemon leaves clients with the old arena, which nobody else uses; they attach to the new one.
//!
//! Reading order: [`session`], `reserve`, `commit`, `acquire`, [`gpu`], [`desk`], `tenancy`, `ledger`, `quarantine`, `reactor`,
//! `connection`.

mod acquire;
mod commit;
mod connection;
pub mod desk;
mod fence;
pub mod gpu;
mod ledger;
mod peer;
mod quarantine;
mod reactor;
mod reserve;
mod ring;
pub mod session;
mod tenancy;
mod wake;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use kvtier_engine::port::Spawn;

use crate::listen::RemovedAtEnd;
pub use desk::{Desk, DeskParts, LocalCount};
use reactor::Reactor;
use wake::Wake;

/// Bounds of the local path.
#[derive(Debug, Clone)]
pub struct LocalLimits {
    /// Who may attach to which arena, in the order of the arenas. The first is the node's own: it takes the tenants that
    /// no other names.
    pub domains: Vec<DomainAccess>,
    /// Connections at a time.
    pub clients_max: usize,
    /// Bytes one process may hold reserved.
    pub client_bytes_max: u64,
    /// Slots one process may hold reserved.
    pub client_blocks_max: u32,
    /// When a reservation counts as given up.
    pub part_deadline: Duration,
    /// How long a connection may take to attach.
    pub attach_timeout: Duration,
    /// How long the thread looks for another request before it sleeps.
    pub spin: Duration,
}

/// Who may attach to one domain's arena.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainAccess {
    /// The domain's name, for messages.
    pub name: String,
    /// Its tenants, who trust each other. Of the node's own domain: those who do; empty: the only one there is.
    pub tenants: Vec<String>,
    /// Users that may attach besides our own.
    pub users: Vec<u32>,
    /// Groups that may attach.
    pub groups: Vec<u32>,
}

/// Host memory as it is given to other processes.
pub trait SharedMemory: Send + Sync + 'static {
    /// A descriptor of a domain's arena.
    fn arena(&self, domain: usize, writable: bool) -> io::Result<OwnedFd>;
    /// A read-only descriptor of its generation table.
    fn generations(&self, domain: usize) -> io::Result<OwnedFd>;
    /// Size of the arena.
    fn arena_bytes(&self, domain: usize) -> u64;
    /// Size of the generation table.
    fn generation_bytes(&self, domain: usize) -> u64;
}

/// The socket, bound and not yet served.
#[derive(Debug)]
pub struct LocalSocket {
    pub(crate) listener: std::os::unix::net::UnixListener,
    pub(crate) _file: RemovedAtEnd,
}

/// The thread that serves the socket. Dropping it stops the thread; clients see their connection end.
#[derive(Debug)]
pub struct LocalServer {
    wake: Arc<Wake>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LocalServer {
    /// Serves a desk's clients on a thread of its own. Inside a tokio runtime, on which what has to wait goes on.
    pub fn start(socket: LocalSocket, desk: Arc<Desk>, spawn: Arc<dyn Spawn>) -> io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let reactor = Reactor::new(socket, desk, spawn, Arc::clone(&wake))?;
        let runtime = tokio::runtime::Handle::current();
        let serve = move || {
            let _inside = runtime.enter();
            reactor.run();
        };
        let thread = std::thread::Builder::new().name("kvtier-local".into()).spawn(serve)?;
        Ok(Self { wake, thread: Some(thread) })
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.wake.stop();
        if let Some(thread) = self.thread.take() {
            // A panic has ended the process already.
            thread.join().ok();
        }
    }
}
