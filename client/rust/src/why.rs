//! Why a request missed: naming requests, reporting what became of them, and asking about them.
//!
//! A request's name is the engine's. Lookups and acquires that carry one are remembered by the daemon, within a bound and
//! until it restarts; so is what the client reports. The name is of the tenant: another tenant's request of the same
//! name is another one.

use crate::call::Call;
use crate::{Client, ClientError, SpaceDigest, Verdict, wire};

const REPORT: Call = Call::reading("report");
const WHY: Call = Call::reading("why");

/// Longest name of a request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 128;
/// Longest detail of an outcome, in bytes.
pub const DETAIL_BYTES_MAX: usize = 512;

/// What a client made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// Whether blocks were loaded.
    pub verdict: Verdict,
    /// How many blocks it is about.
    pub blocks: u32,
    /// Why, for people; cut at 512 bytes.
    pub detail: &'a str,
}

impl Client {
    /// Adds what became of a request.
    pub async fn report(&self, space: SpaceDigest, request: &str, outcome: Outcome<'_>) -> Result<(), ClientError> {
        let request = report_request(space, request, outcome)?;
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        self.answer(REPORT, deadline, wire.report(self.bounded(request, deadline))).await.map(drop)
    }

    /// What the daemon remembers of a tenant's request, oldest first.
    pub async fn why(&self, tenant: &str, request: &str) -> Result<wire::WhyResponse, ClientError> {
        let request = wire::WhyRequest { tenant: tenant.to_owned(), request: name(Some(request))? };
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        self.answer(WHY, deadline, wire.why(self.bounded(request, deadline))).await
    }
}

/// A request's name as it travels; refuses what the daemon would refuse.
pub(crate) fn name(request: Option<&str>) -> Result<String, ClientError> {
    let Some(request) = request else { return Ok(String::new()) };
    if request.is_empty() || request.len() > REQUEST_BYTES_MAX || request.chars().any(char::is_control) {
        let remedy = "a request's name has 1 to 128 bytes and no control characters";
        return Err(ClientError::invalid("request", format!("{} bytes long", request.len()), remedy));
    }
    Ok(request.to_owned())
}

pub(crate) fn report_request(
    space: SpaceDigest,
    request: &str,
    outcome: Outcome<'_>,
) -> Result<wire::ReportRequest, ClientError> {
    if outcome.verdict == Verdict::Unspecified {
        return Err(ClientError::invalid("verdict", "unspecified".to_owned(), "use loaded, declined or failed"));
    }
    let outcome = wire::RequestOutcome {
        verdict: outcome.verdict.into(),
        blocks: outcome.blocks,
        detail: printable(outcome.detail),
    };
    Ok(wire::ReportRequest { space: space.0.to_vec(), request: name(Some(request))?, outcome: Some(outcome) })
}

/// Errors of others are what a detail is made of: cut and cleaned here instead of refused there.
fn printable(detail: &str) -> String {
    let mut text: String = detail.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let end = (0..=text.len().min(DETAIL_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_128_printable_bytes() {
        assert_eq!(name(None), Ok(String::new()));
        assert_eq!(name(Some("chat-17")), Ok("chat-17".to_owned()));
        assert!(name(Some("")).is_err());
        assert!(name(Some(&"x".repeat(129))).is_err());
        assert!(name(Some("a\nb")).is_err());
    }

    #[test]
    fn a_detail_is_cut_between_characters_and_loses_its_line_breaks() {
        assert_eq!(printable("one\ntwo"), "one two");
        let long = printable(&"é".repeat(300));
        assert_eq!((long.len(), long.chars().count()), (512, 256));
        let long = printable(&format!("x{}", "é".repeat(300)));
        assert_eq!(long.len(), 511);
    }
}
