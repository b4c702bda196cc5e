//! What came out of a run, with everything it means nothing without.
//!
//! One struct, three ways to write it: [`table`] for people, JSON for programs, [`page`] for browsers. A result is about one
//! target. Two of them are not a comparison, because the machine was another one an hour ago: [`refuse_comparison`].

pub mod page;
pub mod plot;
pub mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::job::keys;
use crate::report::Facts;
use crate::run::Outcome;
use crate::run::steady::{self, Steadiness};
use crate::run::tally::{Count, Tally, WINDOW, Window};

/// Percentiles of every distribution.
pub const PERCENTILES: [f64; 7] = [50.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99];
/// Samples that must lie beyond a percentile for it to be printed.
pub const BEYOND_MIN: f64 = 10.0;
/// Windows of a plot.
const PLOTTED_MAX: usize = 600;
/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct RunResult {
    /// Version of this form.
    pub format: u32,
    /// Always false: a run measures one target, and only a contest takes turns.
    pub is_comparison: bool,
    /// Machine, date and command.
    pub facts: Facts,
    /// Version of the harness.
    pub harness: String,
    /// What was measured.
    pub target: TargetFacts,
    /// The two figures to quote.
    pub headlines: Vec<Headline>,
    /// Each job.
    pub jobs: Vec<JobResult>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct TargetFacts {
    /// Its name.
    pub name: String,
    /// What it promises.
    pub guarantees: String,
    /// Versions and settings.
    pub facts: Vec<(String, String)>,
    /// What its own counters rose by, from before the layout to the end.
    pub counters: BTreeMap<String, i128>,
}

/// A figure to quote.
#[derive(Debug, Clone, Serialize)]
pub struct Headline {
    /// What it is.
    pub name: String,
    /// The figure; none: nothing was measured that it could be taken from.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
}

/// A job.
#[derive(Debug, Clone, Serialize)]
pub struct JobResult {
    /// Its name.
    pub name: String,
    /// Every setting, as a job file has it.
    pub settings: BTreeMap<String, String>,
    /// Whether requests came when due, or when the one before was answered: then waiting is not in the latencies.
    pub is_open_loop: bool,
    /// Whether every byte of a get was compared with what was put.
    pub is_verified: bool,
    /// Bytes of its working set.
    pub working_set_bytes: u64,
    /// Measured seconds.
    pub seconds: f64,
    /// Whether it was steady.
    pub steadiness: Steadiness,
    /// Gets.
    pub read: Option<KindResult>,
    /// Puts.
    pub write: Option<KindResult>,
    /// Lookups.
    pub lookup: Option<KindResult>,
    /// Why blocks were missing, and how many.
    pub misses: BTreeMap<String, u64>,
    /// Seconds of a window below.
    pub window_seconds: f64,
    /// Throughput over time.
    pub windows: Vec<WindowResult>,
}

/// One kind of request of a job.
#[derive(Debug, Clone, Serialize)]
pub struct KindResult {
    /// Requests.
    pub requests: u64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// 10^9 bytes a second.
    pub gb_per_second: f64,
    /// Blocks asked for.
    pub asked_blocks: u64,
    /// Blocks got, stored or found.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Puts of what was there.
    pub duplicate_blocks: u64,
    /// Puts refused.
    pub declined_blocks: u64,
    /// Requests that were due and could not begin before the end.
    pub expired: u64,
    /// From when a request was due (open loop) or begun (closed).
    pub latency: Distribution,
    /// From when it was begun.
    pub service: Distribution,
}

/// A distribution of times.
#[derive(Debug, Clone, Serialize)]
pub struct Distribution {
    /// Samples.
    pub count: u64,
    /// Microseconds.
    pub min_us: f64,
    /// Mean.
    pub mean_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// `p99` and so on; none where fewer than [`BEYOND_MIN`] samples lie beyond.
    pub percentiles_us: BTreeMap<String, Option<f64>>,
    /// Points of the curve for plots: share of samples beyond, microseconds.
    pub curve: Vec<(f64, f64)>,
}

/// A window of a plot.
#[derive(Debug, Clone, Serialize)]
pub struct WindowResult {
    /// Bytes got.
    pub read_bytes: u64,
    /// Bytes stored.
    pub write_bytes: u64,
    /// Requests.
    pub requests: u64,
    /// The slowest.
    pub worst_us: f64,
}

impl RunResult {
    /// Puts a run's outcomes together.
    pub fn of(facts: Facts, target: TargetFacts, outcomes: &[Outcome]) -> Self {
        let jobs: Vec<JobResult> = outcomes.iter().map(JobResult::of).collect();
        let headlines = headlines(outcomes);
        let harness = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, is_comparison: false, facts, harness, target, headlines, jobs }
    }
}

