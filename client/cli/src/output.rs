//! Standard output: lines for people or JSON for programs, and a closed pipe is not an error worth a message.

use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;

/// Prints one line or one already formatted text.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::Output)
}

/// Prints one JSON document, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value).expect("our own structures always serialise"))
}

/// Prints one JSON document on one line, for streams of them.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).expect("our own structures always serialise"))
}

/// Writes bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}
