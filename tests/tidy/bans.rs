//! Calls and attributes that are refused: unfinished code, tests nobody runs, sleeping instead of waiting.

use crate::ratchet::{self, Ratchet};
use crate::source::{self, Source};
use crate::tokens::{Token, lines_of, tokens};
use crate::{Finding, assert_none};

const BANNED: &[(&str, &str)] = &[
    ("# [ ignore", "a test nobody runs proves nothing; run it or remove it"),
    ("todo !", "finish it"),
    ("unimplemented !", "finish it"),
    ("dbg !", "take it out"),
];

const SLEEPS: &[&str] = &["thread : : sleep", "time : : sleep", "time : : sleep_until", "thread : : park_timeout"];

/// The engine is pure: it asks ports. What it must not name, also not through `std`.
const IMPURE: &[&str] = &["std : : fs", "std : : net", "std : : thread", "std : : process", "std : : env"];

fn check(source: &Source, ratchet: &Ratchet) -> Vec<Finding> {
    let tokens = match tokens(&source.text) {
        Ok(tokens) => tokens,
        Err(why) => return vec![Finding::new(&source.path, why)],
    };
    let at = |line: usize| format!("{}:{line}", source.path);
    let mut findings = Vec::new();
    for (pattern, why) in BANNED {
        findings.extend(lines_of(&tokens, pattern).into_iter().map(|line| Finding::new(at(line), *why)));
    }
    if !ratchet.may_sleep.keys().any(|allowed| source.path.starts_with(allowed.as_str())) {
        let lines = sleeps(&tokens).into_iter();
        findings.extend(lines.map(|line| Finding::new(at(line), "wait for what you wait for, or use the Clock port")));
    }
    if source.path.starts_with("engine/src/") && !source.is_test() {
        for pattern in IMPURE {
            let lines = lines_of(&tokens, pattern).into_iter();
            findings.extend(lines.map(|line| Finding::new(at(line), "the engine is pure: make it a port")));
        }
    }
    findings
}

/// Calls by path, and imports that would allow calls without one.
fn sleeps(tokens: &[Token]) -> Vec<usize> {
    let mut lines: Vec<usize> = SLEEPS.iter().flat_map(|pattern| lines_of(tokens, pattern)).collect();
    for (index, window) in tokens.windows(4).enumerate() {
        let texts: Vec<&str> = window.iter().map(|token| token.text.as_str()).collect();
        if matches!(texts[..], ["time" | "thread", ":", ":", "{"]) {
            let inside = tokens[index + 4..].iter().take_while(|token| token.text != "}");
            lines.extend(inside.filter(|token| token.text == "sleep").map(|token| token.line));
        }
    }
    lines
}

/// Exceptions that point at nothing are lies.
fn check_exceptions(sources: &[Source], ratchet: &Ratchet) -> Vec<Finding> {
    let used = |allowed: &str| {
        sources.iter().any(|source| {
            source.path.starts_with(allowed) && !sleeps(&tokens(&source.text).unwrap_or_default()).is_empty()
        })
    };
    let idle = ratchet.may_sleep.keys().filter(|allowed| !used(allowed));
    idle.map(|allowed| Finding::new(allowed, "does not sleep; take it out of [may_sleep] in ratchet.toml")).collect()
}

#[test]
fn nothing_is_unfinished_unrun_or_asleep() {
    let ratchet = ratchet::committed();
    let sources = source::rust();
    assert_none(&sources.iter().flat_map(|source| check(source, &ratchet)).collect::<Vec<_>>());
    assert_none(&check_exceptions(&sources, &ratchet));
}

#[test]
fn what_is_banned_is_found() {
    for text in [
        "#[test]\n#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"]\nfn f() {}",
        "fn f() { todo!() }",
        "fn f() { x!(dbg!(1)) }",
        "fn f() { unimplemented!() }",
        "fn f() { std::thread::sleep(d) }",
        "async fn f() { tokio::time::sleep(d).await }",
        "use tokio::time::sleep;",
        "use tokio::time::{timeout, sleep};",
        "fn f() { select!(_ = time::sleep(d) => {}) }",
    ] {
        assert_eq!(check(&Source::made_up("wal/src/x.rs", text), &Ratchet::default()).len(), 1, "{text}");
    }
    assert_eq!(check(&Source::made_up("engine/src/x.rs", "use std::fs::File;"), &Ratchet::default()).len(), 1);
}

#[test]
fn an_allowed_place_may_sleep_and_a_port_is_not_a_sleep() {
    let ratchet = Ratchet {
        may_sleep: [("server/src/clock".to_owned(), "the Clock port".to_owned())].into(),
        ..Ratchet::default()
    };
    let sleeping = Source::made_up("server/src/clock.rs", "fn f() { tokio::time::sleep(d) }");
    assert_eq!(check(&sleeping, &ratchet), []);
    assert_eq!(check_exceptions(&[sleeping], &ratchet), []);
    assert_eq!(check_exceptions(&[], &ratchet).len(), 1);
    assert_eq!(check(&Source::made_up("a.rs", "fn f() { clock.sleep(d) }"), &Ratchet::default()), []);
}
