//! No batch after a hole: what a refused batch means for those behind it.
//!
//! A batch says which journal position it brings the index to, not from which it starts. If batch 7 were refused and
//! batch 8, already on its way, applied, the index would claim to cover 7 and after a crash nobody would bring it back.
//! So a caller must *see* a refusal before anything it submits applies again. A refusal counts as seen when its answer is
//! taken, or dropped by a caller that does not want to know; both drop its [`Notice`].
//!
//! Batches are refused at two moments: *early*, when they are submitted (the queue is full), which concerns only later
//! submissions; and *late*, when their turn comes (the disk is full), which concerns everything behind them in the queue
//! too. A [`Ticket`] taken at submission remembers both counts, and is admitted when every earlier refusal had been seen
//! and no late one has happened since.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts refusals and how many of them have been seen.
#[derive(Debug, Default)]
pub struct Order {
    refused: AtomicU64,
    refused_late: AtomicU64,
    seen: AtomicU64,
}

/// What a caller knew when it submitted a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    refused_late: u64,
    saw_all: bool,
}

/// Travels with the answer of a refused batch; dropping it makes the refusal seen.
#[derive(Debug)]
pub struct Notice {
    order: Arc<Order>,
}

impl Order {
    /// Taken at submission, before the batch is queued.
    pub fn ticket(&self) -> Ticket {
        // In this order: a refusal that happens in between makes the ticket stale, never fresh.
        let refused_late = self.refused_late.load(SeqCst);
        let seen = self.seen.load(SeqCst);
        Ticket { refused_late, saw_all: seen == self.refused.load(SeqCst) }
    }

    /// Whether the batch with this ticket may apply, now that its turn has come.
    pub fn admits(&self, ticket: Ticket) -> bool {
        ticket.saw_all && ticket.refused_late == self.refused_late.load(SeqCst)
    }

    /// Counts a batch that was not even queued.
    pub fn refuse_early(self: &Arc<Self>) -> Notice {
        self.refused.fetch_add(1, SeqCst);
        Notice { order: self.clone() }
    }

    /// Counts a batch that was admitted and did not apply.
    pub fn refuse_late(self: &Arc<Self>) -> Notice {
        self.refused.fetch_add(1, SeqCst);
        self.refused_late.fetch_add(1, SeqCst);
        Notice { order: self.clone() }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        let seen = self.order.seen.fetch_add(1, SeqCst) + 1;
        assert!(seen <= self.order.refused.load(SeqCst), "a refusal was seen before it happened");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_behind_an_unseen_refusal_is_not_admitted() {
        let order = Arc::new(Order::default());
        let behind = order.ticket();
        let notice = order.refuse_late();
        let unaware = order.ticket();
        assert!(!order.admits(behind));
        assert!(!order.admits(unaware));
        drop(notice);
        assert!(!order.admits(behind), "it was submitted before anybody saw the refusal");
        assert!(order.admits(order.ticket()));
    }

    #[test]
    fn every_one_of_several_refusals_must_be_seen() {
        let order = Arc::new(Order::default());
        let (first, second) = (order.refuse_late(), order.refuse_early());
        drop(second);
        assert!(!order.admits(order.ticket()));
        drop(first);
        assert!(order.admits(order.ticket()));
    }

    #[test]
    fn a_batch_that_found_the_queue_full_does_not_concern_those_before_it() {
        let order = Arc::new(Order::default());
        let queued = order.ticket();
        let notice = order.refuse_early();
        let behind = order.ticket();
        assert!(order.admits(queued));
        assert!(!order.admits(behind));
        drop(notice);
        assert!(!order.admits(behind));
        assert!(order.admits(order.ticket()));
    }
}
