//! The one place where the engine's words become the wire's: errors to statuses with `google.rpc` details, refusals and
//! misses to values.
//!
//! | engine | status | details |
//! |---|---|---|
//! | `Invalid` | `INVALID_ARGUMENT` | `BadRequest` (field), `ErrorInfo` (value, remedy) |
//! | `NotFound` | `NOT_FOUND` | `ResourceInfo`, `ErrorInfo` (remedy) |
//! | `Conflict` | `ALREADY_EXISTS` | `ErrorInfo` |
//! | `Lease` unknown / ended / foreign | `NOT_FOUND` / `FAILED_PRECONDITION` / `PERMISSION_DENIED` | `ResourceInfo`, `ErrorInfo` |
//! | `Exhausted` | `RESOURCE_EXHAUSTED` | `QuotaFailure`, `RetryInfo` |
//! | `OutOfRange` | `OUT_OF_RANGE` | `BadRequest` (`after`) |
//! | `Unavailable` | `UNAVAILABLE` | `RetryInfo` |

use std::collections::HashMap;
use std::time::Duration;

use kvtier_engine::catalog::plan::{Decline, LeaseError, LeaseId, Miss, MissReason};
use kvtier_engine::flow::EngineError;
use kvtier_engine::place::TierKind;
use kvtier_engine::port::RemovalCause;
use kvtier_proto::{tuning, v1};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of every status.
pub const ERROR_DOMAIN: &str = "kvtier.v1";
/// When to come back after a refusal that says nothing else.
const RETRY: Duration = Duration::from_millis(100);

/// One field of a request that cannot stay as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadField {
    pub(crate) field: String,
    pub(crate) value: String,
    pub(crate) remedy: String,
}

impl BadField {
    pub(crate) fn new(field: impl Into<String>, value: impl ToString, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), remedy: remedy.into() }
    }
}

impl From<BadField> for Status {
    fn from(bad: BadField) -> Self {
        let message = format!("{} is {}: {}", bad.field, bad.value, bad.remedy);
        bad_field(Code::InvalidArgument, "INVALID", message, bad)
    }
}

/// A status that blames one field.
fn bad_field(code: Code, reason: &str, message: String, bad: BadField) -> Status {
    let described = format!("is {}: {}", bad.value, bad.remedy);
    let mut details = ErrorDetails::with_bad_request_violation(bad.field.clone(), described);
    let words = [("field", bad.field), ("value", bad.value), ("remedy", bad.remedy)];
    details.set_error_info(reason, ERROR_DOMAIN, metadata(words));
    Status::with_error_details(code, message, details)
}

fn metadata<const N: usize>(words: [(&str, String); N]) -> HashMap<String, String> {
    words.into_iter().map(|(name, word)| (name.to_owned(), word)).collect()
}

/// The status of an engine error.
pub(crate) fn status(error: EngineError) -> Status {
    let message = error.to_string();
    match error {
        EngineError::Invalid { field, value, remedy } => BadField::new(field, value, remedy).into(),
        EngineError::NotFound { what, name, remedy } => not_found(message, what, name, remedy),
        EngineError::Conflict(_) => conflict(message),
        EngineError::Lease(error) => lease_status(error, None),
        EngineError::Exhausted { what, detail, retry } => exhausted(message, what, detail, retry),
        EngineError::OutOfRange(why) => {
            let remedy = "subscribe with a snapshot";
            bad_field(Code::OutOfRange, "OUT_OF_RANGE", message, BadField::new("after", why, remedy))
        }
        EngineError::Unavailable { retry, .. } => unavailable(message, retry),
    }
}

/// The status of an error that may name this lease.
pub(crate) fn status_about_lease(error: EngineError, lease: LeaseId) -> Status {
    match error {
        EngineError::Lease(error) => lease_status(error, Some(lease)),
        error => status(error),
    }
}

fn not_found(message: String, what: &str, name: String, remedy: &str) -> Status {
    let mut details = ErrorDetails::with_resource_info(what, name.clone(), "", remedy);
    let words = [("field", what.to_owned()), ("value", name), ("remedy", remedy.to_owned())];
    details.set_error_info("NOT_FOUND", ERROR_DOMAIN, metadata(words));
    Status::with_error_details(Code::NotFound, message, details)
}

