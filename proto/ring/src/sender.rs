//! The end that writes.

use std::sync::atomic::{Ordering, fence};

use crate::{Broken, ENTRY_BYTES_MAX, LANE_BYTES, Lane, WORD, entry_bytes};

/// Puts entries into a ring. One at a time: `&mut`.
#[derive(Debug)]
pub struct Sender {
    pub(crate) lane: Lane,
    /// Bytes written ever; what the shared word says is never believed.
    written: u64,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The receiver will find it.
    Looked,
    /// It is there, and the receiver sleeps: ring the bell.
    RingBell,
    /// It is not there: too long, or no room now.
    No,
}

impl Sender {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { lane, written: 0 }
    }

    /// Puts one entry there, or says that there is no room. Never waits.
    pub fn send(&mut self, bytes: &[u8]) -> Result<Sent, Broken> {
        let size = entry_bytes(bytes.len());
        if bytes.len() > ENTRY_BYTES_MAX {
            return Ok(Sent::No);
        }
        let used = self.written.checked_sub(self.lane.read().load(Ordering::Acquire)).ok_or(Broken)?;
        let free = (LANE_BYTES as u64).checked_sub(used).ok_or(Broken)?;
        if (size as u64) > free {
            return Ok(Sent::No);
        }
        self.lane.data(self.written).store(bytes.len() as u64, Ordering::Relaxed);
        let mut at = self.written + WORD as u64;
        for chunk in bytes.chunks(WORD) {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            self.lane.data(at).store(u64::from_le_bytes(word), Ordering::Relaxed);
            at += WORD as u64;
        }
        self.written = at;
        self.lane.written().store(at, Ordering::Release);
        // Pairs with the one in `Receiver::sleep`: either it sees the entry, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        let asleep = self.lane.asleep();
        let sleeps = asleep.load(Ordering::Relaxed) != 0 && asleep.swap(0, Ordering::Relaxed) != 0;
        Ok(if sleeps { Sent::RingBell } else { Sent::Looked })
    }
}
