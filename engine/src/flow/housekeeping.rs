//! What happens by itself: deadlines end, idle devices are scrubbed.

use std::sync::Arc;
use std::time::Duration;

use super::{Shared, scrub};

/// Longest pause between two rounds.
const ROUND_MAX: Duration = Duration::from_millis(500);
/// Shortest pause, whatever deadlines say.
const ROUND_MIN: Duration = Duration::from_millis(5);

/// Keeps house until the engine stops.
pub(crate) async fn keep_house(shared: Arc<Shared>) {
    let mut scrubber = scrub::Scrubber::default();
    while !shared.stopped() {
        let pause = {
            let core = shared.lock();
            let next = core.catalog.next_deadline().map_or(ROUND_MAX, |deadline| deadline.since(shared.now()));
            next.clamp(ROUND_MIN, ROUND_MAX)
        };
        shared.ports.clock.sleep(pause).await;
        shared.expire();
        scrubber.step(&shared).await;
    }
}

impl Shared {
    /// Ends what has passed its deadline (INV-4: a lease always ends).
    pub(crate) fn expire(&self) {
        let mut core = self.lock();
        let expired = core.catalog.expire(self.now());
        self.journal(&mut core, expired.records);
        self.meter.expired_leases.add(expired.leases as u64);
        self.meter.expired_puts.add(expired.pending as u64);
    }
}
