//! The exceptions: files and functions that are too long today, and where sleeping is allowed. Numbers may only fall.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::source;

/// `ratchet.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ratchet {
    /// Path to production lines, for files over the limit.
    #[serde(default)]
    pub(crate) file_lines: BTreeMap<String, usize>,
    /// `path::function` to lines, for functions over the limit.
    #[serde(default)]
    pub(crate) function_lines: BTreeMap<String, usize>,
    /// Files or folders that may sleep, and why.
    #[serde(default)]
    pub(crate) may_sleep: BTreeMap<String, String>,
}

/// The committed one.
pub(crate) fn committed() -> Ratchet {
    let path = source::root().join("tests/tidy/ratchet.toml");
    let text = std::fs::read_to_string(path).expect("tests/tidy/ratchet.toml is committed");
    toml::from_str(&text).expect("tests/tidy/ratchet.toml is valid")
}

#[test]
fn a_ratchet_with_an_unknown_key_is_refused() {
    assert!(toml::from_str::<Ratchet>("file_line = {}").is_err());
    assert!(!committed().may_sleep.values().any(String::is_empty), "every exception has a reason");
}
