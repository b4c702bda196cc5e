//! Published batches: numbered, kept for a while, handed to whoever listens now.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::broadcast;

/// Batches a subscriber may be behind. More are dropped for it.
const LIVE_MAX: usize = 256;
/// Bytes of batches that are kept, whatever their number.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A batch with its number.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) payload: Bytes,
}

/// See the module.
pub(super) struct Hub {
    pub(super) topic: String,
    /// Batches subscribers have missed.
    pub(super) missed: AtomicU64,
    kept_max: usize,
    kept: Mutex<Kept>,
    live: broadcast::Sender<Numbered>,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Numbered>,
    bytes: usize,
    next: u64,
}

impl Hub {
    pub(super) fn new(topic: String, kept_max: u64) -> Self {
        let kept_max = usize::try_from(kept_max).unwrap_or(usize::MAX);
        let (live, _) = broadcast::channel(LIVE_MAX);
        Self { topic, missed: AtomicU64::new(0), kept_max, kept: Mutex::default(), live }
    }

    /// Gives a batch its number, keeps it and hands it out.
    pub(super) fn publish(&self, payload: Vec<u8>) {
        let mut kept = self.lock();
        let batch = Numbered { number: kept.next, payload: payload.into() };
        kept.next += 1;
        kept.bytes += batch.payload.len();
        kept.batches.push_back(batch.clone());
        while kept.batches.len() > self.kept_max || kept.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = kept.batches.pop_front() else { break };
            kept.bytes -= oldest.payload.len();
        }
        // Under the lock, so that numbers go out in their order. It fails if nobody listens.
        self.live.send(batch).ok();
    }

    /// What is kept from a number on.
    pub(super) fn since(&self, number: u64) -> Vec<Numbered> {
        let kept = self.lock();
        let first = kept.batches.partition_point(|batch| batch.number < number);
        kept.batches.range(first..).cloned().collect()
    }

    /// Batches from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Numbered> {
        self.live.subscribe()
    }

    pub(super) fn subscribers(&self) -> usize {
        self.live.receiver_count()
    }

    pub(super) fn published(&self) -> u64 {
        self.lock().next
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics while publishing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_numbered_and_the_newest_are_kept() {
        let hub = Hub::new(String::new(), 3);
        let mut live = hub.listen();
        (0..5_u8).for_each(|byte| hub.publish(vec![byte]));
        let numbers = |batches: Vec<Numbered>| batches.iter().map(|batch| batch.number).collect::<Vec<_>>();
        assert_eq!(numbers(hub.since(0)), [2, 3, 4]);
        assert_eq!(numbers(hub.since(4)), [4]);
        assert_eq!(numbers(hub.since(5)), [0; 0]);
        assert_eq!(live.try_recv().map(|batch| batch.number), Ok(0));
        assert_eq!((hub.published(), hub.subscribers()), (5, 1));
    }

    #[test]
    fn kept_bytes_are_bounded() {
        let hub = Hub::new(String::new(), 1000);
        (0..20).for_each(|_| hub.publish(vec![0; KEPT_BYTES_MAX / 8]));
        assert_eq!(hub.since(0).len(), 8);
    }
}
