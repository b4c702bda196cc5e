//! What a replay prints.

use std::time::Duration;

use serde::Serialize;

use super::tally::Tally;
use super::worker::Workbench;
use crate::amount::{percent, show_count, show_percent, show_size, show_time};
use crate::failure::Failure;
use crate::latency::Latency;
use crate::rate::Rate;
use crate::table::{Column, bar, draw};

/// What was replayed, and how.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    pub(super) trace: String,
    pub(super) source: String,
    pub(super) endpoint: String,
    pub(super) daemon_version: String,
    pub(super) tokens_per_block: u32,
    pub(super) block_bytes: u64,
    pub(super) concurrency: u32,
    pub(super) durable: bool,
    pub(super) ideal_hit_blocks: u64,
}

/// The result of a replay; its field names are the `--json` output, documented in `docs/operating/cli.md`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    setting: Setting,
    seconds: f64,
    requests: u64,
    blocks: u64,
    hit_blocks: u64,
    hit_percent: Option<f64>,
    ideal_hit_percent: Option<f64>,
    tiers: Vec<TierHits>,
    operations: Vec<Operation>,
    whole_chains: u64,
    stops: Vec<Stop>,
    lost_blocks: Vec<Count>,
    puts_stored: u64,
    puts_duplicate: u64,
    puts_declined: Vec<Count>,
    puts_rejected: u64,
    rejection: Option<String>,
    retries: u64,
    verified_blocks: u64,
    verified_bytes: u64,
    verification_errors: u64,
}

#[derive(Debug, Serialize)]
struct TierHits {
    tier: String,
    blocks: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Operation {
    operation: &'static str,
    calls: u64,
    bytes: Option<u64>,
    bytes_per_second: Option<f64>,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
    #[serde(skip)]
    latency: Latency,
}

#[derive(Debug, Serialize)]
struct Stop {
    reason: String,
    requests: u64,
    blocks: u64,
}

#[derive(Debug, Serialize)]
struct Count {
    reason: String,
    blocks: u64,
}

impl Report {
    pub(super) fn new(setting: Setting, tally: Tally, bench: &Workbench, time: Duration) -> Self {
        let counts = |counts: std::collections::BTreeMap<String, u64>| {
            counts.into_iter().map(|(reason, blocks)| Count { reason, blocks }).collect::<Vec<_>>()
        };
        let mut stops: Vec<Stop> =
            tally.stops.into_iter().map(|(reason, (requests, blocks))| Stop { reason, requests, blocks }).collect();
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.requests));
        let mut tiers: Vec<TierHits> =
            tally.tiers.into_iter().map(|(tier, (blocks, bytes))| TierHits { tier, blocks, bytes }).collect();
        tiers.sort_by_key(|tier| ["hbm", "host", "nvme", "archive"].iter().position(|name| *name == tier.tier));
        Self {
            seconds: time.as_secs_f64(),
            requests: tally.requests,
            blocks: tally.blocks,
            hit_blocks: tally.hit_blocks,
            hit_percent: percent(tally.hit_blocks, tally.blocks),
            ideal_hit_percent: percent(setting.ideal_hit_blocks, tally.blocks),
            tiers,
            operations: vec![
                Operation::new("lookup", tally.lookup, None),
                Operation::new("get, first block", tally.get_first, None),
                Operation::new("get, whole prefix", tally.get, Some(&bench.get_rate)),
                Operation::new("put, all that missed", tally.put, Some(&bench.put_rate)),
            ],
            whole_chains: tally.whole_chains,
            stops,
            lost_blocks: counts(tally.lost),
            puts_stored: tally.puts.stored,
            puts_duplicate: tally.puts.duplicate,
            puts_declined: counts(tally.puts.declined),
            puts_rejected: tally.puts.rejected,
            rejection: tally.puts.rejection,
            retries: tally.retries,
            verified_blocks: tally.verified_blocks,
            verified_bytes: tally.verified_bytes,
            verification_errors: tally.verification_errors,
            setting,
        }
    }

    /// Whether the replay counts as passed.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        if self.verification_errors > 0 {
            let what = format!("{} blocks came back with wrong bytes", self.verification_errors);
            return Err(Failure::Unverified { what });
        }
        if self.puts_rejected > 0 {
            let what = format!("the daemon rejected {} puts as bad input", self.puts_rejected);
            return Err(Failure::usage(what, self.rejection.clone().unwrap_or_default()));
        }
        Ok(())
    }
}

impl Operation {
    fn new(operation: &'static str, latency: Latency, rate: Option<&Rate>) -> Self {
        Self {
            operation,
            calls: latency.count(),
            bytes: rate.map(Rate::bytes),
            bytes_per_second: rate.and_then(Rate::bytes_per_second),
            p50_us: latency.percentile_us(50.0),
            p90_us: latency.percentile_us(90.0),
            p99_us: latency.percentile_us(99.0),
            max_us: latency.max_us(),
            latency,
        }
    }

