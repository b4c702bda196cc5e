//! What other threads want of the local thread: answers to send, and its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A frame for one connection.
pub(crate) type Answer = (u64, Vec<u8>);

/// The local thread's bell. Bounded by the requests in flight, which each connection bounds.
#[derive(Debug)]
pub(crate) struct Wake {
    bell: OwnedFd,
    answers: Mutex<Vec<Answer>>,
    stopped: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, answers: Mutex::default(), stopped: AtomicBool::new(false) })
    }

    /// An answer that was worked out elsewhere.
    pub(crate) fn answer(&self, connection: u64, frame: Vec<u8>) {
        self.answers.lock().expect("nobody panics while adding an answer").push((connection, frame));
        self.ring();
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Silences the bell and takes what there is.
    pub(crate) fn take(&self) -> Vec<Answer> {
        // Empty when somebody else's ring was taken with an earlier one.
        rustix::io::read(&self.bell, &mut [0; 8]).ok();
        std::mem::take(&mut *self.answers.lock().expect("nobody panics while taking answers"))
    }

    fn ring(&self) {
        // Full only after 2^64 rings nobody has heard.
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).ok();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
