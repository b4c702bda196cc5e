//! The end that reads.

use std::sync::atomic::{Ordering, fence};

use crate::{Broken, ENTRY_BYTES_MAX, LANE_BYTES, Lane, WORD, entry_bytes};

/// Takes entries out of a ring.
#[derive(Debug)]
pub struct Receiver {
    pub(crate) lane: Lane,
    /// Bytes taken ever.
    read: u64,
}

impl Receiver {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { lane, read: 0 }
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.lane.written().load(Ordering::Acquire) == self.read
    }

    /// Adds the next entry's bytes to `into`. False: there is none.
    pub fn receive(&mut self, into: &mut Vec<u8>) -> Result<bool, Broken> {
        let there = self.lane.written().load(Ordering::Acquire).checked_sub(self.read).ok_or(Broken)?;
        if there == 0 {
            return Ok(false);
        }
        if there > LANE_BYTES as u64 {
            return Err(Broken);
        }
        let length = usize::try_from(self.lane.data(self.read).load(Ordering::Relaxed)).map_err(|_| Broken)?;
        if length > ENTRY_BYTES_MAX || entry_bytes(length) as u64 > there {
            return Err(Broken);
        }
        into.reserve(entry_bytes(length));
        let end = into.len() + length;
        let mut at = self.read + WORD as u64;
        while into.len() < end {
            let word = self.lane.data(at).load(Ordering::Relaxed).to_le_bytes();
            into.extend_from_slice(&word);
            at += WORD as u64;
        }
        into.truncate(end);
        self.read = at;
        self.lane.read().store(at, Ordering::Release);
        Ok(true)
    }

    /// Says that this end stops looking: from now on the sender rings the bell, once. False: something has come, go on.
    pub fn sleep(&self) -> bool {
        self.lane.asleep().store(1, Ordering::Relaxed);
        // Pairs with the one in `Sender::send`.
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.wake();
        false
    }

    /// Says that this end looks again.
    pub fn wake(&self) {
        self.lane.asleep().store(0, Ordering::Relaxed);
    }
}
