//! The house rules that no compiler checks: arrows between crates, sizes, names, unsafe code, banned calls, manifests,
//! and paths of somebody's machine.
//!
//! Every rule is a function from text to [`Finding`]s. Each has one test that applies it to the workspace and one that
//! shows it a bad input, because a check that cannot fail is a defect. Exceptions are in `ratchet.toml`, which may only
//! shrink.
#![forbid(unsafe_code)]

mod arrows;
mod bans;
mod documents;
mod manifests;
mod names;
mod places;
mod ratchet;
mod sizes;
mod source;
mod tokens;
mod unsafety;

/// One violation: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Path from the workspace's root, and a line where there is one.
    at: String,
    /// What is wrong.
    what: String,
}

impl Finding {
    fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into() }
    }
}

/// Fails with all findings, one a line.
#[track_caller]
fn assert_none(findings: &[Finding]) {
    let lines: String = findings.iter().map(|finding| format!("\n  {}: {}", finding.at, finding.what)).collect();
    assert!(findings.is_empty(), "{} findings{lines}", findings.len());
}
