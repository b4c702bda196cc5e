//! What callers hand to the ring's thread, and how they wake it.
//!
//! The inbox itself is not bounded; what may enter is: transfers take room in the ledger first, syncs are bounded by
//! their line, arenas by the kernel's table.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::aligned::Arena;
use crate::sync_line::SyncAnswer;
use crate::transfer::Transfer;

/// Everything that came in since the thread last looked.
#[derive(Default)]
pub(crate) struct Mail {
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) syncs: Vec<SyncAnswer>,
    /// Arenas, and how much of each from its start may be registered.
    pub(crate) arenas: Vec<(Arena, u64)>,
    pub(crate) closing: bool,
}

/// The hand-over point.
pub(crate) struct Inbox {
    mail: Mutex<Box<Mail>>,
    /// The thread waits, or is about to: whoever puts something in must ring the bell.
    asleep: AtomicBool,
    /// The thread has gone: nothing may be put in any more.
    gone: AtomicBool,
    bell: File,
}

impl Inbox {
    /// An empty inbox with its bell.
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = File::from(eventfd(0, EventfdFlags::CLOEXEC)?);
        Ok(Self { mail: Mutex::default(), asleep: AtomicBool::new(false), gone: AtomicBool::new(false), bell })
    }

    /// Puts something in and wakes the thread if it sleeps. False if the thread has gone; nothing is put in then.
    pub(crate) fn put(&self, add: impl FnOnce(&mut Mail)) -> bool {
        let mut mail = self.mail();
        // Read under the lock: the thread sets it, then empties the inbox under the lock.
        if self.gone.load(Ordering::Acquire) {
            return false;
        }
        add(&mut mail);
        drop(mail);
        if self.asleep.swap(false, Ordering::AcqRel) {
            self.ring_bell();
        }
        true
    }

    /// Takes everything out into `empty`. If `then_sleep`, callers ring the bell from now on.
    pub(crate) fn take(&self, empty: Box<Mail>, then_sleep: bool) -> Box<Mail> {
        if then_sleep {
            // Before the look: whoever puts something in after it finds the flag.
            self.asleep.store(true, Ordering::Release);
        }
        std::mem::replace(&mut *self.mail(), empty)
    }

    /// The thread is awake: no bell is needed.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Release);
    }

    /// Nothing more gets in. What is still inside is dropped, which answers `Closed`.
    pub(crate) fn shut(&self) {
        self.gone.store(true, Ordering::Release);
        let rest = std::mem::take(&mut *self.mail());
        drop(rest);
    }

    /// The bell's descriptor, for the ring to read.
    pub(crate) fn bell_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Wakes the thread.
    pub(crate) fn ring_bell(&self) {
        // An eventfd write can only fail if its counter is full: then it rings already.
        let _rings_already = (&self.bell).write(&1_u64.to_ne_bytes());
    }

    /// Resets a bell that rang, without the ring. Blocks if it did not.
    #[cfg(test)]
    pub(crate) fn hear_bell(&self) -> u64 {
        use std::io::Read;
        let mut count = [0; 8];
        (&self.bell).read_exact(&mut count).expect("an eventfd gives 8 bytes");
        u64::from_ne_bytes(count)
    }

    fn mail(&self) -> std::sync::MutexGuard<'_, Box<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_rings_once_per_sleep() {
        let inbox = Inbox::new().expect("an eventfd");
        assert!(inbox.put(|mail| mail.closing = true));
        let mail = inbox.take(Box::default(), true);
        assert!(mail.closing);
        assert!(inbox.put(|mail| mail.closing = true));
        assert!(inbox.put(|mail| mail.closing = true));
        assert_eq!(inbox.hear_bell(), 1);
    }

    #[test]
    fn nothing_gets_in_after_the_thread_has_gone() {
        let inbox = Inbox::new().expect("an eventfd");
        let (answer, mut heard) = futures::channel::oneshot::channel();
        assert!(inbox.put(|mail| mail.syncs.push(answer)));
        inbox.shut();
        assert!(heard.try_recv().is_err(), "dropped with the inbox");
        assert!(!inbox.put(|mail| mail.closing = true));
        assert!(!inbox.take(Box::default(), false).closing);
    }
}
