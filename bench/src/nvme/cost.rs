//! What a run takes: time on the wall, and CPU of all its threads.

use std::collections::HashMap;
use std::time::Instant;

use crate::contest::Row;

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Throughput.
    pub(crate) gb_per_s: f64,
    /// CPU milliseconds per gigabyte, user and system.
    pub(crate) cpu_ms_per_gb: f64,
}

/// Counts what this process takes from [`Meter::start`] on.
#[derive(Debug)]
pub(crate) struct Meter {
    started: Instant,
    threads: HashMap<String, u64>,
}

impl Meter {
    /// Begins.
    pub(crate) fn start() -> Self {
        Self { threads: run_ns_by_thread(), started: Instant::now() }
    }

    /// Ends, `bytes` later.
    pub(crate) fn stop(self, bytes: u64) -> Cost {
        let seconds = self.started.elapsed().as_secs_f64();
        let before = |thread: &String| self.threads.get(thread).copied().unwrap_or(0);
        let ns: u64 = run_ns_by_thread().iter().map(|(thread, ns)| ns.saturating_sub(before(thread))).sum();
        let gigabytes = bytes as f64 / 1e9;
        Cost { gb_per_s: gigabytes / seconds, cpu_ms_per_gb: ns as f64 / 1e6 / gigabytes }
    }
}

/// Nanoseconds each thread has run, kernel workers of its rings included: clock ticks would be too coarse.
fn run_ns_by_thread() -> HashMap<String, u64> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let run_ns = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let ns = text.split_whitespace().next()?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), ns))
    };
    threads.filter_map(run_ns).collect()
}

/// The CPU figures that a contest of throughputs passes by.
#[derive(Debug, Default)]
pub(crate) struct Ledger(HashMap<&'static str, Vec<f64>>);

impl Ledger {
    /// Keeps the CPU figure and gives the throughput on.
    pub(crate) fn note(&mut self, who: &'static str, cost: Cost) -> f64 {
        self.0.entry(who).or_default().push(cost.cpu_ms_per_gb);
        cost.gb_per_s
    }

    /// One row for each, without its first figure: that was the warm-up.
    pub(crate) fn rows(mut self, names: &[&'static str]) -> Vec<Row> {
        let values = |name: &&'static str| Some((*name, self.0.remove(name)?.split_off(1)));
        let rows: Vec<_> = names.iter().filter_map(values).collect();
        rows.into_iter().map(|(name, values)| Row::of(name.to_owned(), values)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_is_not_in_the_median() {
        let mut ledger = Ledger::default();
        for cpu_ms_per_gb in [100.0, 1.0, 3.0, 2.0] {
            ledger.note("a", Cost { gb_per_s: 1.0, cpu_ms_per_gb });
        }
        let rows = ledger.rows(&["b", "a"]);
        assert_eq!(rows.len(), 1);
        assert!((rows[0].median - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn work_is_seen_and_waiting_is_not() {
        let work = |seconds: f64| {
            let begin = Instant::now();
            let mut sum = 0_u64;
            while begin.elapsed().as_secs_f64() < seconds {
                sum = std::hint::black_box(sum + 1);
            }
        };
        let meter = Meter::start();
        std::thread::scope(|scope| {
            scope.spawn(|| std::thread::park_timeout(std::time::Duration::from_millis(100)));
            work(0.05);
        });
        let cost = meter.stop(1_000_000_000);
        assert!(cost.cpu_ms_per_gb > 1.0 && cost.cpu_ms_per_gb <= 100.0, "{cost:?}");
    }
}