/// Two figures: how much came back and was right, and how long a chain takes.
fn headlines(outcomes: &[Outcome]) -> Vec<Headline> {
    let rate = |outcome: &Outcome| outcome.tally.read.bytes as f64 / outcome.measured.as_secs_f64().max(1e-9) / 1e9;
    let reading: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.tally.read.requests > 0).collect();
    let read: f64 = reading.iter().map(|outcome| rate(outcome)).sum();
    let mut all = Count::default().latency;
    for outcome in &reading {
        all.add(&outcome.tally.read.latency).expect("all have the same bounds");
    }
    let verified = reading.iter().all(|outcome| outcome.job.verify);
    let name = if verified { "bytes got and compared, every one" } else { "bytes got and summed, not compared" };
    let p99 = percentile(&all, 99.0).map(|us| us / 1e3);
    vec![
        Headline { name: name.into(), value: (!reading.is_empty()).then_some(read), unit: "GB/s" },
        Headline { name: "time to a whole chain, p99".into(), value: p99, unit: "ms" },
    ]
}

impl JobResult {
    fn of(outcome: &Outcome) -> Self {
        let Outcome { job, tally, measured, working_set_bytes } = outcome;
        let Tally { read, write, lookup, windows, misses } = tally;
        let mut settings: BTreeMap<String, String> =
            keys::settings(job).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if job.model.is_some() {
            settings.insert("bs (of the model)".into(), job.sizes.show());
        }
        let (windows, window_seconds) = plotted(windows);
        Self {
            name: job.name.clone(),
            settings,
            is_open_loop: job.is_open_loop(),
            is_verified: job.verify,
            working_set_bytes: *working_set_bytes,
            seconds: measured.as_secs_f64(),
            steadiness: steady::judge(&tally.windows),
            read: KindResult::of(read, *measured),
            write: KindResult::of(write, *measured),
            lookup: KindResult::of(lookup, *measured),
            misses: misses.clone(),
            window_seconds,
            windows,
        }
    }

    /// Kinds that happened, with their names.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &KindResult)> {
        let kinds = [("get", &self.read), ("put", &self.write), ("lookup", &self.lookup)];
        kinds.into_iter().filter_map(|(name, kind)| Some((name, kind.as_ref()?)))
    }
}

impl KindResult {
    fn of(count: &Count, measured: Duration) -> Option<Self> {
        if count.requests + count.expired == 0 {
            return None;
        }
        let seconds = measured.as_secs_f64().max(1e-9);
        Some(Self {
            requests: count.requests,
            requests_per_second: count.requests as f64 / seconds,
            gb_per_second: count.bytes as f64 / seconds / 1e9,
            asked_blocks: count.asked_blocks,
            blocks: count.blocks,
            bytes: count.bytes,
            duplicate_blocks: count.duplicate_blocks,
            declined_blocks: count.declined_blocks,
            expired: count.expired,
            latency: Distribution::of(&count.latency),
            service: Distribution::of(&count.service),
        })
    }
}

