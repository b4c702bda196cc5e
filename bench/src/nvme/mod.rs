//! The NVMe tier against fio: blocks of three sizes, written and read with 32 in flight, in one folder.
//!
//! ```text
//!   kvtier     Tier::store / Tier::load: checksums, headers, the whole way      ┐ one data file, one arena,
//!   bare disk  the same transfers through the Disk port: what the tier adds     ┘ `--in-flight` host slots in turn
//!   fio        io_uring, O_DIRECT, fixed buffers, registered files, one process: the limit; a file of its own
//! ```
//!
//! All three go through their file from front to back and move the same number of payload bytes. fio stamps no buffers
//! (`scramble_buffers=0`) and has huge pages as we do, so it does nothing but I/O. CPU is what the kernel counts for all
//! threads of this process, its io_uring workers among them; for fio it is what fio reports of its one thread, without
//! workers. Two more figures say what verification costs: one CRC32 pass over the same slots, and a fio that verifies
//! what it reads.

mod cost;
mod fio;
mod rig;

use std::cell::RefCell;
use std::error::Error;
use std::path::PathBuf;

use kvtier_engine::place::slot_bytes;

pub(crate) use self::cost::Meter;
use self::cost::{Cost, Ledger};
pub(crate) use self::fio::Fio;
pub(crate) use self::rig::Rig;
use self::rig::Way;
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

const KVTIER: &str = "kvtier";
const FIO: &str = "fio";
const DISK: &str = "bare disk";
const CRC: &str = "one CRC32 pass";
const FIO_VERIFYING: &str = "fio, verify=crc32c";

/// A contestant.
type Entry<'a> = (&'static str, Box<dyn FnMut() -> Result<Cost, Failure> + 'a>);

/// One size and direction.
struct Cell {
    title: String,
    speed: Standing,
    cpu: Standing,
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
    let (fio, verifying) = (Fio::in_folder(folder.path()), Fio::verifying(folder.path()));
    let mut cells = Vec::new();
    for block_kib in &options.block_kib {
        let bench = rig.bench(block_kib << 10, options.in_flight, options.batch)?;
        // On a worker, as the daemon's own tasks are.
        let ours = |way, direction| {
            let run = runtime.spawn(bench.clone().run(way, direction));
            runtime.block_on(run)?.map_err(|error| -> Failure { error })
        };
        let theirs = |fio: &Fio, direction| fio.run(direction, block_kib << 10, bench.moved_bytes(), options.in_flight);
        // Writes first: they are what is read.
        for direction in [Direction::Write, Direction::Read] {
            let mut entries: Vec<Entry<'_>> = vec![
                (KVTIER, Box::new(move || ours(Way::Tier, direction))),
                (FIO, Box::new(|| theirs(&fio, direction))),
                (DISK, Box::new(move || ours(Way::Disk, direction))),
                (CRC, Box::new(|| bench.checksum())),
            ];
            if direction == Direction::Read {
                theirs(&verifying, Direction::Write)?;
                entries.push((FIO_VERIFYING, Box::new(|| theirs(&verifying, direction))));
            }
            cells.push(compare(format!("{} {block_kib} KiB", direction.name()), entries, options.rounds)?);
        }
    }
    let notes = format!("{}\n\n{}", notes(&rig, options), summary(&cells));
    let standings: Vec<Standing> = cells.into_iter().flat_map(|cell| [cell.speed, cell.cpu]).collect();
    let facts = Facts::read(options.rounds);
    report::publish("NVMe tier against fio", &notes, &facts, &standings, options.out.as_deref())
}

/// Throughput and CPU of one cell.
fn compare(title: String, entries: Vec<Entry<'_>>, rounds: usize) -> Result<Cell, Failure> {
    let names: Vec<_> = entries.iter().map(|(name, _)| *name).collect();
    let ledger = RefCell::new(Ledger::default());
    let mut contest = Contest::new(title.clone(), "GB/s");
    for (name, mut run) in entries {
        let ledger = &ledger;
        contest = contest.entry(name, move || Ok(ledger.borrow_mut().note(name, run()?)));
    }
    let speed = contest.run(rounds)?;
    let rows = ledger.into_inner().rows(&names);
    Ok(Cell { cpu: Standing::of_costs(format!("{title}, CPU"), "ms/GB", rows), speed, title })
}

/// The cells in one line each.
fn summary(cells: &[Cell]) -> String {
    let mut text = "| | kvtier GB/s | fio GB/s | kvtier ÷ fio | kvtier CPU ms/GB | fio | kvtier ÷ fio | bare disk | bare disk ÷ fio | one \
                    CRC32 pass | fio, verifying |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    let shown =
        |figure: Option<f64>, digits: usize| figure.map_or("–".to_owned(), |figure| format!("{figure:.digits$}"));
    for Cell { title, speed, cpu } in cells {
        let disk = cpu.median(DISK).zip(cpu.median(FIO)).map(|(disk, fio)| disk / fio);
        let figures = [
            shown(speed.median(KVTIER), 2),
            shown(speed.median(FIO), 2),
            shown(speed.ratio(FIO), 2),
            shown(cpu.median(KVTIER), 1),
            shown(cpu.median(FIO), 1),
            shown(cpu.ratio(FIO), 2),
            shown(cpu.median(DISK), 1),
            shown(disk, 2),
            shown(cpu.median(CRC), 1),
            shown(cpu.median(FIO_VERIFYING), 1),
        ];
        text += &format!("| {title} | {} |\n", figures.join(" | "));
    }
    text
}

fn notes(rig: &Rig, options: &Options) -> String {
    format!(
        "{} blocks in flight, in batches of {}; one data file of {} MiB each for kvtier and fio, in one folder, written \
         and read from front to back. fio: io_uring, direct, fixed buffers on huge pages, registered files, no stamping of \
         buffers. CPU: all threads of the process for kvtier and the bare disk, fio's own figure of its one thread for fio; \
         less is better. kvtier sums every byte it writes or reads (INV-1); the bare disk is the same without headers and \
         sums. What limits the figures: [nvme-limit.md](nvme-limit.md).\n\nArena: {}. Disk: {}.",
        options.in_flight,
        options.batch,
        options.file_mib,
        rig.memory_detail(),
        rig.disk_detail()
    )
}
