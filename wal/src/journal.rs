//! The handle: engine's `Journal` port, from any thread.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::channel::oneshot;
use kvtier_engine::port::{
    AppendRefused, BoxFuture, Journal, JournalError, JournalStatus, Position, ReadRefused, Record,
};

use crate::codec::{RECORD_BYTES_MAX, record_bytes_in_memory};
use crate::recent::collect;
use crate::shared::Shared;
use crate::state::{READS_QUEUED_MAX, ReadRequest};
use crate::waiters::WaiterKey;

/// The most records one read returns, whatever was asked for.
pub const READ_RECORDS_MAX: usize = 1 << 16;

/// The event log, as the engine holds it. Dropping the last handle asks the writer to write what is queued and end.
pub struct Wal {
    pub(crate) shared: Arc<Shared>,
}

impl Wal {
    /// Asks the writer to write what is queued, leave its mark and end. Appends are refused from now on. The writer's
    /// future (or thread) ending says that it is done.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Journal for Wal {
    fn ready(&self) -> Result<(), AppendRefused> {
        let bytes_max = usize::try_from(self.shared.settings.queue_bytes_max).unwrap_or(usize::MAX);
        self.shared.lock().ready(bytes_max)
    }

    fn append(&self, records: Vec<Record>) -> Result<Position, AppendRefused> {
        let mut bytes = 0;
        for record in &records {
            let record_bytes = record_bytes_in_memory(record);
            if record_bytes > RECORD_BYTES_MAX {
                let reason = format!("a record of about {record_bytes} bytes exceeds {RECORD_BYTES_MAX}");
                return Err(AppendRefused::Suspended(reason));
            }
            bytes += record_bytes;
        }
        let now = self.shared.clock.now();
        let appended = self.shared.lock().append(records, bytes, now, &self.shared.settings);
        match appended {
            Ok(appended) => {
                if appended.wake {
                    self.shared.commit.raise();
                }
                Ok(appended.position)
            }
            Err(overflow) => {
                if let Some(told) = overflow.told {
                    tracing::warn!("the journal dropped its queue: {}", overflow.refused);
                    told.tell();
                    self.shared.commit.raise();
                }
                Err(overflow.refused)
            }
        }
    }

    fn durable(&self, seq: u64) -> BoxFuture<Result<(), JournalError>> {
        let (key, receiver, wake) = {
            let mut state = self.shared.lock();
            if let Some(answer) = state.durability(seq) {
                return Box::pin(std::future::ready(answer));
            }
            let (key, receiver) = state.durable.enroll(seq);
            // The first one starts the writer, the last one expected ends its lingering; those between are no news.
            (key, receiver, state.durable.count() == 1 || state.all_wait())
        };
        if wake {
            self.shared.commit.raise();
        }
        let shared = Arc::clone(&self.shared);
        let dismiss = move || shared.lock().durable.dismiss(key);
        let waiting = Waiting { key, receiver, dismiss: Some(dismiss) };
        Box::pin(async move {
            waiting.await.unwrap_or_else(|| Err(JournalError::Poisoned("the journal's writer is gone".into())))
        })
    }

    fn read(&self, after: u64, count_max: usize) -> BoxFuture<Result<Vec<(Position, Record)>, ReadRefused>> {
        let count_max = count_max.min(READ_RECORDS_MAX);
        let receiver = {
            let mut state = self.shared.lock();
            if let Err(refused) = state.check_readable(after) {
                return Box::pin(std::future::ready(Err(refused)));
            }
            if let Some(runs) = state.recent.after(after, count_max) {
                drop(state);
                return Box::pin(std::future::ready(Ok(collect(&runs, after, count_max))));
            }
            if state.reads.len() >= READS_QUEUED_MAX {
                let refused = ReadRefused::Unreadable(format!("{READS_QUEUED_MAX} reads wait already, try again"));
                return Box::pin(std::future::ready(Err(refused)));
            }
            let (reply, receiver) = oneshot::channel();
            state.reads.push_back(ReadRequest { after, count_max, reply });
            receiver
        };
        self.shared.serve.raise();
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Err(ReadRefused::Unreadable("the journal's writer is gone".into())))
        })
    }

    fn grown(&self, after: u64) -> BoxFuture<()> {
        let (key, receiver) = {
            let mut state = self.shared.lock();
            if state.durable_seq > after {
                return Box::pin(std::future::ready(()));
            }
            state.grown.enroll(after)
        };
        let shared = Arc::clone(&self.shared);
        let dismiss = move || shared.lock().grown.dismiss(key);
        let waiting = Waiting { key, receiver, dismiss: Some(dismiss) };
        Box::pin(async move {
            if waiting.await.is_none() {
                // The writer is gone: nothing will ever be durable again.
                std::future::pending().await
            }
        })
    }

    fn covered(&self, seq: u64) {
        {
            let mut state = self.shared.lock();
            let seq = seq.min(state.durable_seq);
            if seq <= state.covered_seq {
                return;
            }
            state.covered_seq = seq;
        }
        self.shared.commit.raise();
    }

    fn status(&self) -> JournalStatus {
        self.shared.lock().status()
    }
}

/// A caller's place among the waiters; given back when the future is dropped.
struct Waiting<T, D: FnOnce()> {
    key: WaiterKey,
    receiver: oneshot::Receiver<T>,
    dismiss: Option<D>,
}

impl<T, D: FnOnce() + Unpin> Future for Waiting<T, D> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let answer = std::task::ready!(Pin::new(&mut self.receiver).poll(context));
        self.dismiss = None;
        Poll::Ready(answer.ok())
    }
}

impl<T, D: FnOnce()> Drop for Waiting<T, D> {
    fn drop(&mut self) {
        if let Some(dismiss) = self.dismiss.take() {
            dismiss();
        }
    }
}

impl<T, D: FnOnce()> std::fmt::Debug for Waiting<T, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("key", &self.key).finish_non_exhaustive()
    }
}
