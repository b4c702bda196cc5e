//! Futures of answers that come from a disk's threads.

use futures::channel::oneshot;

use crate::port::{BoxFuture, DiskError};
use crate::transfer::Answers;

/// Waits for a batch's answers. A disk that goes away without them answers `Closed`.
pub(crate) fn answers_of(answers: oneshot::Receiver<Answers>, count: usize) -> BoxFuture<Answers> {
    Box::pin(async move { answers.await.unwrap_or_else(|_| vec![Err(DiskError::Closed); count]) })
}

/// Waits for a sync's answer.
pub(crate) fn sync_answer_of(answer: oneshot::Receiver<Result<(), DiskError>>) -> BoxFuture<Result<(), DiskError>> {
    Box::pin(async move { answer.await.unwrap_or(Err(DiskError::Closed)) })
}

/// The same answer for every operation, at once.
pub(crate) fn refuse_all(count: usize, error: DiskError) -> BoxFuture<Answers> {
    Box::pin(std::future::ready(vec![Err(error); count]))
}
