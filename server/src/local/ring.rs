//! A connection's rings: frames that come and go without a system call.
//!
//! The socket stays: it brings frames that are too long, carries the bell of whoever sleeps, and says that the client has
//! gone. Frames in the ring are served before those on the socket, so that what one thread says stays in order.

use std::os::fd::OwnedFd;

use kvtier_engine::port::Moment;
use kvtier_ring::{Patience, Receiver, Sender, Sent};

use super::connection::Broken;

/// Buffers that were grown are given back above this.
const KEPT_BYTES_MAX: usize = 4096;
const BROKEN: Broken = Broken::Garbage("its ring makes no sense");

/// The daemon's ends.
pub(super) struct Rings {
    answers: Sender,
    requests: Receiver,
    /// The frames of the last entry that have not been read.
    inbox: Vec<u8>,
    /// Until when it is looked at without being asked to; `None`: not at all.
    pub(super) look_until: Option<Moment>,
    pub(super) patience: Patience,
    /// Whether it is on the list of those that are looked at.
    pub(super) is_watched: bool,
}

impl Rings {
    /// New rings, and the descriptor that is the client's.
    pub(super) fn create() -> std::io::Result<(Self, OwnedFd)> {
        let ((answers, requests), file) = kvtier_ring::create()?;
        let (patience, inbox) = (Patience::default(), Vec::new());
        Ok((Self { answers, requests, inbox, look_until: None, patience, is_watched: false }, file))
    }

    /// Whether a request waits.
    pub(super) fn has_request(&self) -> bool {
        !self.inbox.is_empty() || !self.requests.is_empty()
    }

    /// The frames of one entry that have not been read yet; empty: there is nothing.
    pub(super) fn frames(&mut self) -> Result<&mut Vec<u8>, Broken> {
        if self.inbox.is_empty() {
            self.inbox.shrink_to(KEPT_BYTES_MAX);
            self.requests.receive(&mut self.inbox).map_err(|_| BROKEN)?;
        }
        Ok(&mut self.inbox)
    }

    /// Puts a frame there.
    pub(super) fn send(&mut self, frame: &[u8]) -> Result<Sent, Broken> {
        self.answers.send(frame).map_err(|_| BROKEN)
    }

    /// Stops looking until the bell rings. False: a request has come meanwhile.
    pub(super) fn sleep(&self) -> bool {
        self.requests.sleep()
    }

    /// Looks again: nobody has to ring.
    pub(super) fn wake(&self) {
        self.requests.wake();
    }
}
