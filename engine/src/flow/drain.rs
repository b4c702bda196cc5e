//! Stopping in order: no new puts, write back what is queued, sync, flush.

use std::time::Duration;

use futures::future::{Either, select};

use super::ask::Drained;
use super::{Engine, indexer};

/// How long the index may take to catch up with the log.
const INDEX_PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Takes no more puts and writes back what is queued, for at most `timeout`.
    pub async fn drain(&self, timeout: Duration) -> Drained {
        let shared = &self.shared;
        let before = {
            let mut core = shared.lock();
            core.draining = true;
            core.stores.unwritten() as u64
        };
        let idle = async {
            loop {
                let waiter = shared.lock().stores.when_idle();
                let Some(waiter) = waiter else { return };
                // A worker that vanished counts as idle; the loop looks again.
                waiter.await.ok();
            }
        };
        let out_of_time = shared.ports.clock.sleep(timeout);
        let abandoned = match select(std::pin::pin!(idle), out_of_time).await {
            Either::Left(_) => 0,
            Either::Right(_) => shared.lock().stores.unwritten() as u64,
        };
        let newest = shared.ports.journal.status().appended_seq;
        // A failed journal shows in `status`; draining goes on with what can be done.
        drop(shared.ports.journal.durable(newest).await);
        let durable = shared.ports.journal.status().durable_seq;
        // What the index does not get now it gets from the log at the next start.
        let patience = shared.ports.clock.sleep(INDEX_PATIENCE);
        select(std::pin::pin!(shared.applied(durable)), patience).await;
        indexer::flush(shared).await;
        Drained { written_back: before.saturating_sub(abandoned), abandoned }
    }

    /// Ends the engine's own tasks. Call it after [`Engine::drain`], as the last thing.
    pub fn stop(&self) {
        self.shared.stop();
    }
}