impl Distribution {
    fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let percentiles = PERCENTILES.into_iter().map(|at| (format!("p{at}"), percentile(histogram, at)));
        let quantiles = (0..=60).map(|step| 10_f64.powf(-f64::from(step) / 12.0));
        // As far as there are samples.
        let known = quantiles.take_while(|beyond| beyond * histogram.len() as f64 >= 1.0);
        let curve = known.map(|beyond| (beyond, us(histogram.value_at_quantile(1.0 - beyond)))).collect();
        Self {
            count: histogram.len(),
            min_us: us(if histogram.is_empty() { 0 } else { histogram.min() }),
            mean_us: histogram.mean() / 1e3,
            max_us: us(histogram.max()),
            percentiles_us: percentiles.collect(),
            curve,
        }
    }

    /// One of [`PERCENTILES`].
    pub fn percentile(&self, at: f64) -> Option<f64> {
        *self.percentiles_us.get(&format!("p{at}"))?
    }
}

/// Microseconds; none if too few samples lie beyond.
fn percentile(histogram: &Histogram<u64>, at: f64) -> Option<f64> {
    let beyond = histogram.len() as f64 * (100.0 - at) / 100.0;
    // Rounding must not take a percentile away that has exactly enough.
    (beyond + 1e-6 >= BEYOND_MIN).then(|| histogram.value_at_percentile(at) as f64 / 1e3)
}

/// At most so many windows as a plot can show.
fn plotted(windows: &[Window]) -> (Vec<WindowResult>, f64) {
    let each = windows.len().div_ceil(PLOTTED_MAX).max(1);
    let sum = |part: &[Window]| WindowResult {
        read_bytes: part.iter().map(|window| window.read_bytes).sum(),
        write_bytes: part.iter().map(|window| window.write_bytes).sum(),
        requests: part.iter().map(|window| window.requests).sum(),
        worst_us: part.iter().map(|window| window.worst_ns).max().unwrap_or(0) as f64 / 1e3,
    };
    // The last one is not full: it would look like a fall.
    let whole = &windows[..windows.len() - windows.len() % each];
    (whole.chunks(each).map(sum).collect(), WINDOW.as_secs_f64() * each as f64)
}

/// Why saved results are not compared, and what to do instead.
pub fn refuse_comparison(files: &[&Path]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!(
        "{} {}: saved results are not compared. They were measured one after another, and between two runs a machine changes \
         by more than most differences that matter. Run both in turns instead: `kvtier-bench compare` for rivals, or \
         `kvtier-bench grpc|local|nvme|cold|mixed|durable` for what kvtier is measured against",
        names.join(" and "),
        if files.len() == 1 { "is a result, not a job" } else { "are results, not jobs" },
    )
}

/// Whether a file is a saved result and not a job.
pub fn is_saved(path: &Path, text: &str) -> bool {
    path.extension().is_some_and(|extension| extension == "json") || text.trim_start().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_needs_samples_beyond_it() {
        let mut histogram = Count::default().latency;
        (1..=1000_u64).for_each(|value| histogram.record(value * 1000).expect("within bounds"));
        let distribution = Distribution::of(&histogram);
        assert!((distribution.percentile(99.0).expect("ten lie beyond") - 990.0).abs() < 2.0);
        assert_eq!(distribution.percentile(99.9), None, "only one lies beyond");
        assert_eq!(distribution.percentiles_us.len(), PERCENTILES.len());
    }

    #[test]
    fn saved_results_are_refused_with_a_way_out() {
        let refusal = refuse_comparison(&[Path::new("a.json"), Path::new("b.json")]);
        assert!(refusal.contains("a.json and b.json") && refusal.contains("in turns"), "{refusal}");
        assert!(is_saved(Path::new("x.json"), "") && is_saved(Path::new("x"), " {\"format\": 1}"));
        assert!(!is_saved(Path::new("x.ini"), "[global]"));
    }

    #[test]
    fn a_long_run_is_plotted_in_fewer_windows_without_losing_bytes() {
        let windows = vec![Window { read_bytes: 3, ..Window::default() }; 1200];
        let (plot, seconds) = plotted(&windows);
        assert_eq!((plot.len(), plot.iter().map(|window| window.read_bytes).sum::<u64>()), (600, 3600));
        assert!((seconds - 0.2).abs() < 1e-9);
    }
}
