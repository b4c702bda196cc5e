//! What a run does: jobs, from a file in fio's format or from flags, into the same struct.
//!
//! ```text
//!   job.ini ──┐ lines with their numbers        ┌─> problems, all of them, with the nearest name of an unknown key
//!             ├──> keys and values ──> KEYS ────┤
//!   --flags ──┘                                 └─> Vec<Job>
//! ```
//!
//! `[global]` sets what follows, any other section is a job; a line is `key=value`, or `key` for "yes"; `;` and `#` begin a
//! comment. Words are fio's where fio has one; what each of them means for blocks stands in [`keys::KEYS`], which is also
//! what `kvtier-bench --cmdhelp` prints.
//!
//! What it is not: a way to compare. One run measures one target, so all jobs have the same one.

pub mod amount;
pub mod file;
pub mod keys;
pub mod model;
pub mod spread;

use std::path::PathBuf;
use std::time::Duration;

pub use file::parse;
use spread::{ChainLengths, Popularity, Sizes};

/// Longest chain: what the daemon takes.
pub const CHAIN_BLOCKS_MAX: u32 = 65_536;
/// Requests in flight of all jobs together: each has a thread.
pub const LANES_MAX: u64 = 1024;

/// One job: `numjobs` clients that do the same with other random numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What its section is called.
    pub name: String,
    /// What is measured.
    pub target: String,
    /// A running server instead of one of the run's own.
    pub endpoint: Option<String>,
    /// Where the run's folder is made; `None`: the system's temporary folder.
    pub directory: Option<PathBuf>,
    /// Memory of the target for payloads; the rest lies in the tier below.
    pub host_bytes: u64,
    /// What requests do.
    pub rw: Rw,
    /// Per cent of the requests of a mixed job that are gets.
    pub rwmixread: u32,
    /// Per cent of the gets that are lookups instead.
    pub lookupmix: u32,
    /// Block sizes; with a model, what follows from it.
    pub sizes: Sizes,
    /// A model whose KV bytes are the block size.
    pub model: Option<String>,
    /// Ranks the model is split over; a block holds one rank's share.
    pub model_tp: u32,
    /// Tokens of a block of the model.
    pub block_tokens: u32,
    /// Blocks of a chain.
    pub chain: ChainLengths,
    /// Prefixes that chains share.
    pub prefixes: u32,
    /// Blocks of such a prefix; 0: nothing is shared.
    pub prefix_blocks: u32,
    /// Which chain the next request is about.
    pub popularity: Popularity,
    /// Requests in flight of each client.
    pub iodepth: u32,
    /// Clients.
    pub numjobs: u32,
    /// Payload bytes of the working set, and what each client moves unless `time_based`.
    pub size: u64,
    /// Longest time.
    pub runtime: Option<Duration>,
    /// Go on until `runtime`.
    pub time_based: bool,
    /// Time before anything is counted.
    pub ramp_time: Duration,
    /// Bytes per second of each client.
    pub rate: Option<u64>,
    /// Requests per second of each client.
    pub rate_iops: Option<f64>,
    /// When the requests of a rate are due.
    pub rate_process: Arrivals,
    /// Pause of a lane between two requests.
    pub thinktime: Duration,
    /// Whether every byte of a get is compared.
    pub verify: bool,
    /// Whether puts wait until they are durable.
    pub sync: bool,
    /// Whether memory is emptied before the job.
    pub cold: bool,
    /// Whether the job waits until those before it have ended.
    pub stonewall: bool,
    /// Seed of everything random.
    pub randseed: u64,
    /// A trace to replay instead of `rw`.
    pub trace: Option<PathBuf>,
    /// How fast.
    pub trace_speed: Speed,
    /// At most so many of its requests.
    pub trace_limit: Option<u64>,
}

/// What requests do; fio's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rw {
    /// Gets of the working set's chains, one after another.
    Read,
    /// Puts of fresh chains, one after another.
    Write,
    /// Gets by popularity.
    RandRead,
    /// Puts of the working set's chains by popularity: what is there already is a duplicate.
    RandWrite,
    /// Gets one after another, and puts of fresh chains.
    Rw,
    /// Gets by popularity, and puts of fresh chains.
    RandRw,
}

/// When the requests of a rate are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Linear,
    /// With exponential gaps, as independent users come.
    Poisson,
}

/// How fast a trace is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// As fast as the lanes can: a closed loop.
    Max,
    /// A multiple of its own pace: an open loop.
    Times(f64),
}