    fn row(&self) -> Vec<String> {
        let gigabytes = self.bytes_per_second.filter(|_| self.calls > 0).map(|rate| format!("{:.2}", rate / 1e9));
        vec![
            self.operation.to_owned(),
            show_count(self.calls),
            self.bytes.map_or_else(|| "-".to_owned(), show_size),
            gigabytes.unwrap_or_else(|| "-".to_owned()),
            self.latency.show(50.0),
            self.latency.show(90.0),
            self.latency.show(99.0),
            self.latency.show(100.0),
        ]
    }
}

/// The tables for people.
pub(super) fn describe(report: &Report) -> String {
    let mut parts = vec![headline(report), hits(report)];
    if !report.tiers.is_empty() {
        parts.push(tiers(report));
    }
    parts.extend(["How fast".to_owned(), operations(report), "Where chains ended".to_owned(), stops(report)]);
    parts.push(outcomes(report));
    parts.push(verification(report));
    parts.join("\n")
}

fn headline(report: &Report) -> String {
    let setting = &report.setting;
    let per_second = report.requests as f64 / report.seconds.max(1e-9);
    let durable = if setting.durable { ", puts durable" } else { "" };
    format!(
        "{} requests of {} in {} ({per_second:.1}/s), {} at a time{durable}\n\
         {} blocks of {} ({} tokens each), through kvtierd {} at {}\n",
        show_count(report.requests),
        setting.trace,
        show_time(Duration::from_secs_f64(report.seconds)),
        setting.concurrency,
        show_count(report.blocks),
        show_size(setting.block_bytes),
        setting.tokens_per_block,
        setting.daemon_version,
        setting.endpoint
    )
}

fn hits(report: &Report) -> String {
    format!(
        "Hits: {} of {} blocks were there, {} (starting empty, a cache that never forgets gets {})",
        show_count(report.hit_blocks),
        show_count(report.blocks),
        show_percent(report.hit_blocks, report.blocks),
        show_percent(report.setting.ideal_hit_blocks, report.blocks)
    )
}

fn tiers(report: &Report) -> String {
    let columns = [
        Column::Text("hits from"),
        Column::Number("blocks"),
        Column::Number("bytes"),
        Column::Number("share"),
        Column::Text(""),
    ];
    let total: u64 = report.tiers.iter().map(|tier| tier.blocks).sum();
    let rows = report.tiers.iter().map(|tier| {
        vec![
            tier.tier.clone(),
            show_count(tier.blocks),
            show_size(tier.bytes),
            show_percent(tier.blocks, total),
            format!("{:<40}", bar(tier.blocks, total, 40)),
        ]
    });
    draw(&columns, rows)
}

fn operations(report: &Report) -> String {
    let columns = [
        Column::Text("operation"),
        Column::Number("calls"),
        Column::Number("bytes"),
        Column::Number("GB/s"),
        Column::Number("p50"),
        Column::Number("p90"),
        Column::Number("p99"),
        Column::Number("max"),
    ];
    draw(&columns, report.operations.iter().map(Operation::row))
}

fn stops(report: &Report) -> String {
    let columns = [
        Column::Text("because the next block was"),
        Column::Number("requests"),
        Column::Number("share"),
        Column::Number("blocks not reached"),
    ];
    let row = |reason: &str, requests: u64, blocks: u64| {
        vec![
            reason.replace('_', " "),
            show_count(requests),
            show_percent(requests, report.requests),
            show_count(blocks),
        ]
    };
    let whole = row("there too: whole chain hit", report.whole_chains, 0);
    let stopped = report.stops.iter().map(|stop| row(&stop.reason, stop.requests, stop.blocks));
    draw(&columns, stopped.chain([whole]))
}

fn outcomes(report: &Report) -> String {
    let mut line =
        format!("Puts: {} stored, {} there already", show_count(report.puts_stored), show_count(report.puts_duplicate));
    for declined in &report.puts_declined {
        line += &format!(", {} declined ({})", show_count(declined.blocks), declined.reason.replace('_', " "));
    }
    if report.puts_rejected > 0 {
        line += &format!(", {} REJECTED", show_count(report.puts_rejected));
    }
    for lost in &report.lost_blocks {
        let blocks = show_count(lost.blocks);
        line += &format!("\nLost between lookup and get: {blocks} blocks ({})", lost.reason.replace('_', " "));
    }
    if report.retries > 0 {
        line += &format!("\nRetried: {} times, because the daemon was away or busy", show_count(report.retries));
    }
    line
}

fn verification(report: &Report) -> String {
    let (blocks, bytes) = (show_count(report.verified_blocks), show_size(report.verified_bytes));
    match report.verification_errors {
        0 => format!("Verified: every byte of {blocks} blocks ({bytes}) is what was put ✔"),
        wrong => {
            format!("VERIFICATION FAILED: {} blocks with wrong bytes, {blocks} with right ones", show_count(wrong))
        }
    }
}

#[cfg(test)]
mod tests;
