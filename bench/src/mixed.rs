//! `kvtier-bench mixed`: what a stream of stores does to the gets beside it. Loads must overtake stores.
//!
//! ```text
//!   alone   one reader gets cold chains, a pause between two
//!   beside  the same, while writers put fresh chains as fast as they are taken
//! ```
//!
//! The figure is the p99 of the time to a whole chain; the two are measured in turns. Writes wait for room, so they are
//! bounded by the disk: it is saturated. Both put and get come from the same machine, which has to feed the writers too:
//! the third row is a reader beside writers that copy payloads as fast as they can and put them nowhere.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::contest::{Contest, Row, Standing};
use crate::pattern::{Pattern, key};
use crate::report::{self, Facts};
use crate::target::consumer::Expected;
use crate::target::local::Local;
use crate::target::{Consumer, Failure, Put, Reading, Session, Setup, Target};

const BLOCK_BYTES: u32 = 1 << 20;
/// Chains the reader goes through.
const CHAINS: u64 = 96;
/// Blocks a writer puts at a time.
const WRITE_BLOCKS: u64 = 8;
/// Arena.
const MEMORY_BYTES: u64 = 512 << 20;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Blocks of 1 MiB in a chain that is read.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    blocks: u64,
    /// Gets behind every percentile.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..))]
    gets: u32,
    /// Pause between two gets in milliseconds.
    #[arg(long, default_value_t = 2)]
    pause_ms: u64,
    /// Writers beside the reader.
    #[arg(long, default_value_t = 1)]
    writers: usize,
    /// Bytes of the NVMe file in MiB: when it is full, every store evicts.
    #[arg(long, default_value_t = 4096)]
    nvme_mib: u64,
    /// Folder for the data; default: the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the table here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What the writers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    None,
    /// Copy payloads and drop them.
    Copy,
    Put,
}

struct Rig<'a> {
    options: &'a Options,
    target: Local,
    pattern: Pattern,
    next: AtomicU64,
    /// Bytes that were stored, and for how long they were.
    stored: Cell<(u64, Duration)>,
    hits: Cell<(u64, u64)>,
}

/// Runs the contest.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in(options.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let setup = Setup {
        folder: folder.path().to_owned(),
        block_bytes_max: BLOCK_BYTES,
        data_bytes: options.nvme_mib << 20,
        memory_bytes: MEMORY_BYTES,
        lanes: options.writers + 1,
        durable: false,
        endpoint: None,
    };
    let target = Local::open(&setup).map_err(|error| error.to_string())?;
    let rig = Rig {
        options,
        target,
        pattern: Pattern::default(),
        next: AtomicU64::new(1 << 40),
        stored: Cell::default(),
        hits: Cell::default(),
    };
    let standings = rig.contest().map_err(|error| error.to_string())?;
    let notes = rig.notes();
    report::publish("Gets beside stores", &notes, &Facts::read(options.rounds), &standings, options.out.as_deref())
}

