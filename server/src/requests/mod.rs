//! What became of engines' requests: the last lookups that named one, and what the client made of the answer.
//!
//! ```text
//!   Lookup, Acquire {request: "chat-17"} ─► answered ─► note: asked 40, host 12, nvme 20, ended by: evicted 12 s ago
//!   Load, Save {request: "chat-17"} ──────────────────► note: asked 40, GPU pool 8, host 12, nvme 20
//!   Report {request: "chat-17"} ──────────────────────► note: declined, "fetch 90 ms, recompute 60 ms"
//!   Why {tenant, request: "chat-17"} ◄──────────────── both, oldest first
//! ```
//!
//! Only requests that have a name are noted: without one nothing here runs. Each tenant has a ring of its own and is
//! answered from no other. All rings together have a bound in bytes (`limits.request_log_bytes`); when it is reached the
//! largest ring gives up its oldest note, so that a busy tenant forgets its own requests first. Everything is in memory: a
//! restart forgets it, and a client that dies leaves what it has told so far.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use kvtier_engine::flow::EngineError;
use kvtier_engine::flow::acquire::Acquired;
use kvtier_engine::flow::ask::Found;
use kvtier_engine::place::TierKind;
use kvtier_engine::port::Clock;
use kvtier_identity::SpaceDigest;
use kvtier_proto::v1;
use tonic::Status;
use v1::request_note::What;

use crate::service::answer::{self, BadField};
use crate::service::ask;

/// Longest name of a request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 128;
/// Longest detail of a report, in bytes.
pub const DETAIL_BYTES_MAX: usize = 512;
/// What a note takes beside its texts: two vectors, the note, its place in the ring.
const NOTE_BYTES: usize = 384;

/// The notes of all tenants. Shared by both doors.
pub struct RequestLog {
    clock: Arc<dyn Clock>,
    bytes_max: usize,
    rings: Mutex<Rings>,
}

#[derive(Default)]
struct Rings {
    tenants: BTreeMap<String, Ring>,
    bytes: usize,
}

/// One tenant's notes, oldest first.
#[derive(Default)]
struct Ring {
    notes: VecDeque<Filed>,
    bytes: usize,
}

struct Filed {
    request: Box<str>,
    note: v1::RequestNote,
    bytes: usize,
}

impl RequestLog {
    /// An empty log that takes at most `bytes_max` bytes; 0: nothing is noted.
    pub fn new(clock: Arc<dyn Clock>, bytes_max: u64) -> Arc<Self> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Arc::new(Self { clock, bytes_max, rings: Mutex::default() })
    }

    /// Notes what a request was answered, or what its client made of that.
    pub(crate) fn note(&self, tenant: &str, request: &str, what: What) {
        let text = match &what {
            What::Inquiry(inquiry) => {
                let detail = inquiry.miss.as_ref().map_or(0, |miss| miss.detail.len());
                inquiry.failure.len() + inquiry.refusal.len() + detail
            }
            What::Outcome(outcome) => outcome.detail.len(),
        };
        let bytes = NOTE_BYTES + request.len() + text;
        if bytes > self.bytes_max {
            return;
        }
        let note = v1::RequestNote { at_unix_ms: self.clock.unix_ms(), what: Some(what) };
        let mut rings = self.lock();
        if !rings.tenants.contains_key(tenant) {
            rings.tenants.insert(tenant.to_owned(), Ring::default());
        }
        let ring = rings.tenants.get_mut(tenant).expect("it is there now");
        ring.notes.push_back(Filed { request: request.into(), note, bytes });
        ring.bytes += bytes;
        rings.bytes += bytes;
        while rings.bytes > self.bytes_max {
            rings.forget_one();
        }
    }

    /// What is known of a tenant's request, oldest first.
    pub(crate) fn why(&self, tenant: &str, request: &str) -> v1::WhyResponse {
        let rings = self.lock();
        let now_unix_ms = self.clock.unix_ms();
        let Some(ring) = rings.tenants.get(tenant) else {
            return v1::WhyResponse { now_unix_ms, ..v1::WhyResponse::default() };
        };
        let of_request = ring.notes.iter().filter(|filed| is_of(&filed.request, request));
        v1::WhyResponse {
            notes: of_request.map(|filed| filed.note.clone()).collect(),
            oldest_unix_ms: ring.notes.front().map_or(0, |oldest| oldest.note.at_unix_ms),
            now_unix_ms,
        }
    }

    /// Bytes of all notes.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes as u64
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().expect("nobody panics while noting")
    }
}

