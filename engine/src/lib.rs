//! What kvtier decides: which blocks are where, who may keep them there, and in what order things become true.
//!
//! Pure: no clock, I/O, thread or runtime of its own. The *core* ([`catalog`], [`policy`]) is a synchronous state machine;
//! the *shell* ([`flow`]) takes its plans, awaits the ports ([`port`]) and reports outcomes back. It is *not* where
//! bytes sit (the tiers), nor where they are framed for the wire (the daemon).
//!
//! Reading order: [`place`], [`header`], [`port`], [`catalog::plan`], [`catalog`], [`policy`], [`flow`].
#![forbid(unsafe_code)]

pub mod catalog;
pub mod flow;
pub mod header;
pub mod place;
pub mod policy;
pub mod port;
