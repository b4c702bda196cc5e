//! The accept loop: bounded, and never stuck behind clients that say nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::socket::{Listener, Socket};
use crate::observe::Metrics;
use crate::observe::metrics::Entry;

/// When descriptors are used up and nobody can be sent away, how long at most until the next try.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// What the loop needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Accept {
    /// Connections being admitted at a time.
    pub(crate) waiting_max: usize,
    /// Told when a served connection has ended.
    pub(crate) freed: Arc<Notify>,
    /// Counts who was sent away.
    pub(crate) metrics: Arc<Metrics>,
}

/// Accepts until `stop`, and runs `admit` for each connection. Connections still being admitted at the end are closed.
pub(crate) async fn accept<F, T>(listener: Listener, settings: Accept, stop: CancellationToken, admit: F)
where
    F: Fn(Socket) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let mut room = Room { tasks: JoinSet::new(), oldest_first: VecDeque::new(), settings };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = room.tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(socket) => room.enter(admit(socket)).await,
                Err(error) => room.refused(&error).await,
            }
        }
    }
}

/// Connections being admitted. Never more than `waiting_max`.
struct Room {
    tasks: JoinSet<()>,
    /// May name tasks that have ended.
    oldest_first: VecDeque<AbortHandle>,
    settings: Accept,
}

impl Room {
    async fn enter(&mut self, admission: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.len() >= self.settings.waiting_max {
            self.send_oldest_away();
            // Whoever was sent away ends at its next await; meanwhile another may have ended too.
            let _ = self.tasks.join_next().await;
        }
        self.oldest_first.push_back(self.tasks.spawn(admission));
        if self.oldest_first.len() > 2 * self.settings.waiting_max {
            self.oldest_first.retain(|task| !task.is_finished());
        }
    }

    fn send_oldest_away(&mut self) -> bool {
        while let Some(oldest) = self.oldest_first.pop_front() {
            if !oldest.is_finished() {
                oldest.abort();
                self.settings.metrics.entry(Entry::SentAway);
                return true;
            }
        }
        false
    }

    /// Descriptors may be used up: the longest silent client gives one back. Other errors concern one connection only.
    async fn refused(&mut self, error: &std::io::Error) {
        let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        if !matches!(
            errno,
            Some(
                rustix::io::Errno::MFILE
                    | rustix::io::Errno::NFILE
                    | rustix::io::Errno::NOBUFS
                    | rustix::io::Errno::NOMEM
            )
        ) {
            return;
        }
        tracing::warn!(%error, "cannot accept a connection; raise the limit on open files (LimitNOFILE)");
        if self.send_oldest_away() {
            let _ = self.tasks.join_next().await;
        } else {
            let _ = tokio::time::timeout(EXHAUSTED_PAUSE, self.settings.freed.notified()).await;
        }
    }
}
