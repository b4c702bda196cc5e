//! What a client asks for next, and when it is due.
//!
//! In a closed loop a lane asks when it has nothing in flight. With a rate the loop is open: requests are due at times that
//! follow from the rate alone, whatever the target does, and their latency counts from then. A target that stalls makes all
//! of them late, and the percentiles say so (no coordinated omission). Requests that were due before the end and could not
//! even be started are recorded with the time they had waited by then: a lower bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::chains::Chains;
use crate::job::spread::{Choice, Dice};
use crate::job::{Arrivals, Job, Rw};
use crate::target::consumer::Expected;

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// What to do.
    pub deed: Deed,
    /// With which blocks.
    pub blocks: Vec<Expected>,
    /// When it should begin; `None`: now.
    pub due: Option<Duration>,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Put the chain.
    Put,
    /// Get it.
    Get,
    /// Look it up.
    Lookup,
    /// What an engine does with the request at this place of a trace: look up, get what is there, put the rest.
    Serve(usize),
    /// Nothing: the time was up before it could begin.
    Expired,
}

/// The requests of one client.
#[derive(Debug)]
pub struct Source {
    chains: Arc<Chains>,
    choice: Choice,
    dice: Dice,
    schedule: Option<Schedule>,
    rw: Rw,
    mix: [u64; 2],
    place: u64,
    fresh: Arc<AtomicU64>,
    bytes_left: Option<u64>,
    end: Option<Duration>,
}

impl Source {
    /// The requests of client `clone` of a job. `fresh` is where the clients of the job take new chains from.
    pub fn new(job: &Job, clone: u32, chains: Arc<Chains>, fresh: Arc<AtomicU64>) -> Self {
        let salt = u64::from(clone) + 1;
        Self {
            choice: Choice::new(job.popularity, chains.count()),
            dice: Dice::new(job.randseed, salt),
            schedule: Schedule::of(job, salt),
            rw: job.rw,
            mix: [u64::from(job.rwmixread), u64::from(job.lookupmix)],
            // Clients that go through the set in order begin apart.
            place: chains.count() * u64::from(clone) / u64::from(job.numjobs),
            chains,
            fresh,
            bytes_left: (!job.time_based).then_some(job.size),
            end: job.runtime,
        }
    }

    /// The next request; none: the job has ended.
    pub fn next(&mut self, now: Duration) -> Option<Ticket> {
        let over = self.end.is_some_and(|end| now >= end);
        if self.bytes_left == Some(0) || (over && self.schedule.is_none()) {
            return None;
        }
        let (deed, chain) = self.draw();
        let blocks = self.chains.blocks(chain);
        let bytes: u64 = blocks.iter().map(|block| u64::from(block.bytes)).sum();
        let due = self.schedule.as_mut().map(|schedule| schedule.next(bytes));
        if due.is_some_and(|due| self.end.is_some_and(|end| due >= end)) {
            self.bytes_left = Some(0);
            return None;
        }
        if let Some(left) = &mut self.bytes_left {
            *left = left.saturating_sub(bytes);
        }
        let deed = if over { Deed::Expired } else { deed };
        Some(Ticket { deed, blocks, due })
    }

    fn draw(&mut self) -> (Deed, u64) {
        let writes = match self.rw {
            Rw::Write | Rw::RandWrite => true,
            Rw::Read | Rw::RandRead => false,
            Rw::Rw | Rw::RandRw => self.dice.below(100) >= self.mix[0],
        };
        if writes {
            let chain = match self.rw {
                Rw::RandWrite => self.choice.choose(&mut self.dice),
                _ => self.fresh.fetch_add(1, Ordering::Relaxed),
            };
            return (Deed::Put, chain);
        }
        let deed = if self.dice.below(100) < self.mix[1] { Deed::Lookup } else { Deed::Get };
        if self.rw.is_random() {
            return (deed, self.choice.choose(&mut self.dice));
        }
        self.place += 1;
        (deed, (self.place - 1) % self.chains.count())
    }
}

/// When requests are due.
#[derive(Debug)]
pub struct Schedule {
    per_second: f64,
    counts_bytes: bool,
    poisson: Option<Dice>,
    at: f64,
}