impl Rig<'_> {
    fn contest(&self) -> Result<Vec<Standing>, Failure> {
        self.lay_out()?;
        let medians: RefCell<Vec<(&str, Vec<f64>)>> = RefCell::default();
        let measure = |name: &'static str, writers| {
            let medians = &medians;
            move || {
                let (p50, p99) = self.percentiles(writers).map_err(|error| error.to_string())?;
                let mut medians = medians.borrow_mut();
                match medians.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, values)) => values.push(p50),
                    None => medians.push((name, vec![p50])),
                }
                Ok(p99)
            }
        };
        let title = format!("get of {} × 1 MiB from NVMe, p99", self.options.blocks);
        let p99 = Contest::new(title, "ms")
            .entry("beside stores", measure("beside stores", Writers::Put))
            .entry("alone", measure("alone", Writers::None))
            .entry("beside writers that only copy", measure("beside writers that only copy", Writers::Copy))
            .run(self.options.rounds)
            .map_err(|error| error.to_string())?;
        // The first of each is the warm-up.
        let rows = medians.into_inner().into_iter().map(|(name, mut values)| Row::of(name.into(), values.split_off(1)));
        let p50 = Standing::of_costs("the same, p50", "ms", rows.collect());
        Ok(vec![p99, p50])
    }

    /// Puts the chains that are read.
    fn lay_out(&self) -> Result<(), Failure> {
        let mut session = self.target.session(0)?;
        for chain in 0..CHAINS {
            self.put(session.as_mut(), chain * self.options.blocks, self.options.blocks)?;
        }
        self.target.settle()
    }

    fn put(&self, session: &mut dyn Session, first: u64, count: u64) -> Result<u64, Failure> {
        let block = |number| Put { key: key(0, number), bytes: self.pattern.make(number, BLOCK_BYTES as usize).into() };
        let blocks: Vec<Put> = (first..first + count).map(block).collect();
        Ok(session.put(None, &blocks)?.stored as u64)
    }

    /// p50 and p99 in milliseconds.
    fn percentiles(&self, writers: Writers) -> Result<(f64, f64), Failure> {
        self.target.chill()?;
        let stop = AtomicBool::new(false);
        let (stop, stored) = (&stop, &AtomicU64::new(0));
        let mut sessions =
            (0..self.options.writers).map(|lane| self.target.session(lane)).collect::<Result<Vec<_>, _>>()?;
        let started = Instant::now();
        let next = &self.next;
        let payload = &Bytes::from(self.pattern.make(u64::MAX, BLOCK_BYTES as usize));
        let histogram = std::thread::scope(|scope| {
            let work = sessions.iter_mut().filter(|_| writers != Writers::None).map(|session| {
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let first = next.fetch_add(WRITE_BLOCKS, Ordering::Relaxed);
                        // One payload for all: making one takes as long as storing it, and engines have theirs ready.
                        let block = |number| Put { key: key(0, number), bytes: payload.clone() };
                        let blocks: Vec<Put> = (first..first + WRITE_BLOCKS).map(block).collect();
                        match writers {
                            Writers::Put => {
                                stored.fetch_add(session.put(None, &blocks)?.stored as u64, Ordering::Relaxed);
                            }
                            // What a put costs this process: each byte once.
                            _ => blocks.iter().for_each(|block| drop(std::hint::black_box(block.bytes.to_vec()))),
                        }
                    }
                    Ok::<(), Failure>(())
                })
            });
            let work: Vec<_> = work.collect();
            let read = self.read();
            stop.store(true, Ordering::Relaxed);
            work.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a writer panicked")?)?;
            read
        })?;
        if writers == Writers::Put {
            let (bytes, time) = self.stored.get();
            let now = stored.load(Ordering::Relaxed) * u64::from(BLOCK_BYTES);
            self.stored.set((bytes + now, time + started.elapsed()));
        }
        let ms = |percentile| histogram.value_at_percentile(percentile) as f64 / 1e6;
        Ok((ms(50.0), ms(99.0)))
    }

    fn read(&self) -> Result<Histogram<u64>, Failure> {
        let mut session = self.target.session(self.options.writers)?;
        let mut histogram = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
        for get in 0..u64::from(self.options.gets) {
            // Far apart, so that a chain has left memory when it comes again.
            let first = get % CHAINS * self.options.blocks;
            let numbers = first..first + self.options.blocks;
            let keys: Vec<Bytes> = numbers.clone().map(|number| key(0, number)).collect();
            let expected: Vec<Expected> = numbers.map(|number| Expected { number, bytes: BLOCK_BYTES }).collect();
            let mut consumer = Consumer::new(&self.pattern, Reading::Verify, &expected);
            let started = Instant::now();
            session.get(&keys, &mut consumer)?;
            let took = started.elapsed();
            let read = consumer.finish()? as u64;
            let (hits, asked) = self.hits.get();
            self.hits.set((hits + read, asked + self.options.blocks));
            if read == self.options.blocks {
                histogram.record(took.as_nanos() as u64)?;
            } else {
                // The stores have pushed it out: it is put again, unmeasured.
                self.put(session.as_mut(), first, self.options.blocks)?;
            }
            std::thread::park_timeout(Duration::from_millis(self.options.pause_ms));
        }
        Ok(histogram)
    }

    fn notes(&self) -> String {
        let (bytes, time) = self.stored.get();
        let (hits, asked) = self.hits.get();
        format!(
            "One reader gets chains of {} blocks of 1 MiB over the local path, {} ms between two, {} gets a run, every byte \
             compared; {} writers put fresh chains of {WRITE_BLOCKS} blocks as fast as they are taken: {:.2} GB/s on \
             average. Arena {} MiB, NVMe file {} MiB, so stores evict. The daemon is restarted before every run, so that \
             it begins cold. {:.1} % of the blocks asked for were there. Less is better.",
            self.options.blocks,
            self.options.pause_ms,
            self.options.gets,
            self.options.writers,
            bytes as f64 / time.as_secs_f64().max(1e-9) / 1e9,
            MEMORY_BYTES >> 20,
            self.options.nvme_mib,
            hits as f64 * 100.0 / asked.max(1) as f64,
        )
    }
}
