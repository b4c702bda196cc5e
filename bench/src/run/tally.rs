//! What a lane counts: latencies, blocks and bytes, and how they spread over time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_millis(100);
/// A day of windows.
const WINDOWS_MAX: usize = 864_000;
/// Latencies from a tenth of a microsecond to an hour, to three digits.
const LATENCY_NS: (u64, u64) = (100, 3_600_000_000_000);
/// Different reasons for a miss that are told apart.
const REASONS_MAX: usize = 32;

/// Counts of one kind of request.
#[derive(Debug, Clone)]
pub struct Count {
    /// Nanoseconds from when a request was due, or begun in a closed loop.
    pub latency: Histogram<u64>,
    /// Nanoseconds from when it was begun.
    pub service: Histogram<u64>,
    /// Requests.
    pub requests: u64,
    /// Blocks asked for.
    pub asked_blocks: u64,
    /// Blocks got, stored or found.
    pub blocks: u64,
    /// Bytes got or stored.
    pub bytes: u64,
    /// Puts of what was there.
    pub duplicate_blocks: u64,
    /// Puts that were refused.
    pub declined_blocks: u64,
    /// Requests whose time was up before they could begin.
    pub expired: u64,
}

/// What happened in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Bytes got.
    pub read_bytes: u64,
    /// Bytes stored.
    pub write_bytes: u64,
    /// Requests that ended.
    pub requests: u64,
    /// The slowest of them.
    pub worst_ns: u64,
}

/// Everything a lane, or a job, has counted.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Gets.
    pub read: Count,
    /// Puts.
    pub write: Count,
    /// Lookups.
    pub lookup: Count,
    /// From the end of the ramp on.
    pub windows: Vec<Window>,
    /// Why blocks were missing, in the target's words.
    pub misses: BTreeMap<String, u64>,
}

/// Which count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Gets.
    Read,
    /// Puts.
    Write,
    /// Lookups.
    Lookup,
}

/// When a request was due, begun and done, since the run began.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Due, or begun in a closed loop.
    pub due: Duration,
    /// Begun.
    pub begun: Duration,
    /// Done.
    pub done: Duration,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved {
    /// Blocks asked for.
    pub asked_blocks: u64,
    /// Blocks got, stored or found.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that were there already.
    pub duplicate_blocks: u64,
    /// Blocks that were refused.
    pub declined_blocks: u64,
}

impl Default for Count {
    fn default() -> Self {
        let histogram = || {
            let bounds = Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 3);
            bounds.expect("the bounds are fixed and valid")
        };
        Self {
            latency: histogram(),
            service: histogram(),
            requests: 0,
            asked_blocks: 0,
            blocks: 0,
            bytes: 0,
            duplicate_blocks: 0,
            declined_blocks: 0,
            expired: 0,
        }
    }
}

impl Count {
    fn note(&mut self, times: Times, moved: Moved) {
        self.latency.saturating_record(nanos(times.done.saturating_sub(times.due)));
        self.service.saturating_record(nanos(times.done.saturating_sub(times.begun)));
        self.requests += 1;
        self.asked_blocks += moved.asked_blocks;
        self.blocks += moved.blocks;
        self.bytes += moved.bytes;
        self.duplicate_blocks += moved.duplicate_blocks;
        self.declined_blocks += moved.declined_blocks;
    }

    fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.service.add(&other.service).expect("all have the same bounds");
        self.requests += other.requests;
        self.asked_blocks += other.asked_blocks;
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.duplicate_blocks += other.duplicate_blocks;
        self.declined_blocks += other.declined_blocks;
        self.expired += other.expired;
    }
}

impl Default for Tally {
    fn default() -> Self {
        let (read, write, lookup) = (Count::default(), Count::default(), Count::default());
        Self { read, write, lookup, windows: Vec::new(), misses: BTreeMap::new() }
    }
}

impl Tally {
    /// Counts a request, unless it was due before the ramp's end.
    pub fn note(&mut self, kind: Kind, times: Times, moved: Moved, ramp: Duration) {
        if times.due < ramp {
            return;
        }
        self.count_mut(kind).note(times, moved);
        let at = (times.done.saturating_sub(ramp).as_nanos() / WINDOW.as_nanos()) as usize;
        if at >= WINDOWS_MAX {
            return;
        }
        if at >= self.windows.len() {
            self.windows.resize(at + 1, Window::default());
        }
        let window = &mut self.windows[at];
        match kind {
            Kind::Read => window.read_bytes += moved.bytes,
            Kind::Write => window.write_bytes += moved.bytes,
            Kind::Lookup => {}
        }
        window.requests += 1;
        window.worst_ns = window.worst_ns.max(nanos(times.done.saturating_sub(times.due)));
    }

    /// Counts a request that could not begin: it has waited at least until now.
    pub fn note_expired(&mut self, kind: Kind, due: Duration, now: Duration, ramp: Duration) {
        if due < ramp {
            return;
        }
        let count = self.count_mut(kind);
        count.expired += 1;
        count.latency.saturating_record(nanos(now.saturating_sub(due)));
    }

    /// Counts why a chain ended early.
    pub fn note_miss(&mut self, why: &str, blocks: u64) {
        let known = self.misses.contains_key(why) || self.misses.len() < REASONS_MAX;
        *self.misses.entry(if known { why } else { "other" }.to_owned()).or_default() += blocks;
    }

    /// Adds another one's counts.
    pub fn merge(&mut self, other: &Self) {
        self.read.merge(&other.read);
        self.write.merge(&other.write);
        self.lookup.merge(&other.lookup);
        if self.windows.len() < other.windows.len() {
            self.windows.resize(other.windows.len(), Window::default());
        }
        for (own, window) in self.windows.iter_mut().zip(&other.windows) {
            own.read_bytes += window.read_bytes;
            own.write_bytes += window.write_bytes;
            own.requests += window.requests;
            own.worst_ns = own.worst_ns.max(window.worst_ns);
        }
        other.misses.iter().for_each(|(why, blocks)| self.note_miss(why, *blocks));
    }

    fn count_mut(&mut self, kind: Kind) -> &mut Count {
        match kind {
            Kind::Read => &mut self.read,
            Kind::Write => &mut self.write,
            Kind::Lookup => &mut self.lookup,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
