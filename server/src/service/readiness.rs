//! Whether this node should get requests: one value that gRPC health, `/readyz` and the log agree on.

use kvtier_proto::v1::kv_tier_server::KvTierServer;
use tokio::sync::watch;
use tonic_health::server::HealthReporter;

use super::Service;

/// Where the daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Opening what is on disk.
    Starting,
    /// Answering. The index may still fill; lookups are answered from disk meanwhile.
    Serving,
    /// Takes no more puts; the end is near.
    Draining,
    /// Everything is written; streams that would go on for ever end now.
    Closing,
}

impl Stage {
    /// The word for logs and `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Closing => "closing",
        }
    }
}

/// The stage, and who waits for it to change. It only moves forward.
#[derive(Debug)]
pub struct Readiness {
    stage: watch::Sender<Stage>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { stage: watch::Sender::new(Stage::Starting) }
    }
}

impl Readiness {
    /// The stage now.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Requests may come.
    pub fn serve(&self) {
        self.advance(Stage::Serving);
    }

    /// Requests should go elsewhere.
    pub fn drain(&self) {
        self.advance(Stage::Draining);
    }

    /// Endless streams should end.
    pub fn close(&self) {
        self.advance(Stage::Closing);
    }

    /// A receiver of every change.
    pub fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let forward = *stage < to;
            if forward {
                *stage = to;
            }
            forward
        });
    }

    /// Resolves once the stage is `at` or later.
    pub async fn reached(&self, at: Stage) {
        let mut stage = self.stage.subscribe();
        // Fails only when the sender is gone, and it is ours.
        drop(stage.wait_for(|stage| *stage >= at).await);
    }

    /// Keeps gRPC health in step; runs until this is dropped.
    pub(crate) fn report(&self, reporter: HealthReporter) -> impl Future<Output = ()> + Send + 'static {
        let mut stage = self.stage.subscribe();
        async move {
            loop {
                let now = *stage.borrow_and_update();
                match now {
                    Stage::Serving => reporter.set_serving::<KvTierServer<Service>>().await,
                    Stage::Starting | Stage::Draining | Stage::Closing => {
                        reporter.set_not_serving::<KvTierServer<Service>>().await
                    }
                }
                // The empty name stands for the whole server.
                let whole = match now {
                    Stage::Serving => tonic_health::ServingStatus::Serving,
                    Stage::Starting | Stage::Draining | Stage::Closing => tonic_health::ServingStatus::NotServing,
                };
                reporter.set_service_status("", whole).await;
                if stage.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stage_only_moves_forward() {
        let readiness = Readiness::default();
        readiness.drain();
        readiness.serve();
        assert_eq!(readiness.stage(), Stage::Draining, "a node that drains does not serve again");
        readiness.close();
        readiness.reached(Stage::Serving).await;
        assert_eq!(readiness.stage(), Stage::Closing);
    }
}