fn conflict(message: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("CONFLICT", ERROR_DOMAIN, metadata([("detail", message.clone())]));
    Status::with_error_details(Code::AlreadyExists, message, details)
}

fn lease_status(error: LeaseError, lease: Option<LeaseId>) -> Status {
    let name = lease.map_or_else(String::new, |lease| hex(&lease.0.to_le_bytes()));
    let (code, reason, remedy) = match error {
        LeaseError::Unknown => (Code::NotFound, "LEASE_UNKNOWN", "look the chain up again with lease_ms"),
        LeaseError::Ended => (Code::FailedPrecondition, "LEASE_ENDED", "look the chain up again with lease_ms"),
        LeaseError::Foreign => {
            let remedy = "use it over the connection, or with the x-kvtier-client, that it was granted to";
            (Code::PermissionDenied, "LEASE_FOREIGN", remedy)
        }
        LeaseError::TooMany => {
            return exhausted(error.to_string(), "the lease table", error.to_string(), RETRY);
        }
    };
    let message = format!("{error}: {remedy}");
    let mut details = ErrorDetails::with_resource_info("lease", name.clone(), "", error.to_string());
    details.add_bad_request_violation("lease", format!("is {name}: {error}; {remedy}"));
    let words = [("field", "lease".to_owned()), ("value", name), ("remedy", remedy.to_owned())];
    details.set_error_info(reason, ERROR_DOMAIN, metadata(words));
    Status::with_error_details(code, message, details)
}

