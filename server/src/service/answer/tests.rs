use super::*;

fn info(status: &Status) -> HashMap<String, String> {
    status.get_error_details().error_info().expect("every refusal has an ErrorInfo").metadata.clone()
}

#[test]
fn invalid_input_names_field_value_and_remedy_in_message_and_details() {
    let error = EngineError::Invalid { field: "lease_ms", value: "0".into(), remedy: "at least 1 ms".into() };
    let status = status(error);
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "lease_ms is 0: at least 1 ms");
    let violations = status.get_error_details().bad_request().expect("a BadRequest").field_violations.clone();
    assert_eq!(violations[0].field, "lease_ms");
    assert_eq!(violations[0].description, "is 0: at least 1 ms");
    let words = info(&status);
    assert_eq!((words["value"].as_str(), words["remedy"].as_str()), ("0", "at least 1 ms"));
}

#[test]
fn every_kind_of_error_has_its_code() {
    let retry = Duration::from_millis(7);
    let cases = [
        (EngineError::NotFound { what: "space", name: "x".into(), remedy: "open it" }, Code::NotFound),
        (EngineError::Conflict("taken".into()), Code::AlreadyExists),
        (EngineError::Lease(LeaseError::Unknown), Code::NotFound),
        (EngineError::Lease(LeaseError::Ended), Code::FailedPrecondition),
        (EngineError::Lease(LeaseError::Foreign), Code::PermissionDenied),
        (EngineError::Lease(LeaseError::TooMany), Code::ResourceExhausted),
        (EngineError::Exhausted { what: "pins", detail: "3 of 3".into(), retry }, Code::ResourceExhausted),
        (EngineError::OutOfRange("lies ahead".into()), Code::OutOfRange),
        (EngineError::Unavailable { what: "index", cause: "closed".into(), retry }, Code::Unavailable),
    ];
    for (error, code) in cases {
        assert_eq!(status(error.clone()).code(), code, "{error:?}");
    }
}

#[test]
fn what_may_be_tried_again_says_when() {
    let retry = Duration::from_millis(1234);
    let exhausted = EngineError::Exhausted { what: "pins", detail: "3 of 3".into(), retry };
    let unavailable = EngineError::Unavailable { what: "index", cause: "closed".into(), retry };
    for error in [exhausted, unavailable] {
        let details = status(error).get_error_details();
        assert_eq!(details.retry_info().and_then(|info| info.retry_delay), Some(retry));
    }
}

#[test]
fn a_lease_error_names_the_lease() {
    let lease = LeaseId(u128::from_le_bytes([0xab; 16]));
    let status = status_about_lease(EngineError::Lease(LeaseError::Ended), lease);
    assert_eq!(info(&status)["value"], "ab".repeat(16));
    assert_eq!(status.get_error_details().resource_info().expect("a ResourceInfo").resource_type, "lease");
}

#[test]
fn a_miss_tells_its_story() {
    let evicted = Miss {
        reason: MissReason::Removed(RemovalCause::Evicted),
        age: Some(Duration::from_secs(12)),
        tier: Some(TierKind::Nvme),
    };
    let wire = miss(&evicted);
    assert_eq!(wire.detail, "evicted from nvme 12 s ago for room of another block");
    assert_eq!((wire.reason(), wire.age_ms, wire.tier()), (v1::MissReason::Evicted, Some(12_000), v1::Tier::Nvme));
    let never = miss(&Miss { reason: MissReason::NeverStored, age: None, tier: None });
    assert_eq!(
        (never.reason(), never.age_ms, never.tier()),
        (v1::MissReason::NeverStored, None, v1::Tier::Unspecified)
    );
}

#[test]
fn ages_are_told_as_exactly_as_a_sentence_needs() {
    let words = [850_u64, 12_000, 119_000, 300_000, 10_800_000].map(|ms| words_of(Duration::from_millis(ms)));
    assert_eq!(words, ["850 ms", "12 s", "119 s", "5 min", "3 h"]);
}

#[test]
fn every_refusal_says_what_to_do() {
    for decline in [
        Decline::HostFull,
        Decline::NvmeFull,
        Decline::NotAdmitted,
        Decline::ParentUnknown,
        Decline::NvmeUnavailable,
        Decline::JournalUnavailable,
        Decline::Draining,
        Decline::TooLarge,
        Decline::Busy,
        Decline::Recovering,
        Decline::UnderWay,
    ] {
        let (reason, detail) = decline_words(decline);
        let named = reason.as_str_name().to_lowercase();
        assert_eq!(named, format!("decline_reason_{}", decline.name()), "one name on the wire and in metrics");
        assert!(detail.len() > 20, "{detail}");
    }
}

#[test]
fn errors_of_puts_stay_under_their_tag() {
    let busy = stopped(7, EngineError::Unavailable { what: "index", cause: "x".into(), retry: RETRY });
    assert!(matches!(busy.outcome, Some(v1::put_response::Outcome::Declined(_))), "{busy:?}");
    let bad = stopped(8, EngineError::Invalid { field: "part", value: "9".into(), remedy: "2 parts".into() });
    assert_eq!(bad.tag, 8);
    assert!(matches!(bad.outcome, Some(v1::put_response::Outcome::Rejected(_))), "{bad:?}");
}
