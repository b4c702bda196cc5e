//! Callers that wait for a sequence number.

use std::collections::BTreeMap;

use futures::channel::oneshot;

/// Who waits for which number. One entry per live future: a dropped one takes its entry with it.
#[derive(Debug)]
pub(crate) struct Waiters<T> {
    waiting: BTreeMap<(u64, u64), oneshot::Sender<T>>,
    next_id: u64,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next_id: 0 }
    }
}

/// Names an entry.
pub(crate) type WaiterKey = (u64, u64);

/// Callers to be told something, outside the lock: waking runs the executor's code.
#[must_use]
#[derive(Debug)]
pub(crate) struct Told<T> {
    senders: Vec<oneshot::Sender<T>>,
    answer: T,
}

impl<T> Told<T> {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.senders.len()
    }
}

impl<T: Clone> Told<T> {
    /// Tells them. One that went away is no matter.
    pub(crate) fn tell(self) {
        for sender in self.senders {
            let _ = sender.send(self.answer.clone());
        }
    }
}

impl<T> Waiters<T> {
    /// Enrolls a caller that waits for `seq`.
    pub(crate) fn enroll(&mut self, seq: u64) -> (WaiterKey, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let key = (seq, self.next_id);
        self.next_id += 1;
        self.waiting.insert(key, sender);
        (key, receiver)
    }

    /// Forgets a caller that went away.
    pub(crate) fn dismiss(&mut self, key: WaiterKey) {
        self.waiting.remove(&key);
    }

    /// The lowest number somebody waits for.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|((seq, _), _)| *seq)
    }

    /// Takes out everybody who waits for `seq` or less.
    pub(crate) fn up_to(&mut self, seq: u64, answer: T) -> Told<T> {
        let later = self.waiting.split_off(&(seq + 1, 0));
        let senders = std::mem::replace(&mut self.waiting, later).into_values().collect();
        Told { senders, answer }
    }

    /// Takes out everybody who waits for `seq` or more.
    pub(crate) fn from(&mut self, seq: u64, answer: T) -> Told<T> {
        Told { senders: self.waiting.split_off(&(seq, 0)).into_values().collect(), answer }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_its_number_is_reached() {
        let mut waiters = Waiters::default();
        let (_, mut early) = waiters.enroll(3);
        let (_, mut late) = waiters.enroll(7);
        let (dropped, receiver) = waiters.enroll(5);
        drop(receiver);
        waiters.dismiss(dropped);
        assert_eq!(waiters.lowest(), Some(3));
        waiters.up_to(3, "durable").tell();
        assert_eq!(early.try_recv(), Ok(Some("durable")));
        assert_eq!(late.try_recv(), Ok(None));
        waiters.from(4, "suspended").tell();
        assert_eq!(late.try_recv(), Ok(Some("suspended")));
        assert_eq!(waiters.count(), 0);
    }
}
