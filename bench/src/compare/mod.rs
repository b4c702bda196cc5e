//! kvtier and its rivals on one machine, in one command.
//!
//! ```text
//!   memory    kvtier local, unix socket, TCP │ Redis │ Mooncake │ files in the page cache │ limit: memcpy, one CRC-32 pass
//!   durable   kvtier local, unix socket      │ Redis with a synced log │ files, O_DIRECT and synced │ limit: fio
//! ```
//!
//! Every cell (put or get, block size, clients) is a [`Contest`]: rounds in turns, medians. A request is a chain of
//! [`REQUEST_BYTES`] for everybody; payloads differ per block and stand in memory before the clock starts; every byte of a
//! get is read once by the same consumer. Before a contest of gets every contestant is read once with every byte
//! compared. Blocks of earlier rounds are removed from the rivals while no clock runs; kvtier makes room by itself, inside
//! of it.
//!
//! What it is not: a comparison of clusters, of networks, or of devices with memory of their own.
//!
//! Reading order: [`field`], [`contestant`], [`table`], [`promises`].

mod contestant;
mod field;
mod limit;
mod promises;
mod source;
mod table;
mod tools;

use std::cell::RefCell;
use std::error::Error;
use std::path::{Path, PathBuf};

use crate::contest::{Contest, Standing};
use crate::nvme::{Direction, Fio};
use crate::report::{self, Facts};
use contestant::Contestant;
use field::Field;
use source::Source;
use table::Cell;

type Failure = Box<dyn Error>;

/// Payload of one request: 64 blocks of 256 KiB, 16 of 1 MiB, 4 of 4 MiB.
const REQUEST_BYTES: u64 = 16 << 20;
/// Blocks fio has in flight.
const FIO_DEPTH: usize = 32;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Block sizes in KiB.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024, 4096])]
    block_kib: Vec<u32>,
    /// Clients at a time, each with connections of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4])]
    clients: Vec<usize>,
    /// Payload of one run in MiB; the durable part moves half of it.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(64..=16384))]
    run_mib: u64,
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Contestants to leave out, by name.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Folder for what has to be installed; nothing is installed elsewhere, except packages of the system.
    #[arg(long, default_value = ".kvtier/bench")]
    tools: PathBuf,
    /// Folder for blocks and logs, on the file system to be measured; emptied afterwards. Default: below --tools.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the tables here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Puts that a crash loses, gets from memory.
    Memory,
    /// Puts that survive, gets from the disk.
    Durable,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// Runs everything.
pub fn run(options: &Options) -> Result<(), Failure> {
    let lanes = options.clients.iter().copied().max().filter(|lanes| (1..=64).contains(lanes));
    let lanes = lanes.ok_or("--clients takes numbers from 1 to 64")?;
    let load = load_average();
    let tools = tools::install(&options.tools, &options.without)?;
    std::fs::create_dir_all(&options.tools)?;
    let folder = tempfile::tempdir_in(options.folder.as_ref().unwrap_or(&options.tools))?;
    let (mut memory, mut durable, mut facts_of) = (Vec::new(), Vec::new(), Vec::new());
    for kib in &options.block_kib {
        let block_bytes = kib.checked_mul(1024).filter(|bytes| u64::from(*bytes) <= REQUEST_BYTES);
        let block_bytes = block_bytes.ok_or("--block-kib takes sizes up to 16384")?;
        if options.wants(Part::Memory) {
            let source = Source::new(block_bytes, options.run_mib << 20)?;
            let mut field = Field::in_memory(&folder.path().join(format!("memory-{kib}")), &source, lanes, &tools)?;
            field.leave_out(&options.without);
            memory.extend(in_memory(field, &source, options, &mut facts_of)?);
        }
        if options.wants(Part::Durable) {
            let source = Source::new(block_bytes, options.run_mib << 19)?;
            let below = folder.path().join(format!("durable-{kib}"));
            let mut field = Field::durable(&below, &source, lanes)?;
            field.leave_out(&options.without);
            durable.extend(on_disk(field, &below, &source, options, &mut facts_of)?);
            std::fs::remove_dir_all(&below)?;
        }
    }
    facts_of.dedup();
    let notes = notes(options, &memory, &durable, &load, &facts_of);
    let standings: Vec<Standing> = memory.into_iter().chain(durable).map(|cell| cell.standing).collect();
    report::publish("kvtier and its rivals", &notes, &Facts::read(options.rounds), &standings, options.out.as_deref())
}

