//! `kvtier why`: what the node remembers of a request, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvtier_client::{MissReason, SpaceDigest, Verdict, wire, word};
use serde_json::{Value, json};
use wire::request_note::What;

use super::lookup::{explain_miss, miss_json};
use crate::amount::{show_count, show_counted, show_time};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;

/// Arguments of `kvtier why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    /// The request, as the engine names it (vLLM: the id in its log and in the answer's `id`)
    request: String,
    /// Ask about this tenant's requests only; without it about every tenant's that has a space
    #[arg(long, short)]
    tenant: Option<String>,
}

/// What one tenant's notes say.
struct Answer {
    tenant: String,
    notes: wire::WhyResponse,
}

/// Names of spaces by digest.
type Names = BTreeMap<Vec<u8>, String>;

impl Why {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let spaces = client.spaces().await?;
        let names: Names = spaces.iter().map(|space| (space.space.0.to_vec(), space.name.clone())).collect();
        let tenants: BTreeSet<String> = match &self.tenant {
            Some(tenant) => [tenant.clone()].into(),
            None => spaces.into_iter().map(|space| space.description.tenant).collect(),
        };
        let (mut answers, mut oldest) = (Vec::new(), None);
        for tenant in tenants {
            let notes = client.why(&tenant, &self.request).await?;
            if notes.oldest_unix_ms > 0 {
                let age = age_of(notes.oldest_unix_ms, notes.now_unix_ms);
                oldest = oldest.max(Some(age));
            }
            if !notes.notes.is_empty() {
                answers.push(Answer { tenant, notes });
            }
        }
        if answers.is_empty() {
            return Err(unknown(&self.request, oldest));
        }
        if global.json {
            let tenants: Vec<Value> = answers.iter().map(|answer| as_json(&self.request, answer, &names)).collect();
            return output::json(&tenants);
        }
        let texts: Vec<String> = answers.iter().map(|answer| describe(&self.request, answer, &names)).collect();
        output::line(texts.join("\n\n"))
    }
}

fn unknown(request: &str, oldest: Option<Duration>) -> Failure {
    let remembered = match oldest {
        Some(age) => format!("it remembers the last {} (limits.request_log_bytes)", show_time(age)),
        None => "no request was named since it started: the engine has to pass its request's name".to_owned(),
    };
    Failure::missing(format!("the node knows nothing of request {request:?}: {remembered}"), "check the name")
}

fn age_of(at_unix_ms: u64, now_unix_ms: u64) -> Duration {
    Duration::from_millis(now_unix_ms.saturating_sub(at_unix_ms))
}

fn describe(request: &str, answer: &Answer, names: &Names) -> String {
    let mut lines = vec![format!("request {request} of tenant {}", answer.tenant)];
    let mut advice = None;
    for note in &answer.notes.notes {
        let ago = show_time(age_of(note.at_unix_ms, answer.notes.now_unix_ms));
        match &note.what {
            Some(What::Inquiry(inquiry)) => {
                lines.push(format!("  {ago} ago: {}", describe_inquiry(inquiry, names)));
                advice = advice_on_inquiry(inquiry).or(advice);
            }
            Some(What::Outcome(outcome)) => {
                lines.push(format!("  {ago} ago: {}", describe_outcome(outcome)));
                advice = advice_on_outcome(outcome).or(advice);
            }
            None => {}
        }
    }
    if let Some(advice) = advice {
        lines.push(format!("what to do: {advice}"));
    }
    lines.join("\n")
}

