//! Which transfer the device gets next.
//!
//! Three queues, first come first served in each. Loads go before stores, stores before idle work, with two limits:
//!
//! - **No starvation.** While a lower queue waits, every byte served above it earns it credit: a sixteenth for stores,
//!   a sixty-fourth for idle work. When the credit covers its first transfer, that one goes next.
//! - **No flood.** A load must not find the device busy with a mountain of stores: a part of the depth is kept for
//!   loads, and stores at the device are capped in bytes. While a load waits or flies, only one store flies beside it:
//!   the device divides its time among what it has, so more would be served at the load's expense.

use std::collections::VecDeque;

use crate::port::Priority;
use crate::transfer::Transfer;

/// Bytes served above a waiting queue for each byte of its own, by priority.
const SHARE_DIVISOR: [u64; CLASS_COUNT] = [1, 16, 64];

/// Number of priorities.
pub(crate) const CLASS_COUNT: usize = 3;

/// What may be at the device at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlightLimits {
    /// Transfers in all.
    pub(crate) depth: u32,
    /// Bytes of stores, and of idle work; one transfer is always allowed.
    pub(crate) store_bytes_max: u64,
}

/// The queues and what has left them for the device.
pub(crate) struct Backlog {
    limits: FlightLimits,
    classes: [Class; CLASS_COUNT],
}

#[derive(Default)]
struct Class {
    queue: VecDeque<Transfer>,
    credit_bytes: u64,
    flying_count: u32,
    flying_bytes: u64,
}

impl Backlog {
    /// Empty queues.
    pub(crate) fn new(limits: FlightLimits) -> Self {
        assert!(limits.depth > 0, "a disk with no operation in flight never ends one");
        Self { limits, classes: Default::default() }
    }

    /// Queues a transfer behind those of its priority.
    pub(crate) fn push(&mut self, transfer: Transfer) {
        self.classes[transfer.priority as usize].queue.push_back(transfer);
    }

    /// Queues a transfer before those of its priority: it has been at the device already.
    pub(crate) fn push_front(&mut self, transfer: Transfer) {
        self.classes[transfer.priority as usize].queue.push_front(transfer);
    }

    /// Takes the next transfer to start, if one may start now. It counts as flying until [`Backlog::landed`].
    pub(crate) fn next(&mut self) -> Option<Transfer> {
        let class = self.choose()?;
        let transfer = self.classes[class].queue.pop_front()?;
        let bytes = u64::from(transfer.bytes);
        self.classes[class].flying_count += 1;
        self.classes[class].flying_bytes += bytes;
        self.settle(class, bytes);
        Some(transfer)
    }

    /// A transfer of this priority and size is no longer at the device.
    pub(crate) fn landed(&mut self, priority: Priority, bytes: u32) {
        let class = &mut self.classes[priority as usize];
        class.flying_count -= 1;
        class.flying_bytes -= u64::from(bytes);
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.queue.is_empty())
    }

    /// Transfers at the device.
    pub(crate) fn flying_count(&self) -> u32 {
        self.classes.iter().map(|class| class.flying_count).sum()
    }

    fn choose(&self) -> Option<usize> {
        if self.flying_count() >= self.limits.depth {
            return None;
        }
        let ready: [bool; CLASS_COUNT] = std::array::from_fn(|class| self.may_start(class));
        let earned = |class: &usize| {
            let class = &self.classes[*class];
            class.queue.front().is_some_and(|head| class.credit_bytes >= u64::from(head.bytes))
        };
        let starving = (1..CLASS_COUNT).find(|class| ready[*class] && earned(class));
        starving.or_else(|| (0..CLASS_COUNT).find(|class| ready[*class]))
    }

    fn may_start(&self, class: usize) -> bool {
        let Class { queue, flying_count, flying_bytes, .. } = &self.classes[class];
        let Some(head) = queue.front() else { return false };
        if class == Priority::Load as usize || *flying_count == 0 {
            return true;
        }
        let loads = &self.classes[Priority::Load as usize];
        if loads.flying_count > 0 || !loads.queue.is_empty() {
            return false;
        }
        let eighth = (self.limits.depth / 8).max(1);
        let count_max = if class == Priority::Store as usize { self.limits.depth - eighth } else { eighth };
        *flying_count < count_max && *flying_bytes + u64::from(head.bytes) <= self.limits.store_bytes_max
    }

    /// Pays for a start out of the class's credit, and credits those below that wait.
    fn settle(&mut self, class: usize, bytes: u64) {
        self.classes[class].credit_bytes = self.classes[class].credit_bytes.saturating_sub(bytes);
        for (Class { queue, credit_bytes, .. }, divisor) in self.classes.iter_mut().zip(SHARE_DIVISOR).skip(class + 1) {
            // Credit is a right to go next, not a hoard: an empty queue has none, and nobody more than its head needs.
            *credit_bytes = match queue.front() {
                Some(head) => (*credit_bytes + bytes / divisor).min(u64::from(head.bytes)),
                None => 0,
            };
        }
    }
}

#[cfg(test)]
mod tests;
