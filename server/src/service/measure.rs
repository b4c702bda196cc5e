//! Measuring calls: how each ended and how long it took, streams to their end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::Stream;
use kvtier_engine::port::Moment;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Code, Response, Status};

use super::{Answers, Node};
use crate::observe::Operation;

/// A call under way. Noted when it is dropped: as cancelled, unless it was answered.
pub(crate) struct Call {
    node: Arc<Node>,
    name: &'static str,
    begun: Moment,
    code: Code,
    _running: TaskTrackerToken,
}

impl Call {
    pub(crate) fn begin(node: Arc<Node>, name: &'static str) -> Self {
        let (begun, running) = (node.clock.now(), node.calls.token());
        Self { node, name, begun, code: Code::Cancelled, _running: running }
    }

    /// Refuses the call.
    pub(crate) fn refuse(mut self, status: Status) -> Status {
        self.code = status.code();
        status
    }

    /// Answers a call that has one answer.
    pub(crate) fn answer<T>(mut self, answer: Result<T, Status>) -> Result<Response<T>, Status> {
        self.code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        answer.map(Response::new)
    }

    /// Answers a call that has a stream of them; the call ends with the stream.
    pub(crate) fn answers<T>(
        mut self,
        answers: Result<impl Stream<Item = Result<T, Status>> + Send + 'static, Status>,
    ) -> Result<Response<Answers<T>>, Status> {
        match answers {
            Ok(answers) => {
                let measured = Measured { call: self, answers: Box::pin(answers) };
                Ok(Response::new(Box::pin(measured)))
            }
            Err(status) => {
                self.code = status.code();
                Err(status)
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.node.clock.now().since(self.begun);
        self.node.metrics.call(self.name, code_name(self.code));
        match self.name {
            "lookup" => self.node.metrics.observe(Operation::Lookup, took),
            "get" => self.node.metrics.observe(Operation::Get, took),
            _ => {}
        }
    }
}

/// The name of a status code in metrics.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// A stream that notes how it ended.
struct Measured<S> {
    call: Call,
    answers: Pin<Box<S>>,
}

impl<T, S: Stream<Item = Result<T, Status>>> Stream for Measured<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answer = self.answers.as_mut().poll_next(context);
        match &answer {
            Poll::Ready(None) if self.call.code == Code::Cancelled => self.call.code = Code::Ok,
            Poll::Ready(Some(Err(status))) => self.call.code = status.code(),
            _ => {}
        }
        answer
    }
}
