//! What the engine answers when nobody asked for it. A kind exists only if a caller would act differently.

use std::time::Duration;

use crate::catalog::plan::LeaseError;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The request is wrong and will stay wrong: fix it.
    #[error("{field} is {value}: {remedy}")]
    Invalid {
        /// Field as on the wire.
        field: &'static str,
        /// Value as given, shortened.
        value: String,
        /// What to do.
        remedy: String,
    },
    /// What the request names does not exist.
    #[error("{what} {name} does not exist: {remedy}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The name is taken by something else.
    #[error("{0}")]
    Conflict(String),
    /// The lease cannot be used.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A bound is reached: come back later.
    #[error("{what} is full: {detail}")]
    Exhausted {
        /// Which bound.
        what: &'static str,
        /// Figures.
        detail: String,
        /// When to try again.
        retry: Duration,
    },
    /// The position lies outside the log.
    #[error("{0}")]
    OutOfRange(String),
    /// Could not tell, or could not do it now.
    #[error("{what} is unavailable: {cause}")]
    Unavailable {
        /// What.
        what: &'static str,
        /// Why.
        cause: String,
        /// When to try again.
        retry: Duration,
    },
}

impl EngineError {
    pub(crate) fn invalid(field: &'static str, value: impl ToString, remedy: impl ToString) -> Self {
        Self::Invalid { field, value: value.to_string(), remedy: remedy.to_string() }
    }

    pub(crate) fn unavailable(what: &'static str, cause: impl ToString) -> Self {
        Self::Unavailable { what, cause: cause.to_string(), retry: Duration::from_millis(200) }
    }
}
