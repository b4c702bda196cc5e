//! What a bench prints.

use serde_json::{Value, json};

use super::{Duration, Work};
use crate::amount::{show_count, show_size};
use crate::failure::Failure;
use crate::table::{Column, draw};

/// The result of one phase.
#[derive(Debug)]
pub(super) struct Phase {
    operation: &'static str,
    work: Work,
    time: Duration,
}

impl Phase {
    pub(super) fn new(operation: &'static str, work: Work, time: Duration) -> Self {
        Self { operation, work, time }
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// The table for people.
pub(super) fn describe(phases: &[Phase]) -> String {
    let columns = [
        Column::Text("operation"),
        Column::Number("calls"),
        Column::Number("calls/s"),
        Column::Number("blocks/s"),
        Column::Number("bytes"),
        Column::Number("GB/s"),
        Column::Number("p50"),
        Column::Number("p99"),
        Column::Number("p99.9"),
        Column::Number("max"),
        Column::Number("missed"),
        Column::Number("refused"),
        Column::Number("wrong"),
    ];
    draw(&columns, phases.iter().map(row))
}

fn row(phase: &Phase) -> Vec<String> {
    let (work, latency) = (&phase.work, &phase.work.latency);
    let gigabytes = (work.bytes > 0).then(|| format!("{:.2}", phase.per_second(work.bytes) / 1e9));
    vec![
        phase.operation.to_owned(),
        show_count(latency.count()),
        show_count(phase.per_second(latency.count()) as u64),
        show_count(phase.per_second(work.blocks) as u64),
        if work.bytes > 0 { show_size(work.bytes) } else { "-".to_owned() },
        gigabytes.unwrap_or_else(|| "-".to_owned()),
        latency.show(50.0),
        latency.show(99.0),
        latency.show(99.9),
        latency.show(100.0),
        show_count(work.missed),
        show_count(work.declined),
        show_count(work.wrong),
    ]
}

/// The same for programs.
pub(super) fn as_json(phases: &[Phase]) -> Value {
    let phases = phases.iter().map(|phase| {
        let (work, latency) = (&phase.work, &phase.work.latency);
        json!({
            "operation": phase.operation,
            "seconds": phase.time.as_secs_f64(),
            "calls": latency.count(),
            "blocks": work.blocks,
            "bytes": work.bytes,
            "bytes_per_second": phase.per_second(work.bytes),
            "p50_us": latency.percentile_us(50.0),
            "p99_us": latency.percentile_us(99.0),
            "p999_us": latency.percentile_us(99.9),
            "max_us": latency.max_us(),
            "missed_blocks": work.missed,
            "refused_blocks": work.declined,
            "verification_errors": work.wrong,
        })
    });
    json!({ "operations": phases.collect::<Vec<_>>() })
}

/// Whether the bench counts as passed: a miss is no failure, a wrong byte is.
pub(super) fn verdict(phases: &[Phase]) -> Result<(), Failure> {
    let wrong: u64 = phases.iter().map(|phase| phase.work.wrong).sum();
    if wrong > 0 {
        return Err(Failure::Unverified { what: format!("{wrong} blocks came back with wrong bytes") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(operation: &'static str, bytes: u64, wrong: u64) -> Phase {
        let mut work = Work { blocks: 32, bytes, wrong, ..Default::default() };
        work.latency.record(Duration::from_millis(3));
        work.latency.record(Duration::from_millis(5));
        Phase::new(operation, work, Duration::from_millis(100))
    }

    #[test]
    fn a_bench_is_one_table() {
        let expected = "\
╭───────────┬───────┬─────────┬──────────┬────────┬──────┬────────┬────────┬────────┬────────┬────────┬─────────┬───────╮
│ operation ┆ calls ┆ calls/s ┆ blocks/s ┆  bytes ┆ GB/s ┆    p50 ┆    p99 ┆  p99.9 ┆    max ┆ missed ┆ refused ┆ wrong │
╞═══════════╪═══════╪═════════╪══════════╪════════╪══════╪════════╪════════╪════════╪════════╪════════╪═════════╪═══════╡
│ put       ┆     2 ┆      20 ┆      320 ┆ 32 MiB ┆ 0.34 ┆ 3.0 ms ┆ 5.0 ms ┆ 5.0 ms ┆ 5.0 ms ┆      0 ┆       0 ┆     0 │
│ lookup    ┆     2 ┆      20 ┆      320 ┆      - ┆    - ┆ 3.0 ms ┆ 5.0 ms ┆ 5.0 ms ┆ 5.0 ms ┆      0 ┆       0 ┆     0 │
╰───────────┴───────┴─────────┴──────────┴────────┴──────┴────────┴────────┴────────┴────────┴────────┴─────────┴───────╯";
        let shown = describe(&[phase("put", 32 << 20, 0), phase("lookup", 0, 0)]);
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn one_wrong_block_fails_the_bench() {
        assert_eq!(verdict(&[phase("get", 1, 1)]).expect_err("failed").exit_code(), 4);
        verdict(&[phase("get", 1, 0)]).expect("passed");
    }
}