fn describe_inquiry(inquiry: &wire::Inquiry, names: &Names) -> String {
    let space = match names.get(&inquiry.space) {
        Some(name) => name.clone(),
        None => match <[u8; 32]>::try_from(&inquiry.space[..]) {
            Ok(digest) => format!("{} (dropped since)", SpaceDigest(digest)),
            Err(_) => "an unknown space".to_owned(),
        },
    };
    let asked = show_counted(u64::from(inquiry.asked_blocks), "block");
    let asked = format!("{} of {asked} in space {space}", inquiry.call);
    if !inquiry.failure.is_empty() {
        return format!("{asked} failed: {}", inquiry.failure);
    }
    if inquiry.call == "save" {
        return format!("{asked}: {}", describe_save(inquiry));
    }
    let found = inquiry.pool_blocks + inquiry.host_blocks + inquiry.nvme_blocks;
    let tiers =
        [("GPU memory", inquiry.pool_blocks), ("host memory", inquiry.host_blocks), ("nvme", inquiry.nvme_blocks)];
    let tiers = tiers.iter().filter(|(_, blocks)| *blocks > 0);
    let tiers: Vec<String> =
        tiers.map(|(tier, blocks)| format!("{} in {tier}", show_count((*blocks).into()))).collect();
    let mut text = match found {
        0 => format!("{asked}: nothing was there"),
        _ => format!("{asked}: {} there ({})", show_count(found.into()), tiers.join(", ")),
    };
    if inquiry.loading_blocks > 0 {
        text.push_str(&format!(", {} still loading", show_count(inquiry.loading_blocks.into())));
    } else if inquiry.answered_blocks < found {
        text.push_str(&format!(", {} handed out", show_count(inquiry.answered_blocks.into())));
    }
    let end = if inquiry.loading_blocks > 0 { found } else { inquiry.answered_blocks };
    let end = show_count(u64::from(end) + 1);
    match &inquiry.miss {
        Some(miss) => text.push_str(&format!("; block {end} ended it: {}", explain_miss(miss))),
        None => text.push_str("; nothing was missing"),
    }
    text
}

fn describe_save(inquiry: &wire::Inquiry) -> String {
    let mut text = format!("{} stored", show_count(inquiry.answered_blocks.into()));
    if inquiry.existing_blocks > 0 {
        text.push_str(&format!(", {} were there", show_count(inquiry.existing_blocks.into())));
    }
    if !inquiry.refusal.is_empty() {
        text.push_str(&format!("; not stored: {}", inquiry.refusal));
    }
    text
}

fn describe_outcome(outcome: &wire::RequestOutcome) -> String {
    let blocks = show_counted(outcome.blocks.into(), "block");
    let detail = if outcome.detail.is_empty() { String::new() } else { format!(": {}", outcome.detail) };
    match outcome.verdict() {
        Verdict::Loaded => format!("the engine loaded {blocks}{detail}"),
        Verdict::Declined => format!("the engine declined {blocks}{detail}"),
        Verdict::Failed => format!("the engine could not load {blocks} and recomputed{detail}"),
        Verdict::Unspecified => format!("the engine told of {blocks}{detail}"),
    }
}

fn advice_on_inquiry(inquiry: &wire::Inquiry) -> Option<&'static str> {
    if !inquiry.failure.is_empty() {
        return Some("see the alarms in `kvtier status`; the engine recomputes meanwhile");
    }
    let reason = inquiry.miss.as_ref()?.reason();
    Some(match reason {
        MissReason::NeverStored if inquiry.answered_blocks > 0 || inquiry.host_blocks + inquiry.nvme_blocks > 0 => {
            "nothing: the prompt differs from what was stored from that block on"
        }
        MissReason::NeverStored => {
            "nothing, if the prompt is new. Else compare the engines' spaces (`kvtier spaces list`): they share blocks only \
             if every field is equal, and it may have been stored longer ago than limits.history_count remembers"
        }
        MissReason::Evicted => {
            "the tier is too small for what is asked for again: see `kvtier status`, raise its bytes"
        }
        MissReason::Corrupt => "check the disk (its kernel log, SMART); `kvtier scrub` verifies everything else on it",
        MissReason::Declined => "see the detail: the put was refused then, so the block was not kept",
        MissReason::TierDown => "see the alarms in `kvtier status`: a device does not answer",
        MissReason::Deleted => "nothing: somebody deleted the block or dropped its space",
        MissReason::Throttled => "host memory was full of leased blocks: raise host.bytes, or shorten leases",
        MissReason::Incomplete => "a rank has not stored its part: see that rank's log",
        MissReason::Restarted => "the block was only in memory when the daemon stopped: put it as durable",
        MissReason::Unspecified => return None,
    })
}

fn advice_on_outcome(outcome: &wire::RequestOutcome) -> Option<&'static str> {
    match outcome.verdict() {
        Verdict::Declined => Some("nothing, if recomputing was faster; the detail has the figures it was decided on"),
        Verdict::Failed => {
            Some("see the detail and the engine's log; the request was recomputed and its answer is right")
        }
        Verdict::Loaded | Verdict::Unspecified => None,
    }
}

