//! One call with one answer: its deadline, its metadata, and the meaning of its failure.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};

use crate::{Client, ClientError, decode};

/// The name under which the daemon files a client's leases.
pub(crate) const CLIENT_HEADER: &str = "x-kvtier-client";

/// A call's name and whether it changes anything: the difference between `TimedOut` and `Indeterminate`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) changes: bool,
}

impl Call {
    pub(crate) const fn reading(name: &'static str) -> Self {
        Self { name, changes: false }
    }

    pub(crate) const fn changing(name: &'static str) -> Self {
        Self { name, changes: true }
    }

    /// The error for an answer that did not come within `after`.
    pub(crate) fn timed_out(self, after: Duration) -> ClientError {
        if self.changes {
            let detail = format!("no answer within {} ms", after.as_millis());
            return ClientError::Indeterminate { call: self.name, detail };
        }
        ClientError::TimedOut { call: self.name, after }
    }
}

/// A client's name as a header value. `id` has been checked to be hexadecimal.
pub(crate) fn header_value(id: &str) -> MetadataValue<Ascii> {
    MetadataValue::try_from(id).expect("hexadecimal digits are a valid header value")
}

impl Client {
    /// Wraps a message for a stream: named, but without a deadline for the whole.
    pub(crate) fn open_ended<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(CLIENT_HEADER, self.header());
        request
    }

    /// Wraps a message for a call that must be answered within `deadline`; the daemon is told.
    pub(crate) fn bounded<T>(&self, message: T, deadline: Duration) -> Request<T> {
        let mut request = self.open_ended(message);
        request.set_timeout(deadline);
        request
    }

    /// Waits for a call's answer, at most `deadline`.
    pub(crate) async fn answer<R>(
        &self,
        call: Call,
        deadline: Duration,
        answering: impl Future<Output = Result<Response<R>, Status>>,
    ) -> Result<R, ClientError> {
        match tokio::time::timeout(deadline, answering).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.explain(call, deadline, &status)),
            Err(_) => Err(call.timed_out(deadline)),
        }
    }

    /// Turns a status into what the caller should do.
    pub(crate) fn explain(&self, call: Call, deadline: Duration, status: &Status) -> ClientError {
        decode::decode(&self.endpoint().to_string(), call, deadline, status)
    }
}
