//! When to kill: after a random number of acknowledgements, so that the moment scales with the machine.

use std::sync::atomic::Ordering;

use kvtier_tests::wire::within;

use crate::load::Load;

/// SplitMix64 over the printed seed.
pub(crate) struct Moments(u64);

impl Moments {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    }

    /// Waits for the next moment: some acknowledgements, then some turns of the scheduler.
    pub(crate) async fn wait(&mut self, load: &Load) {
        // Of 72 durable blocks a round.
        let acknowledged = 1 + self.next() % 68;
        within("acknowledgements under load", async {
            while load.acknowledged.load(Ordering::Acquire) < acknowledged {
                kvtier_tests::wire::breathe().await;
            }
        })
        .await;
        for _ in 0..self.next() % 2000 {
            tokio::task::yield_now().await;
        }
    }
}
