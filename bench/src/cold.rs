//! `kvtier-bench cold`: chains that are on NVMe and not in memory, against fio on the same file system.
//!
//! A run reads [`CHAINS`] chains of 64 blocks of 1 MiB, each with one request: the daemon brings the chain into its arena,
//! the consumer reads every byte in place. The arena holds [`ARENA_CHAINS`] of them, so in turns every block comes from
//! the disk; the daemon's own count of bytes read from NVMe is checked after every run. fio reads as many bytes from a
//! file of its own in the same folder, 32 blocks of 1 MiB in flight, and looks at none of them: it is the limit.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;

use crate::contest::{Contest, Standing};
use crate::nvme::{Direction, Fio};
use crate::pattern::Pattern;
use crate::report::{self, Facts};
use crate::target::consumer::Expected;
use crate::target::local::Local;
use crate::target::{Consumer, Failure, Put, Reading, Session, Setup, Target};

/// Blocks of a chain.
const CHAIN_BLOCKS: u64 = 64;
/// Bytes of a block.
const BLOCK_BYTES: u32 = 1 << 20;
/// Blocks fio has in flight.
const FIO_DEPTH: usize = 32;
/// Chains that fit the arena: four that are read, four that have just been, and some room.
const ARENA_CHAINS: u64 = 10;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Chains of 64 MiB that a run reads.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(24..=1024))]
    chains: u64,
    /// Folder for the data; default: the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the table here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Chains on the disk, and who reads them.
struct Rig {
    target: Local,
    pattern: Pattern,
    chains: Vec<Chain>,
}

struct Chain {
    keys: Vec<Bytes>,
    expected: Vec<Expected>,
}

/// Runs both contests.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in(options.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let bytes = options.chains * CHAIN_BLOCKS * u64::from(BLOCK_BYTES);
    let fio = Fio::in_folder(folder.path());
    fio.run(Direction::Write, BLOCK_BYTES, bytes, FIO_DEPTH)?;
    let rig = Rig::open(folder.path(), options.chains).map_err(|error| error.to_string())?;
    let standings = [1, 4].map(|readers| rig.contest(&fio, readers, bytes, options.rounds));
    let standings = standings.into_iter().collect::<Result<Vec<Standing>, _>>()?;
    report::publish("Cold chains", &notes(bytes), &Facts::read(options.rounds), &standings, options.out.as_deref())
}

impl Rig {
    fn open(folder: &Path, chains: u64) -> Result<Self, Failure> {
        let data_bytes = chains * CHAIN_BLOCKS * u64::from(BLOCK_BYTES);
        let setup = Setup {
            folder: folder.to_owned(),
            block_bytes_max: BLOCK_BYTES,
            data_bytes,
            memory_bytes: ARENA_CHAINS * CHAIN_BLOCKS * u64::from(BLOCK_BYTES),
            lanes: 4,
            durable: true,
            endpoint: None,
        };
        let target = Local::open(&setup)?;
        let pattern = Pattern::default();
        let chains: Vec<Chain> = (0..chains).map(Chain::numbered).collect();
        let mut session = target.session(0)?;
        for chain in &chains {
            let blocks = chain.keys.iter().zip(&chain.expected);
            let blocks: Vec<Put> = blocks.map(|(key, block)| chain_put(&pattern, key, block)).collect();
            if session.put(None, &blocks)?.stored != blocks.len() {
                return Err("a block was not stored".into());
            }
        }
        target.settle()?;
        Ok(Self { target, pattern, chains })
    }

