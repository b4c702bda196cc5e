use kvtier_proto::v1::Verdict;

use super::*;
use crate::runtime::SystemClock;

fn log(bytes_max: u64) -> Arc<RequestLog> {
    RequestLog::new(Arc::new(SystemClock::default()), bytes_max)
}

fn outcome(blocks: u32) -> What {
    What::Outcome(v1::RequestOutcome { verdict: Verdict::Loaded.into(), blocks, detail: String::new() })
}

fn blocks_of(answer: &v1::WhyResponse) -> Vec<u32> {
    let blocks = answer.notes.iter().map(|note| match note.what.as_ref().expect("a note says something") {
        What::Outcome(outcome) => outcome.blocks,
        What::Inquiry(inquiry) => inquiry.asked_blocks,
    });
    blocks.collect()
}

#[test]
fn a_request_is_answered_with_its_own_notes_in_their_order() {
    let log = log(1 << 20);
    for number in 0..10 {
        log.note("acme", if number % 2 == 0 { "even" } else { "odd" }, outcome(number));
    }
    assert_eq!(blocks_of(&log.why("acme", "odd")), [1, 3, 5, 7, 9]);
    assert_eq!(blocks_of(&log.why("acme", "never")), [0; 0]);
    assert!(log.why("acme", "never").oldest_unix_ms > 0, "says from when on it would know");
}

#[test]
fn a_tenant_sees_its_own_requests_only() {
    let log = log(1 << 20);
    log.note("acme", "r", outcome(1));
    log.note("rival", "r", outcome(2));
    assert_eq!(blocks_of(&log.why("acme", "r")), [1]);
    assert_eq!(blocks_of(&log.why("rival", "r")), [2]);
    assert_eq!((blocks_of(&log.why("nobody", "r")), log.why("nobody", "r").oldest_unix_ms), (vec![], 0));
}

#[test]
fn a_busy_tenant_forgets_its_own_requests_and_the_bytes_stay_bounded() {
    let log = log(20_000);
    log.note("calm", "kept", outcome(7));
    for number in 0..5000 {
        log.note("busy", &format!("r{number}"), outcome(number));
        assert!(log.bytes() <= 20_000);
    }
    assert_eq!(blocks_of(&log.why("calm", "kept")), [7]);
    assert_eq!(blocks_of(&log.why("busy", "r4999")), [4999]);
    assert_eq!(blocks_of(&log.why("busy", "r0")), [0; 0], "forgotten");
}

#[test]
fn a_log_of_no_bytes_notes_nothing() {
    let log = log(0);
    log.note("acme", "r", outcome(1));
    assert_eq!((log.bytes(), blocks_of(&log.why("acme", "r"))), (0, vec![]));
}

#[test]
fn names_and_reports_that_could_harm_a_terminal_or_the_log_are_refused() {
    assert_eq!(name_of(""), Ok(None));
    assert_eq!(name_of("chat-17"), Ok(Some("chat-17")));
    assert!(name_of(&"x".repeat(REQUEST_BYTES_MAX)).is_ok());
    assert!(name_of(&"x".repeat(REQUEST_BYTES_MAX + 1)).is_err());
    assert!(name_of("\x1b[2J").is_err());
    let report = |request: &str, verdict: i32, detail: String| {
        let outcome = Some(v1::RequestOutcome { verdict, blocks: 1, detail });
        report_of(v1::ReportRequest { space: vec![1; 32], request: request.to_owned(), outcome })
    };
    let refused = |report: Result<_, BadField>| report.map(drop).expect_err("refused").field;
    assert!(report("r", 1, "x".repeat(DETAIL_BYTES_MAX)).is_ok());
    assert_eq!(refused(report("", 1, String::new())), "request");
    assert_eq!(refused(report("r", 0, String::new())), "outcome.verdict");
    assert_eq!(refused(report("r", 99, String::new())), "outcome.verdict");
    assert_eq!(refused(report("r", 1, "x".repeat(DETAIL_BYTES_MAX + 1))), "outcome.detail");
    let absent = v1::ReportRequest { space: vec![1; 32], request: "r".to_owned(), outcome: None };
    assert_eq!(refused(report_of(absent)), "outcome");
}

#[test]
fn an_id_is_found_with_the_digits_an_engine_adds_to_it() {
    let log = log(1 << 20);
    for (name, number) in [("chatcmpl-1", 1), ("chatcmpl-1-5f3a9c01", 2), ("chatcmpl-12", 3), ("chatcmpl", 4)] {
        log.note("acme", name, outcome(number));
    }
    assert_eq!(blocks_of(&log.why("acme", "chatcmpl-1")), [1, 2]);
    assert_eq!(blocks_of(&log.why("acme", "chatcmpl-12")), [3]);
}
