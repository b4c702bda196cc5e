//! Errors as the classes of `kvtier.errors`, with what a caller needs to act as attributes.

use kvtier_client::ClientError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// The exception for an error of the client. A miss or a refusal never gets here: those are values.
pub(crate) fn raise(error: ClientError) -> PyErr {
    Python::attach(|py| build(py, &error).unwrap_or_else(|failure| failure))
}

/// An argument that can never work.
pub(crate) fn invalid(field: &str, value: impl Into<String>, remedy: &str) -> PyErr {
    raise(unfit(field, value, remedy))
}

/// The same before it is an exception, for threads without the GIL.
pub(crate) fn unfit(field: &str, value: impl Into<String>, remedy: &str) -> ClientError {
    ClientError::Invalid { field: field.to_owned(), value: value.into(), remedy: remedy.to_owned() }
}

/// The exception of a class of `kvtier.errors` with nothing but its message.
pub(crate) fn plain(class: &str, message: &str) -> PyErr {
    Python::attach(|py| make(py, class, message, &PyDict::new(py)).unwrap_or_else(|failure| failure))
}

fn build(py: Python<'_>, error: &ClientError) -> PyResult<PyErr> {
    let details = PyDict::new(py);
    details.set_item("retry_after", error.retry_after().map(|wait| wait.as_secs_f64()))?;
    let class = match error {
        ClientError::Invalid { field, value, remedy } => {
            details.set_item("field", field)?;
            details.set_item("value", value)?;
            details.set_item("remedy", remedy)?;
            "InvalidArgument"
        }
        ClientError::NotFound { .. } => "NotFound",
        ClientError::Conflict { .. } => "Conflict",
        ClientError::Denied { .. } => "Denied",
        ClientError::Unavailable { .. } => "Unavailable",
        ClientError::Exhausted { .. } => "Exhausted",
        ClientError::TimedOut { .. } => "TimedOut",
        ClientError::Indeterminate { .. } => "Indeterminate",
        ClientError::Corrupt { index, .. } => {
            details.set_item("index", index)?;
            "Corrupt"
        }
        ClientError::Protocol { .. } => "ProtocolBroken",
        _ => "InternalError",
    };
    make(py, class, &error.to_string(), &details)
}

fn make(py: Python<'_>, class: &str, message: &str, details: &Bound<'_, PyDict>) -> PyResult<PyErr> {
    let class = py.import("kvtier.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((PyString::new(py, message),), Some(details))?))
}