    fn contest(
        &self,
        fio: &Fio,
        readers: usize,
        bytes: u64,
        rounds: usize,
    ) -> Result<Standing, Box<dyn std::error::Error>> {
        let sessions = (0..readers).map(|lane| self.target.session(lane)).collect::<Result<Vec<_>, _>>();
        let sessions = RefCell::new(sessions.map_err(|error| error.to_string())?);
        let ours = |touch: bool| {
            let before = self.nvme_bytes_read().map_err(|error| error.to_string())?;
            let started = Instant::now();
            self.read_all(&mut sessions.borrow_mut(), touch).map_err(|error| error.to_string())?;
            let rate = bytes as f64 / started.elapsed().as_secs_f64() / 1e9;
            let from_disk = self.nvme_bytes_read().map_err(|error| error.to_string())? - before;
            match from_disk >= bytes {
                true => Ok(rate),
                false => Err(format!("{from_disk} of {bytes} bytes came from NVMe: the rest was not cold").into()),
            }
        };
        let title = match readers {
            1 => "cold chain of 64 × 1 MiB, one request".to_owned(),
            _ => format!("cold chains of 64 × 1 MiB, {readers} requests"),
        };
        Contest::new(title, "GB/s")
            .entry("kvtier, every byte read", || ours(true))
            .entry(format!("fio, depth {FIO_DEPTH}"), || {
                Ok(fio.run(Direction::Read, BLOCK_BYTES, bytes, FIO_DEPTH)?.gb_per_s)
            })
            .entry("kvtier, no byte read", || ours(false))
            .run(rounds)
    }

    /// Every chain once, dealt to the readers in turn.
    fn read_all(&self, sessions: &mut [Box<dyn Session>], touch: bool) -> Result<(), Failure> {
        let readers = sessions.len();
        std::thread::scope(|scope| {
            let dealt = sessions.iter_mut().enumerate().map(|(reader, session)| {
                scope.spawn(move || {
                    let mut own = self.chains.iter().skip(reader).step_by(readers);
                    own.try_for_each(|chain| self.read(session.as_mut(), chain, touch))
                })
            });
            let threads: Vec<_> = dealt.collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a reader panicked")?)
        })
    }

    fn read(&self, session: &mut dyn Session, chain: &Chain, touch: bool) -> Result<(), Failure> {
        let reading = if touch { Reading::Sum } else { Reading::Nothing };
        let mut consumer = Consumer::new(&self.pattern, reading, &chain.expected);
        session.get(&chain.keys, &mut consumer)?;
        let why = consumer.take_miss().unwrap_or_default();
        match consumer.finish()? {
            read if read == chain.keys.len() => Ok(()),
            read => Err(format!("{read} of {} blocks were there: {why}", chain.keys.len()).into()),
        }
    }

    fn nvme_bytes_read(&self) -> Result<u64, Failure> {
        let counters = self.target.counters()?;
        let found = counters.iter().find(|(name, _)| name == "nvme bytes read");
        Ok(found.ok_or("the daemon has no NVMe tier")?.1)
    }
}

impl Chain {
    fn numbered(chain: u64) -> Self {
        let numbers = chain * CHAIN_BLOCKS..(chain + 1) * CHAIN_BLOCKS;
        let expected: Vec<Expected> = numbers.map(|number| Expected { number, bytes: BLOCK_BYTES }).collect();
        Self { keys: expected.iter().map(|block| crate::pattern::key(0, block.number)).collect(), expected }
    }
}

fn chain_put(pattern: &Pattern, key: &Bytes, block: &Expected) -> Put {
    Put { key: key.clone(), bytes: pattern.make(block.number, block.bytes as usize).into() }
}

fn notes(bytes: u64) -> String {
    format!(
        "A run reads {} MiB in chains of 64 blocks of 1 MiB over the local path: NVMe, arena, consumer. The arena holds \
         {ARENA_CHAINS} of the chains, and the daemon's count of bytes read from NVMe is checked after every run. \"every byte read\": the \
         consumer sums every byte (CRC-32) in place, beside the daemon's own check; \"no byte read\": it looks at none, as \
         fio does. fio: io_uring, O_DIRECT, fixed buffers, registered files, a file of its own in the same folder.",
        bytes >> 20
    )
}
