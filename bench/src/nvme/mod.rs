//! The NVMe tier against fio: blocks of three sizes, written and read with 32 in flight, in one folder.
//!
//! ```text
//!   kvtier     Tier::store / Tier::load: checksums, headers, the whole way      ┐ one data file, one arena,
//!   bare disk  the same transfers through the Disk port: what the tier adds     ┘ `--in-flight` host slots in turn
//!   fio        io_uring, O_DIRECT, fixed buffers, registered files, one process: the limit; a file of its own
//! ```
//!
//! All three go through their file from front to back and move the same number of payload bytes. fio stamps no buffers
//! (`scramble_buffers=0`), so it does nothing but I/O. CPU is what the kernel counts for all threads of this process,
//! its io_uring workers among them; for fio it is what fio reports of its one thread, without workers. A fourth figure,
//! one CRC32 pass over the same slots, says what verification alone costs.

mod cost;
mod fio;
mod rig;

use std::cell::RefCell;
use std::error::Error;
use std::path::PathBuf;

use kvtier_engine::place::slot_bytes;

use self::cost::{Cost, Ledger};
use self::fio::Fio;
use self::rig::Rig;
use crate::contest::{Contest, Standing};
use crate::report::{self, Facts};

type Failure = Box<dyn Error>;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Block sizes in KiB.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024, 4096])]
    block_kib: Vec<u32>,
    /// Size of each data file in MiB: what one run moves, less what does not fill an extent.
    #[arg(long, default_value_t = 1024)]
    file_mib: u64,
    /// Blocks in flight.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// Blocks per call of the tier. The engine's own batches have up to 16 MiB, four at a time.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Folder for the data files; default: the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Small pages for the arena, to see what huge ones bring.
    #[arg(long)]
    small_pages: bool,
    /// Write the table here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Which way the blocks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the disk.
    Write,
    /// Into memory.
    Read,
}

impl Direction {
    /// For titles, and fio's name for it.
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// Runs all cells.
pub fn run(options: &Options) -> Result<(), Failure> {
    if options.batch == 0 || !options.in_flight.is_multiple_of(options.batch) {
        return Err(format!("{} in flight are not whole batches of {}", options.in_flight, options.batch).into());
    }
    let folder = tempfile::tempdir_in(options.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let largest = options.block_kib.iter().copied().max().ok_or("no block size is given")? << 10;
    let slots_bytes = u64::from(slot_bytes(largest)) * options.in_flight as u64;
    let rig = runtime.block_on(Rig::open(folder.path(), options.file_mib << 20, slots_bytes, !options.small_pages))?;
    let fio = Fio::in_folder(folder.path());
    let mut standings = Vec::new();
    for block_kib in &options.block_kib {
        let bench = rig.bench(block_kib << 10, options.in_flight, options.batch)?;
        // Writes first: they are what is read.
        for direction in [Direction::Write, Direction::Read] {
            // On a worker, as the daemon's own tasks are.
            let spawned = |way| {
                let run = runtime.spawn(bench.clone().run(way, direction));
                let cost = runtime.block_on(run)?.map_err(|error| -> Failure { error })?;
                Ok::<Cost, Failure>(cost)
            };
            let title = format!("{} {block_kib} KiB", direction.name());
            let tier = || spawned(rig::Way::Tier);
            let disk = || spawned(rig::Way::Disk);
            let limit = || fio.run(direction, block_kib << 10, bench.moved_bytes(), options.in_flight);
            standings.extend(compare(&title, options.rounds, tier, limit, disk, || bench.checksum())?);
        }
    }
    let notes = notes(&rig, options);
    report::publish("NVMe tier against fio", &notes, &Facts::read(options.rounds), &standings, options.out.as_deref())
}

/// Throughput and CPU of one cell.
fn compare(
    title: &str,
    rounds: usize,
    mut tier: impl FnMut() -> Result<Cost, Failure>,
    mut fio: impl FnMut() -> Result<Cost, Failure>,
    mut disk: impl FnMut() -> Result<Cost, Failure>,
    mut checksum: impl FnMut() -> Result<Cost, Failure>,
) -> Result<[Standing; 2], Failure> {
    let ledger = RefCell::new(Ledger::default());
    let note = |who: &'static str, cost: Cost| ledger.borrow_mut().note(who, cost);
    let speed = Contest::new(title, "GB/s")
        .entry("kvtier", || Ok(note("kvtier", tier()?)))
        .entry("fio", || Ok(note("fio", fio()?)))
        .entry("bare disk", || {
            note("one CRC32 pass", checksum()?);
            Ok(note("bare disk", disk()?))
        })
        .run(rounds)?;
    let rows = ledger.into_inner().rows(&["kvtier", "fio", "bare disk", "one CRC32 pass"]);
    Ok([speed, Standing::of_costs(format!("{title}, CPU"), "s/GB", rows)])
}

fn notes(rig: &Rig, options: &Options) -> String {
    format!(
        "{} blocks in flight, in batches of {}; one data file of {} MiB each for kvtier and fio, in one folder, written \
         and read from front to back. CPU: all threads of the process for kvtier and the bare disk, fio's own figure of \
         its one thread for fio; less is better.\n\nArena: {}. Disk: {}.",
        options.in_flight,
        options.batch,
        options.file_mib,
        rig.memory_detail(),
        rig.disk_detail()
    )
}
