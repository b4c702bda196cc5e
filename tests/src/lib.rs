//! What the tests of whole processes share: a real `kvtierd` in a folder of its own, and clients that speak the wire.
//!
//! Not a test framework: a [`Daemon`] is a process (started, killed, stopped, restarted), a [`World`] is a daemon with a
//! connected client and an open space. Payloads are computed from their keys, so that any test can say what the right
//! bytes are without having kept them.
#![forbid(unsafe_code)]

pub mod binary;
pub mod blame;
pub mod block;
pub mod daemon;
pub mod driver;
pub mod follower;
pub mod http;
pub mod log;
pub mod publisher;
pub mod wire;
pub mod world;

pub use blame::Blame;
pub use block::Block;
pub use daemon::{Daemon, Setup, Stopped};
pub use wire::Wire;
pub use world::World;
