//! gRPC statuses and their `google.rpc` details, turned into [`ClientError`] kinds.
//!
//! The daemon says which field is wrong in `BadRequest`, the value and the remedy in `ErrorInfo.metadata` under
//! `value` and `remedy` (without them the violation's description is the remedy), and when to try again in
//! `RetryInfo`. A status that has a local source was made by the transport on this side, not by the daemon.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt};

use crate::ClientError;
use crate::call::Call;

/// When to try again if the daemon did not say: a restarted daemon is back within a second.
pub(crate) const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Says what a failed call means. `deadline` is what the caller was prepared to wait.
pub(crate) fn decode(endpoint: &str, call: Call, deadline: Duration, status: &Status) -> ClientError {
    if has_source::<TimeoutExpired>(status) {
        return call.timed_out(deadline);
    }
    if status.source().is_some() {
        return decode_transport(endpoint, call, status);
    }
    let details = status.get_error_details();
    let detail = status.message().to_owned();
    let retry_after = details.retry_info().and_then(|retry| retry.retry_delay).unwrap_or(RETRY_AFTER_DEFAULT);
    let call_name = call.name;
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => invalid(call_name, detail, &details),
        // The one precondition the daemon knows is a lease that has ended: like one it never knew.
        Code::NotFound | Code::FailedPrecondition => ClientError::NotFound { call: call_name, detail },
        Code::AlreadyExists => ClientError::Conflict { call: call_name, detail },
        Code::PermissionDenied | Code::Unauthenticated => ClientError::Denied { call: call_name, detail },
        Code::Unavailable => ClientError::Unavailable { endpoint: endpoint.to_owned(), detail, retry_after },
        Code::ResourceExhausted => ClientError::Exhausted { call: call_name, detail, retry_after },
        // A tonic server answers a passed deadline with CANCELLED, and its timer may fire before ours.
        Code::DeadlineExceeded | Code::Cancelled => call.timed_out(deadline),
        Code::Aborted if call.changes => ClientError::Indeterminate { call: call_name, detail },
        Code::Aborted => ClientError::Unavailable { endpoint: endpoint.to_owned(), detail, retry_after },
        Code::Unimplemented => ClientError::Protocol {
            call: call_name,
            detail: format!("{endpoint} does not know this call; is it a kvtierd of this version?"),
        },
        code => ClientError::Internal { call: call_name, detail: format!("{detail} ({code:?})") },
    }
}

/// The connection failed on this side: the request either never left, or nobody knows.
fn decode_transport(endpoint: &str, call: Call, status: &Status) -> ClientError {
    let detail = root_cause(status);
    if matches!(status.code(), Code::OutOfRange) {
        return ClientError::protocol(call.name, status.message());
    }
    if call.changes && !has_source::<ConnectError>(status) {
        return ClientError::Indeterminate { call: call.name, detail };
    }
    ClientError::Unavailable { endpoint: endpoint.to_owned(), detail, retry_after: RETRY_AFTER_DEFAULT }
}

fn invalid(call: &str, message: String, details: &ErrorDetails) -> ClientError {
    let metadata = |key: &str| details.error_info().and_then(|info| info.metadata.get(key)).cloned();
    let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    let field = violations.first().map_or_else(|| call.to_owned(), |violation| violation.field.clone());
    let described = violations.iter().map(|violation| violation.description.as_str()).collect::<Vec<_>>().join("; ");
    let remedy = metadata("remedy").unwrap_or(if described.is_empty() { message } else { described });
    ClientError::Invalid { field, value: metadata("value").unwrap_or_default(), remedy }
}

fn has_source<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| error.is::<E>())
}

/// The innermost message of an error, e.g. `Connection refused (os error 111)`.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    chain(error).last().expect("a chain starts with the error itself").to_string()
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Call = Call::reading("lookup");
    const CHANGE: Call = Call::changing("delete");

    fn decoded(call: Call, status: &Status) -> ClientError {
        decode("unix:///s", call, Duration::from_secs(3), status)
    }

    #[test]
    fn bad_input_names_field_value_and_remedy() {
        let mut details = ErrorDetails::with_bad_request_violation("keys", "0 keys were given");
        let metadata = [("value", "0 keys"), ("remedy", "send 1 to 65536")];
        details.set_error_info("INVALID", "kvtier.v1", metadata.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let status = Status::with_error_details(Code::InvalidArgument, "bad", details);
        let error = decoded(READ, &status);
        assert_eq!(error, ClientError::invalid("keys", "0 keys", "send 1 to 65536"));
        assert_eq!(error.to_string(), "keys is 0 keys: send 1 to 65536");
    }

    #[test]
    fn without_metadata_the_violations_are_the_remedy() {
        let mut details = ErrorDetails::with_bad_request_violation("a", "must be 1");
        details.add_bad_request_violation("b", "must be 2");
        let status = Status::with_error_details(Code::InvalidArgument, "bad", details);
        assert_eq!(decoded(READ, &status).to_string(), "a: must be 1; must be 2");
    }

    #[test]
    fn without_details_the_message_is_the_remedy() {
        let error = decoded(READ, &Status::invalid_argument("no such thing"));
        assert_eq!(error, ClientError::invalid("lookup", "", "no such thing"));
    }

    #[test]
    fn the_daemons_retry_delay_is_passed_on() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::ResourceExhausted, "pins full", details);
        assert_eq!(decoded(CHANGE, &status).retry_after(), Some(Duration::from_millis(250)));
        let status = Status::unavailable("draining");
        assert_eq!(decoded(CHANGE, &status).retry_after(), Some(RETRY_AFTER_DEFAULT));
    }

    #[test]
    fn a_deadline_is_indeterminate_only_for_a_change() {
        let status = Status::deadline_exceeded("late");
        assert_eq!(decoded(READ, &status), ClientError::TimedOut { call: "lookup", after: Duration::from_secs(3) });
        assert!(matches!(decoded(CHANGE, &status), ClientError::Indeterminate { .. }));
    }

    /// On a busy machine the daemon's timer fired first, and a slow daemon was reported as an absent one.
    #[test]
    fn a_deadline_the_daemon_noticed_first_is_still_a_deadline() {
        let status = Status::cancelled("Timeout expired");
        assert!(matches!(decoded(READ, &status), ClientError::TimedOut { .. }));
        assert!(matches!(decoded(CHANGE, &status), ClientError::Indeterminate { .. }));
    }

    #[test]
    fn a_broken_connection_is_indeterminate_only_for_a_change() {
        let broken = || Status::from_error(Box::new(std::io::Error::other("reset")));
        assert!(matches!(decoded(READ, &broken()), ClientError::Unavailable { .. }));
        assert!(matches!(decoded(CHANGE, &broken()), ClientError::Indeterminate { .. }));
    }

    #[test]
    fn a_connection_that_never_was_changed_nothing() {
        let refused = ConnectError(Box::new(std::io::Error::other("connection refused")));
        let error = decoded(CHANGE, &Status::from_error(Box::new(refused)));
        assert!(matches!(&error, ClientError::Unavailable { detail, .. } if detail == "connection refused"), "{error}");
    }
}