fn in_memory(field: Field, source: &Source, options: &Options, facts: &mut Vec<String>) -> Result<Vec<Cell>, Failure> {
    let field: Vec<_> = field.contestants.into_iter().map(RefCell::new).collect();
    let mut cells = Vec::new();
    for clients in options.clients.iter().copied() {
        for contestant in &field {
            contestant.borrow_mut().fill(source, clients)?;
        }
        cells.push(contest("get", &field, source, clients, Contestant::get).run(options.rounds, source)?);
    }
    for clients in options.clients.iter().copied() {
        cells.push(contest("put", &field, source, clients, Contestant::put).run(options.rounds, source)?);
    }
    facts.extend(field.iter().flat_map(|contestant| contestant.borrow().facts()));
    Ok(cells)
}

fn on_disk(
    field: Field,
    folder: &Path,
    source: &Source,
    options: &Options,
    facts: &mut Vec<String>,
) -> Result<Vec<Cell>, Failure> {
    let field: Vec<_> = field.contestants.into_iter().map(RefCell::new).collect();
    let fio = Fio::in_folder(folder);
    let run_fio = |direction| fio.run(direction, source.block_bytes(), source.bytes(), FIO_DEPTH);
    let with_fio = !options.without.iter().any(|name| name == "fio");
    let mut cells = Vec::new();
    for clients in options.clients.iter().copied() {
        let mut cell = contest("durable put", &field, source, clients, Contestant::put);
        if with_fio {
            cell.limit("fio", || Ok(run_fio(Direction::Write)?.gb_per_s));
        }
        cells.push(cell.run(options.rounds, source)?);
    }
    for clients in options.clients.iter().copied() {
        for contestant in field.iter().filter(|contestant| contestant.borrow().has_lower_tier()) {
            contestant.borrow_mut().fill(source, clients)?;
        }
        let mut cell = contest("cold get", &field, source, clients, Contestant::get_cold);
        if with_fio {
            cell.limit("fio", || Ok(run_fio(Direction::Read)?.gb_per_s));
        }
        cells.push(cell.run(options.rounds, source)?);
    }
    facts.extend(field.iter().flat_map(|contestant| contestant.borrow().facts()));
    Ok(cells)
}

/// A contest that will be a row of a table.
struct Row<'a> {
    operation: &'static str,
    clients: usize,
    contest: Contest<'a>,
}

type Measure = fn(&mut Contestant, &Source, usize) -> Result<f64, Failure>;

fn contest<'a>(
    operation: &'static str,
    field: &'a [RefCell<Contestant>],
    source: &'a Source,
    clients: usize,
    measure: Measure,
) -> Row<'a> {
    let plural = if clients == 1 { "" } else { "s" };
    let title = format!("{operation} {} KiB, {clients} client{plural}", source.block_bytes() >> 10);
    let mut contest = Contest::new(title, "GB/s");
    for contestant in field.iter().filter(|contestant| contestant.borrow().takes_part(operation)) {
        let name = contestant.borrow().name.clone();
        contest = contest.entry(name, move || measure(&mut contestant.borrow_mut(), source, clients));
    }
    Row { operation, clients, contest }
}

impl<'a> Row<'a> {
    fn limit(&mut self, name: &str, run: impl FnMut() -> Result<f64, Failure> + 'a) {
        let contest = std::mem::replace(&mut self.contest, Contest::new("", ""));
        self.contest = contest.entry(name, run);
    }

    fn run(self, rounds: usize, source: &Source) -> Result<Cell, Failure> {
        let Row { operation, clients, contest } = self;
        let standing = contest.run(rounds)?;
        eprint!("{}", standing.markdown());
        Ok(Cell { operation, clients, block_bytes: source.block_bytes(), standing })
    }
}

fn notes(options: &Options, memory: &[Cell], durable: &[Cell], load: &str, facts: &[String]) -> String {
    let mut notes = format!(
        "One request is a chain of {} MiB; a run moves {} MiB in memory and {} MiB durably, shared evenly by its clients. \
         Load average before the run: {load}.\n\n",
        REQUEST_BYTES >> 20,
        options.run_mib,
        options.run_mib / 2,
    );
    if !memory.is_empty() {
        notes += "## In memory\n\nGB/s. Nobody promises that a put survives.\n\n";
        notes += &table::markdown(memory, field::MEMORY_LIMIT);
    }
    if !durable.is_empty() {
        notes += "\n## Durable\n\nGB/s. A put is answered when it would survive a power failure; a get comes from the disk.\n\n";
        notes += &table::markdown(durable, "fio");
    }
    notes += &format!("\n## What each of them promises\n\n{}\n", promises::TABLE);
    notes += "\n## What they were told\n\n";
    facts.iter().for_each(|fact| notes += &format!("- {fact}\n"));
    notes + "\n## Every figure"
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