impl Rw {
    /// Words and their meanings.
    pub const ALL: [(&'static str, Self); 6] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("randread", Self::RandRead),
        ("randwrite", Self::RandWrite),
        ("rw", Self::Rw),
        ("randrw", Self::RandRw),
    ];

    /// Whether there are gets, so that the working set must be there before.
    pub fn reads(self) -> bool {
        !matches!(self, Self::Write | Self::RandWrite)
    }

    /// Whether chains are chosen by popularity.
    pub fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    /// Whether both.
    pub fn is_mixed(self) -> bool {
        matches!(self, Self::Rw | Self::RandRw)
    }
}

impl Default for Job {
    fn default() -> Self {
        Self {
            name: "job".into(),
            target: "local".into(),
            endpoint: None,
            directory: None,
            host_bytes: 512 << 20,
            rw: Rw::RandRead,
            rwmixread: 50,
            lookupmix: 0,
            sizes: Sizes::of(1 << 20),
            model: None,
            model_tp: 1,
            block_tokens: 16,
            chain: ChainLengths::Fixed(16),
            prefixes: 1,
            prefix_blocks: 0,
            popularity: Popularity::Random,
            iodepth: 1,
            numjobs: 1,
            size: 1 << 30,
            runtime: None,
            time_based: false,
            ramp_time: Duration::ZERO,
            rate: None,
            rate_iops: None,
            rate_process: Arrivals::Linear,
            thinktime: Duration::ZERO,
            verify: true,
            sync: false,
            cold: false,
            stonewall: false,
            randseed: 1,
            trace: None,
            trace_speed: Speed::Max,
            trace_limit: None,
        }
    }
}

impl Job {
    /// Requests in flight.
    pub fn lanes(&self) -> u64 {
        u64::from(self.numjobs) * u64::from(self.iodepth)
    }

    /// Whether requests come when they are due, and not when the one before has been answered.
    pub fn is_open_loop(&self) -> bool {
        match self.trace {
            Some(_) => self.trace_speed != Speed::Max,
            None => self.rate.is_some() || self.rate_iops.is_some(),
        }
    }

    /// Everything that contradicts itself.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut refuse = |wrong: bool, what: &str| {
            if wrong {
                problems.push(format!("job {:?}: {what}", self.name));
            }
        };
        let open = self.is_open_loop();
        refuse(self.time_based && self.runtime.is_none(), "time_based needs a runtime, such as runtime=30s");
        refuse(
            self.rate.is_some() && self.rate_iops.is_some(),
            "rate and rate_iops contradict each other; leave one out",
        );
        refuse(
            open && !self.thinktime.is_zero(),
            "thinktime is a pause of a closed loop, and a rate makes the loop open; leave one out",
        );
        refuse(
            self.runtime.is_some_and(|runtime| runtime <= self.ramp_time),
            "ramp_time is as long as runtime, so nothing would be measured",
        );
        let longest = self.chain.longest();
        refuse(
            longest > CHAIN_BLOCKS_MAX,
            &format!("a chain of {longest} blocks; {CHAIN_BLOCKS_MAX} is the longest a daemon takes"),
        );
        refuse(
            self.trace.is_some() && self.numjobs > 1,
            "numjobs would replay the trace several times; use iodepth for requests in flight",
        );
        refuse(
            self.trace.is_none() && (self.trace_speed != Speed::Max || self.trace_limit.is_some()),
            "trace_speed and trace_limit need a trace",
        );
        refuse(
            u64::from(self.sizes.largest()) > self.size,
            &format!("size={} is smaller than a block", amount::show_bytes(self.size)),
        );
        problems
    }
}

/// Jobs that may run together: one target, not too many lanes, names that differ.
pub fn problems(jobs: &[Job]) -> Vec<String> {
    let mut problems: Vec<String> = jobs.iter().flat_map(Job::problems).collect();
    if jobs.is_empty() {
        problems.push("there is no job; begin one with a section such as [get]".into());
    }
    let first = jobs.first();
    let shared =
        |job: &Job| (job.target.clone(), job.endpoint.clone(), job.directory.clone(), job.host_bytes, job.sync);
    if let Some(other) = jobs.iter().find(|job| first.is_some_and(|first| shared(job) != shared(first))) {
        problems.push(format!(
            "job {:?} has another target, endpoint, directory, host_bytes or sync than {:?}: a run measures one target, \
             because figures of two are no comparison unless they take turns; use `kvtier-bench compare`",
            other.name,
            first.map_or("", |first| &first.name)
        ));
    }
    let lanes: u64 = jobs.iter().map(Job::lanes).sum();
    if lanes > LANES_MAX {
        problems.push(format!("{lanes} requests in flight (numjobs × iodepth); {LANES_MAX} are the most"));
    }
    for (at, job) in jobs.iter().enumerate() {
        if jobs[..at].iter().any(|other| other.name == job.name) {
            problems.push(format!("two jobs are called {:?}; give each a name of its own", job.name));
        }
    }
    problems
}