fn as_json(request: &str, answer: &Answer, names: &Names) -> Value {
    let notes = answer.notes.notes.iter().map(|note| match &note.what {
        Some(What::Inquiry(inquiry)) => json!({
            "at_unix_ms": note.at_unix_ms,
            "call": inquiry.call,
            "space": names.get(&inquiry.space),
            "asked_blocks": inquiry.asked_blocks,
            "host_blocks": inquiry.host_blocks,
            "nvme_blocks": inquiry.nvme_blocks,
            "pool_blocks": inquiry.pool_blocks,
            "loading_blocks": inquiry.loading_blocks,
            "answered_blocks": inquiry.answered_blocks,
            "miss": inquiry.miss.as_ref().map(miss_json),
            "existing_blocks": inquiry.existing_blocks,
            "refusal": (!inquiry.refusal.is_empty()).then_some(&inquiry.refusal),
            "failure": (!inquiry.failure.is_empty()).then_some(&inquiry.failure),
        }),
        Some(What::Outcome(outcome)) => json!({
            "at_unix_ms": note.at_unix_ms,
            "verdict": word::verdict(outcome.verdict),
            "blocks": outcome.blocks,
            "detail": outcome.detail,
        }),
        None => json!({ "at_unix_ms": note.at_unix_ms }),
    });
    json!({ "request": request, "tenant": answer.tenant, "notes": notes.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(at_unix_ms: u64, what: What) -> wire::RequestNote {
        wire::RequestNote { at_unix_ms, what: Some(what) }
    }

    fn told() -> (Answer, Names) {
        let miss = wire::Miss {
            reason: MissReason::Evicted as i32,
            detail: "evicted from nvme 12 s ago for room of another block".into(),
            ..Default::default()
        };
        let inquiry = wire::Inquiry {
            call: "acquire".into(),
            space: vec![7; 32],
            asked_blocks: 40,
            host_blocks: 12,
            nvme_blocks: 20,
            answered_blocks: 32,
            miss: Some(miss),
            ..Default::default()
        };
        let detail = "fetch 90 ms, recompute 60 ms".to_owned();
        let outcome = wire::RequestOutcome { verdict: Verdict::Declined.into(), blocks: 32, detail };
        let notes = vec![note(1_000, What::Inquiry(inquiry)), note(1_200, What::Outcome(outcome))];
        let notes = wire::WhyResponse { notes, oldest_unix_ms: 1_000, now_unix_ms: 13_000 };
        (Answer { tenant: "acme".into(), notes }, [(vec![7; 32], "qwen".to_owned())].into())
    }

    #[test]
    fn a_story_is_told_in_order_and_ends_with_what_to_do() {
        let (answer, names) = told();
        let expected = "\
request cmpl-1 of tenant acme
  12.0 s ago: acquire of 40 blocks in space qwen: 32 there (12 in host memory, 20 in nvme); block 33 ended it: evicted from nvme 12 s ago for room of another block
  11.8 s ago: the engine declined 32 blocks: fetch 90 ms, recompute 60 ms
what to do: nothing, if recomputing was faster; the detail has the figures it was decided on";
        assert_eq!(describe("cmpl-1", &answer, &names), expected);
    }

    #[test]
    fn loads_and_saves_of_gpu_memory_are_told() {
        let call =
            |call: &str| wire::Inquiry { call: call.into(), space: vec![7; 32], asked_blocks: 8, ..Default::default() };
        let names = told().1;
        let load = wire::Inquiry { pool_blocks: 1, host_blocks: 2, nvme_blocks: 3, answered_blocks: 6, ..call("load") };
        let expected = "load of 8 blocks in space qwen: 6 there (1 in GPU memory, 2 in host memory, 3 in nvme); nothing was missing";
        assert_eq!(describe_inquiry(&load, &names), expected);
        let refusal = "block 8: the host tier is full".to_owned();
        let save = wire::Inquiry { answered_blocks: 6, existing_blocks: 1, refusal, ..call("save") };
        let expected =
            "save of 8 blocks in space qwen: 6 stored, 1 were there; not stored: block 8: the host tier is full";
        assert_eq!(describe_inquiry(&save, &names), expected);
    }

    #[test]
    fn programs_get_the_reason_as_a_word() {
        let (answer, names) = told();
        let json = as_json("cmpl-1", &answer, &names);
        assert_eq!(json["notes"][0]["miss"]["reason"], "evicted");
        assert_eq!((&json["notes"][0]["space"], &json["notes"][1]["verdict"]), (&json!("qwen"), &json!("declined")));
    }

    #[test]
    fn every_reason_has_advice() {
        for reason in 1..=9 {
            let miss = Some(wire::Miss { reason, ..Default::default() });
            let inquiry = wire::Inquiry { miss, ..Default::default() };
            assert!(advice_on_inquiry(&inquiry).is_some(), "{reason}");
        }
    }
}
