//! What a status says is wrong: the details every client can rely on.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The parts of a status that a program or a person acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// Status code.
    pub code: Code,
    /// The field at fault.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What to do.
    pub remedy: String,
    /// When to try again.
    pub retry: Option<Duration>,
}

impl Blame {
    /// Reads a status. Field, value and remedy are empty where it has none.
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let word = |name: &str| {
            let info = details.error_info().and_then(|info| info.metadata.get(name));
            info.cloned().unwrap_or_default()
        };
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        if let Some(violation) = violation {
            assert_eq!(violation.field, word("field"), "both details name one field");
        }
        Self {
            code: status.code(),
            field: word("field"),
            value: word("value"),
            remedy: word("remedy"),
            retry: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }

    /// Asserts what a refused call says. Value and remedy are parts of the text.
    #[track_caller]
    pub fn expect<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, field: &str, value: &str, remedy: &str) {
        let status = answer.expect_err("this must be refused");
        let blame = Self::of(&status);
        assert_eq!(blame.code, code, "{status:?}");
        assert_eq!(blame.field, field, "{status:?}");
        assert!(blame.value.contains(value), "value {value:?} in {blame:?}");
        assert!(!remedy.is_empty() && blame.remedy.contains(remedy), "remedy {remedy:?} in {blame:?}");
        assert!(status.message().contains(&blame.remedy), "the message alone helps, too: {:?}", status.message());
    }
}