impl Schedule {
    /// Of a job's rate; none: the loop is closed.
    pub fn of(job: &Job, salt: u64) -> Option<Self> {
        let (per_second, counts_bytes) = match (job.rate, job.rate_iops) {
            (Some(bytes), _) => (bytes as f64, true),
            (None, Some(requests)) => (requests, false),
            (None, None) => return None,
        };
        let poisson = (job.rate_process == Arrivals::Poisson).then(|| Dice::new(job.randseed, salt ^ 0x706f_6973));
        Some(Self { per_second, counts_bytes, poisson, at: 0.0 })
    }

    /// When the next request of so many bytes is due. The gap behind it follows from its size.
    pub fn next(&mut self, bytes: u64) -> Duration {
        let due = self.at;
        let weight = if self.counts_bytes { bytes as f64 } else { 1.0 };
        let gap = weight / self.per_second;
        self.at += self.poisson.as_mut().map_or(gap, |dice| -gap * (1.0 - dice.fraction()).ln());
        Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(job: &Job) -> Source {
        let chains = Arc::new(Chains::of(job, 0));
        let fresh = Arc::new(AtomicU64::new(chains.count()));
        Source::new(job, 0, chains, fresh)
    }

    #[test]
    fn requests_of_a_rate_are_due_whatever_happens() {
        let job =
            Job { rate_iops: Some(100.0), runtime: Some(Duration::from_secs(1)), time_based: true, ..Job::default() };
        let mut source = source(&job);
        // Nobody has asked for 900 ms: what was due meanwhile is handed out with its time, not with now.
        let dues: Vec<Duration> =
            std::iter::from_fn(|| source.next(Duration::from_millis(900))).filter_map(|t| t.due).collect();
        assert_eq!(dues.len(), 100);
        assert_eq!(dues[7], Duration::from_millis(70));
    }

    #[test]
    fn a_byte_rate_spaces_requests_by_their_size() {
        let job = Job { rate: Some(32 << 20), ..Job::default() };
        let mut schedule = Schedule::of(&job, 1).expect("a rate");
        assert_eq!(schedule.next(16 << 20), Duration::ZERO);
        assert_eq!(schedule.next(16 << 20), Duration::from_millis(500));
        assert_eq!(schedule.next(1), Duration::from_secs(1));
    }

    #[test]
    fn poisson_gaps_have_their_mean_and_their_spread() {
        let job = Job { rate_iops: Some(1000.0), rate_process: Arrivals::Poisson, ..Job::default() };
        let mut schedule = Schedule::of(&job, 1).expect("a rate");
        let dues: Vec<f64> = (0..100_000).map(|_| schedule.next(1).as_secs_f64()).collect();
        let gaps: Vec<f64> = dues.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean * 1000.0 - 1.0).abs() < 0.02 && (deviation / mean - 1.0).abs() < 0.03, "{mean} {deviation}");
    }

    #[test]
    fn same_seed_same_requests_and_another_seed_others() {
        let requests = |randseed| {
            let mut source = source(&Job { rw: Rw::RandRw, randseed, ..Job::default() });
            (0..20).filter_map(|_| source.next(Duration::ZERO)).collect::<Vec<_>>()
        };
        assert_eq!(requests(3), requests(3));
        assert_ne!(requests(3), requests(4));
    }

    #[test]
    fn a_mix_has_its_shares() {
        let job = Job { rw: Rw::RandRw, rwmixread: 70, lookupmix: 25, size: 1 << 40, ..Job::default() };
        let mut source = source(&job);
        let deeds: Vec<Deed> =
            (0..10_000).filter_map(|_| source.next(Duration::ZERO)).map(|ticket| ticket.deed).collect();
        let share = |deed| deeds.iter().filter(|other| **other == deed).count() as f64 / deeds.len() as f64;
        for (deed, expected) in [(Deed::Put, 0.3), (Deed::Get, 0.525), (Deed::Lookup, 0.175)] {
            assert!((share(deed) - expected).abs() < 0.02, "{deed:?} {}", share(deed));
        }
    }

    #[test]
    fn a_job_ends_when_its_size_was_moved() {
        let job = Job { size: 64 << 20, ..Job::default() };
        let mut source = source(&job);
        let moved: u64 = std::iter::from_fn(|| source.next(Duration::ZERO))
            .flat_map(|ticket| ticket.blocks)
            .map(|block| u64::from(block.bytes))
            .sum();
        assert_eq!(moved, 64 << 20);
    }
}
