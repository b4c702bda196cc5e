//! The part of ZeroMQ's wire protocol (ZMTP 3.0, mechanism NULL) that vLLM's events travel in.
//!
//! ```text
//!   greeting, 64 bytes each way ─► READY command each way ─► frames: flags, length, body
//!   SUB ◄─ PUB        topic, sequence number, payload       (the subscriber first sends 0x01 + topic)
//!   DEALER ─► ROUTER  "", first wanted number ─► "", topic, number, payload … until number -1
//! ```
//!
//! Four roles, one connection at a time: no queues, no routing, no reconnecting; who uses a connection knows what its end
//! means. Everything that comes in has a bound and a deadline, because a daemon that keeps other people's blocks reads it:
//! a frame's memory grows with the bytes that have come, not with the length that was announced
//! (docs/decisions/0008-engine-events.md says why no library does this).
//!
//! Reading order: [`endpoint`], [`handshake`], [`frame`].

pub mod endpoint;
pub mod frame;
pub mod handshake;

pub use endpoint::{Bound, Endpoint, Stream};
pub use frame::{Incoming, read, write};
pub use handshake::{Role, shake_hands};