/// Whether a noted name is what was asked for: itself, or with more behind a dash. vLLM adds eight digits of its own to
/// the id its user has seen.
fn is_of(noted: &str, asked: &str) -> bool {
    noted.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

impl Rings {
    /// The largest ring gives up its oldest note.
    fn forget_one(&mut self) {
        let largest = self.tenants.iter().max_by_key(|(_, ring)| ring.bytes);
        let tenant = largest.expect("bytes belong to a ring").0.clone();
        let ring = self.tenants.get_mut(&tenant).expect("just found");
        let oldest = ring.notes.pop_front().expect("a ring with bytes has notes");
        ring.bytes -= oldest.bytes;
        self.bytes -= oldest.bytes;
        if ring.notes.is_empty() {
            self.tenants.remove(&tenant);
        }
    }
}

/// A request's name as a client gave it; empty: it has none.
pub(crate) fn name_of(request: &str) -> Result<Option<&str>, BadField> {
    if request.len() > REQUEST_BYTES_MAX || request.chars().any(char::is_control) {
        let value = format!("{} bytes long", request.len());
        let remedy = format!("name a request by at most {REQUEST_BYTES_MAX} bytes without control characters");
        return Err(BadField::new("request", value, remedy));
    }
    Ok((!request.is_empty()).then_some(request))
}

/// A client's report: the space, the request's name, and what to note.
pub(crate) fn report_of(report: v1::ReportRequest) -> Result<(SpaceDigest, String, What), BadField> {
    let space = ask::space("space", &report.space)?;
    if name_of(&report.request)?.is_none() {
        return Err(BadField::new("request", "absent", "name the request the report is about"));
    }
    let Some(outcome) = report.outcome else {
        return Err(BadField::new("outcome", "absent", "say what became of the request"));
    };
    if outcome.verdict() == v1::Verdict::Unspecified {
        let remedy = "use VERDICT_LOADED (1), VERDICT_DECLINED (2) or VERDICT_FAILED (3)";
        return Err(BadField::new("outcome.verdict", outcome.verdict, remedy));
    }
    if outcome.detail.len() > DETAIL_BYTES_MAX || outcome.detail.chars().any(char::is_control) {
        let value = format!("{} bytes long", outcome.detail.len());
        let remedy = format!("give at most {DETAIL_BYTES_MAX} bytes without control characters");
        return Err(BadField::new("outcome.detail", value, remedy));
    }
    Ok((space, report.request, What::Outcome(outcome)))
}

/// The note of a lookup over gRPC.
pub(crate) fn looked_up(space: SpaceDigest, asked: usize, found: &Result<Found, EngineError>) -> What {
    let mut inquiry = inquiry("lookup", space, asked);
    match found {
        Ok(found) => {
            let nvme = found.prefix.iter().filter(|block| block.tier == TierKind::Nvme).count();
            inquiry.nvme_blocks = nvme as u32;
            inquiry.host_blocks = (found.prefix.len() - nvme) as u32;
            inquiry.answered_blocks = found.prefix.len() as u32;
            inquiry.miss = found.miss.as_ref().map(answer::miss);
        }
        Err(error) => inquiry.failure = error.to_string(),
    }
    What::Inquiry(inquiry)
}

/// The note of an acquire on the local path.
pub(crate) fn acquired(space: SpaceDigest, asked: usize, acquired: &Result<Acquired, EngineError>) -> What {
    let mut inquiry = inquiry("acquire", space, asked);
    match acquired {
        Ok(acquired) => {
            inquiry.host_blocks = acquired.found_host;
            inquiry.nvme_blocks = acquired.found_nvme;
            inquiry.loading_blocks = acquired.loading;
            inquiry.answered_blocks = acquired.blocks.len() as u32;
            inquiry.miss = acquired.miss.as_ref().map(answer::miss);
        }
        Err(error) => inquiry.failure = error.to_string(),
    }
    What::Inquiry(inquiry)
}

/// The note of a load into a worker's GPU memory; `staged` blocks were on NVMe.
pub(crate) fn loaded(space: SpaceDigest, asked: usize, staged: u32, answer: &Result<v1::LoadResponse, Status>) -> What {
    let mut inquiry = inquiry("load", space, asked);
    match answer {
        Ok(answer) => {
            inquiry.pool_blocks = answer.from_pool;
            inquiry.nvme_blocks = staged;
            inquiry.host_blocks = answer.blocks.saturating_sub(answer.from_pool + staged);
            inquiry.answered_blocks = answer.blocks;
            inquiry.miss = answer.miss.clone();
            inquiry.failure = answer.detail.clone();
        }
        Err(status) => inquiry.failure = status.message().to_owned(),
    }
    What::Inquiry(inquiry)
}

/// The note of a save from a worker's GPU memory.
pub(crate) fn saved(space: SpaceDigest, asked: usize, answer: &Result<v1::SaveResponse, Status>) -> What {
    use v1::CommitOutcome as Outcome;
    let mut inquiry = inquiry("save", space, asked);
    match answer {
        Ok(answer) if !answer.detail.is_empty() => inquiry.failure = answer.detail.clone(),
        Ok(answer) => {
            let count =
                |wanted: &[Outcome]| answer.outcomes().filter(|outcome| wanted.contains(outcome)).count() as u32;
            inquiry.existing_blocks = count(&[Outcome::Duplicate]);
            inquiry.answered_blocks = match answer.outcomes.is_empty() {
                true => inquiry.asked_blocks,
                false => count(&[Outcome::Stored, Outcome::PartAccepted]),
            };
            if let Some(first) = answer.refusals.first() {
                inquiry.refusal = format!("block {}: {}", first.index + 1, first.detail);
            }
        }
        Err(status) => inquiry.failure = status.message().to_owned(),
    }
    What::Inquiry(inquiry)
}

fn inquiry(call: &str, space: SpaceDigest, asked: usize) -> v1::Inquiry {
    let asked_blocks = u32::try_from(asked).unwrap_or(u32::MAX);
    v1::Inquiry { call: call.to_owned(), space: space.0.to_vec(), asked_blocks, ..v1::Inquiry::default() }
}

#[cfg(test)]
mod tests;
