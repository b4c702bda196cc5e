//! What can go wrong, by what the caller should do about it.

use std::time::Duration;

/// An error nobody asked for. Misses and refused puts are answers, not errors.
///
/// | kind | what a caller does |
/// |---|---|
/// | `Invalid`, `Denied` | fix the request |
/// | `NotFound` | open the space, or look the chain up again |
/// | `Conflict` | choose another name or use the description that is there |
/// | `Unavailable`, `Exhausted` | recompute now; try again after `retry_after` |
/// | `TimedOut` | recompute now; nothing was changed |
/// | `Indeterminate` | the change may have happened; putting the same block again is harmless |
/// | `Corrupt` | recompute that block |
/// | `Protocol`, `Internal` | report it; the stream it happened on is over |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request can never succeed as it is.
    #[error("{}", describe_invalid(field, value, remedy))]
    Invalid {
        /// Which field of the request or setting.
        field: String,
        /// Its value, shortened; empty when the daemon did not say.
        value: String,
        /// What to write instead.
        remedy: String,
    },
    /// The space, lease or pin that was named is not there.
    #[error("{call}: {detail}")]
    NotFound {
        /// The call that failed.
        call: &'static str,
        /// What was not found, in the daemon's words.
        detail: String,
    },
    /// Something else already has that name.
    #[error("{call}: {detail}")]
    Conflict {
        /// The call that failed.
        call: &'static str,
        /// What is in the way, in the daemon's words.
        detail: String,
    },
    /// This client may not do that.
    #[error("{call}: {detail}")]
    Denied {
        /// The call that failed.
        call: &'static str,
        /// Why, in the daemon's words.
        detail: String,
    },
    /// The daemon cannot be reached, is starting or is draining. The request was not carried out.
    #[error("kvtierd at {endpoint} is unavailable: {detail}; try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// Where it was expected.
        endpoint: String,
        /// What happened.
        detail: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A bound of the daemon is reached. The request was not carried out.
    #[error("{call}: {detail}; try again in {} ms", retry_after.as_millis())]
    Exhausted {
        /// The call that failed.
        call: &'static str,
        /// Which bound, in the daemon's words.
        detail: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// No answer to a call that changes nothing came in time.
    #[error("{call}: no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The call that failed.
        call: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke or time ran out during a call that changes something: it may or may not have happened.
    #[error("{call} may or may not have happened: {detail}")]
    Indeterminate {
        /// The call that failed.
        call: &'static str,
        /// What happened.
        detail: String,
    },
    /// A block's bytes disagree with the checksum announced for them. The bytes were dropped; a
    /// [`crate::GetStream`] goes on with the next block.
    #[error("block {index} is corrupt: crc32 {announced:08x} was announced, its bytes have {found:08x}")]
    Corrupt {
        /// Position of the block in the lease or key list.
        index: u32,
        /// CRC-32 the daemon announced.
        announced: u32,
        /// CRC-32 of the bytes that came.
        found: u32,
    },
    /// The daemon's answer breaks the rules of `kvtier.proto`: a stream that ends early, frames that do not fit.
    #[error("{call}: the daemon's answer breaks the protocol: {detail}")]
    Protocol {
        /// The call that failed.
        call: &'static str,
        /// Which rule.
        detail: String,
    },
    /// The daemon failed in a way it does not explain.
    #[error("{call}: {detail}")]
    Internal {
        /// The call that failed.
        call: &'static str,
        /// The daemon's words.
        detail: String,
    },
}

fn describe_invalid(field: &str, value: &str, remedy: &str) -> String {
    match value {
        "" => format!("{field}: {remedy}"),
        value => format!("{field} is {value}: {remedy}"),
    }
}

impl ClientError {
    /// An [`ClientError::Invalid`] found before anything was sent.
    pub(crate) fn invalid(field: impl Into<String>, value: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), value: value.into(), remedy: remedy.into() }
    }

    pub(crate) fn protocol(call: &'static str, detail: impl Into<String>) -> Self {
        Self::Protocol { call, detail: detail.into() }
    }

    /// When the same request may succeed, if waiting can help at all.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } | Self::Exhausted { retry_after, .. } => Some(*retry_after),
            Self::TimedOut { .. } | Self::Indeterminate { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// A stable name for programs, as printed by `kvtier --json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::Denied { .. } => "denied",
            Self::Unavailable { .. } => "unavailable",
            Self::Exhausted { .. } => "exhausted",
            Self::TimedOut { .. } => "timed_out",
            Self::Indeterminate { .. } => "indeterminate",
            Self::Corrupt { .. } => "corrupt",
            Self::Protocol { .. } => "protocol",
            Self::Internal { .. } => "internal",
        }
    }
}