/// A bound is reached: `what` with `detail`; come back after `retry`.
pub(crate) fn exhausted(message: String, what: &str, detail: String, retry: Duration) -> Status {
    let mut details = ErrorDetails::with_quota_failure_violation(what, detail);
    details.set_retry_info(Some(retry));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Cannot be done now; come back after `retry`.
pub(crate) fn unavailable(message: String, retry: Duration) -> Status {
    Status::with_error_details(Code::Unavailable, message, ErrorDetails::with_retry_info(Some(retry)))
}

/// What to tell a client whose stream could not be read on. The decoder says `OUT_OF_RANGE` of a message over the
/// limit, and of nothing else.
pub(crate) fn stream_status(status: Status) -> Status {
    if status.code() != Code::OutOfRange {
        return status;
    }
    let remedy = format!("send at most {} bytes of data in one message", tuning::DATA_BYTES_MAX);
    BadField::new("data", format!("in a message of more than {} bytes", tuning::MESSAGE_BYTES_MAX), remedy).into()
}

/// A put that was bad input.
pub(crate) fn rejected(tag: u64, bad: BadField) -> v1::PutResponse {
    let BadField { field, value, remedy } = bad;
    outcome(tag, v1::put_response::Outcome::Rejected(v1::PutRejected { field, value, remedy }))
}

/// A put that an error stopped: bad input, or not now.
pub(crate) fn stopped(tag: u64, error: EngineError) -> v1::PutResponse {
    let message = error.to_string();
    match error {
        EngineError::Invalid { field, value, remedy } => rejected(tag, BadField::new(field, value, remedy)),
        EngineError::NotFound { what, name, remedy } => rejected(tag, BadField::new(what, name, remedy)),
        EngineError::Unavailable { .. } | EngineError::Exhausted { .. } => {
            let reason = v1::DeclineReason::Busy.into();
            outcome(tag, v1::put_response::Outcome::Declined(v1::Declined { reason, detail: message }))
        }
        EngineError::Conflict(_) | EngineError::Lease(_) | EngineError::OutOfRange(_) => {
            rejected(tag, BadField::new("begin", message, "report this: a put should not lead here"))
        }
    }
}

/// A refused put.
pub(crate) fn declined(tag: u64, decline: Decline) -> v1::PutResponse {
    let (reason, detail) = decline_words(decline);
    let declined = v1::Declined { reason: reason.into(), detail: detail.to_owned() };
    outcome(tag, v1::put_response::Outcome::Declined(declined))
}

/// An outcome under its tag.
pub(crate) fn outcome(tag: u64, outcome: v1::put_response::Outcome) -> v1::PutResponse {
    v1::PutResponse { tag, outcome: Some(outcome) }
}

/// A refusal's reason and what to do about it.
pub(crate) fn decline_words(decline: Decline) -> (v1::DeclineReason, &'static str) {
    use v1::DeclineReason as Reason;
    match decline {
        Decline::HostFull => (
            Reason::HostFull,
            "every block of the host tier is leased, pinned or in flight: release leases, or try again",
        ),
        Decline::NvmeFull => {
            (Reason::NvmeFull, "every block on nvme is leased, pinned or in flight: release leases, or try again")
        }
        Decline::NotAdmitted => {
            (Reason::NotAdmitted, "the admission policy keeps this block off nvme; it may be put as volatile")
        }
        Decline::ParentUnknown => (
            Reason::ParentUnknown,
            "its parent is not resident, so no lookup could reach it: put the chain from its first missing block",
        ),
        Decline::NvmeUnavailable => (
            Reason::NvmeUnavailable,
            "there is no nvme tier that takes stores: see the alarms in status, or put it as volatile",
        ),
        Decline::JournalUnavailable => (
            Reason::JournalUnavailable,
            "the journal takes no records: see the alarms in status, or put it as volatile",
        ),
        Decline::Draining => (Reason::Draining, "the daemon is draining and takes no more puts"),
        Decline::TooLarge => {
            (Reason::TooLarge, "no extent can hold a block of this size: raise host.extent_bytes or nvme.extent_bytes")
        }
        Decline::Busy => (Reason::Busy, "a queue is full: try again"),
        Decline::Recovering => {
            (Reason::Recovering, "the index is still filling after a restart: try again, or put it as volatile")
        }
        Decline::UnderWay => (Reason::UnderWay, "somebody else is putting this block right now: look it up later"),
    }
}

/// A tier's name on the wire.
pub(crate) fn tier(tier: TierKind) -> v1::Tier {
    match tier {
        TierKind::Hbm => v1::Tier::Hbm,
        TierKind::Host => v1::Tier::Host,
        TierKind::Nvme => v1::Tier::Nvme,
        TierKind::Archive => v1::Tier::Archive,
        TierKind::Engine => v1::Tier::Engine,
    }
}

/// A miss, with its story in one sentence.
pub(crate) fn miss(miss: &Miss) -> v1::Miss {
    use v1::MissReason as Reason;
    let place = miss.tier.map_or("its tier", TierKind::name);
    let ago = miss.age.map_or_else(String::new, |age| format!(" {} ago", words_of(age)));
    let (reason, detail) = match miss.reason {
        MissReason::NeverStored => (Reason::NeverStored, "never stored, as far as the history remembers".to_owned()),
        MissReason::Removed(RemovalCause::Evicted) => {
            (Reason::Evicted, format!("evicted from {place}{ago} for room of another block"))
        }
        MissReason::Removed(RemovalCause::Corrupt) => {
            (Reason::Corrupt, format!("its bytes on {place} did not verify{ago}"))
        }
        MissReason::Removed(RemovalCause::Deleted) => (Reason::Deleted, format!("deleted{ago}")),
        MissReason::Removed(RemovalCause::SpaceDropped) => (Reason::Deleted, format!("its space was dropped{ago}")),
        MissReason::Removed(RemovalCause::TierDown) => (Reason::TierDown, format!("lost with {place}{ago}")),
        MissReason::Declined(decline) => {
            (Reason::Declined, format!("a put of it was declined{ago}: {}", decline_words(decline).1))
        }
        MissReason::TierDown => (Reason::TierDown, format!("resident on {place}, which does not answer")),
        MissReason::Throttled => {
            (Reason::Throttled, format!("resident on {place}, but no host slot could be had: try again"))
        }
        MissReason::Incomplete => (Reason::Incomplete, "some of its parts have not been committed".to_owned()),
    };
    let age_ms = miss.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    v1::Miss { reason: reason.into(), detail, age_ms, tier: miss.tier.map_or(v1::Tier::Unspecified, tier).into() }
}

/// `850 ms`, `12 s`, `5 min`, `3 h`: as exact as a sentence needs it.
fn words_of(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{} ms", age.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests;
