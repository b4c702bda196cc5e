//! What the local path costs: against plain memory of the same process, and against gRPC.
//!
//! Reading and writing are contests against the same loop over memory of our own; latencies are distributions of single
//! calls, with their rivals in turns.

mod handover;
mod idle;
mod reading;
mod soak;
mod writing;

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvtier_client::local::{Commitment, Committed, ReserveChain, Slot};
use kvtier_client::{Client, LocalClient, LocalOptions, SpaceDescription, SpaceDigest};

use crate::daemon::Daemon;
use crate::grpc::drive::Target;
use crate::report::{self, Facts};

type Failure = Box<dyn Error>;

/// Bytes of a block that is read or written.
const BLOCK_BYTES: u32 = 1 << 20;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Single calls behind every latency.
    #[arg(long, default_value_t = 20_000)]
    calls: usize,
    /// Clients that are attached and idle.
    #[arg(long, default_value_t = 1000)]
    idle_clients: usize,
    /// Acquire and release so often, and compare memory, descriptors and leases before and after.
    #[arg(long, default_value_t = 0)]
    soak: u64,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Write the table here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Reading in place.
    Read,
    /// Writing in place.
    Write,
    /// Latency of acquiring.
    Handover,
    /// Idle clients.
    Idle,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// A daemon with a space, and how to attach to it.
struct Node {
    daemon: Daemon,
    folder: PathBuf,
    space: SpaceDigest,
}

impl Node {
    fn start(folder: &Path, settings: &[&str]) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder.join("data"))?;
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let daemon = Daemon::start(folder, &settings)?;
        let Target::Unix(socket) = daemon.unix() else { return Err("a daemon has a unix socket".into()) };
        let endpoint = format!("unix://{}", socket.display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let space = runtime.block_on(async {
            let client = Client::connect(&endpoint).await?;
            let description = SpaceDescription::single_part("bench", "bench", 16, BLOCK_BYTES);
            Ok::<_, Failure>(client.open_space("bench", &description).await?.space)
        })?;
        Ok(Self { daemon, folder: folder.to_owned(), space })
    }

    fn attach(&self, options: LocalOptions) -> Result<LocalClient, Failure> {
        Ok(LocalClient::connect(self.folder.join("data/local.sock"), options)?)
    }

    fn writer(&self) -> Result<LocalClient, Failure> {
        self.attach(LocalOptions::writer("bench", "bench"))
    }
}

/// Keys of 32 bytes, as a vLLM worker has them.
fn keys(name: &str, count: usize) -> Vec<Bytes> {
    (0..count).map(|at| Bytes::copy_from_slice(blake(name, at).as_slice())).collect()
}

fn blake(name: &str, at: usize) -> [u8; 32] {
    // Any 32 bytes that differ will do.
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().zip(format!("{at:08x}{name:-<24}").bytes()) {
        *place = byte;
    }
    key
}

/// Puts a chain whose bytes `fill` writes.
fn put(
    client: &LocalClient,
    space: SpaceDigest,
    keys: &[Bytes],
    length: u32,
    mut fill: impl FnMut(&mut [u8]),
) -> Result<(), Failure> {
    let slots = client.reserve(&ReserveChain::new(space, keys, length))?;
    let mut written: Vec<Commitment> = Vec::with_capacity(slots.len());
    for slot in slots {
        match slot {
            Slot::Write(mut reservation) => {
                fill(&mut reservation);
                written.push(reservation.into());
            }
            other => return Err(format!("no slot was given: {other:?}").into()),
        }
    }
    commit(client, written)
}

/// Commits blocks; every one must be stored, or nothing was measured.
fn commit(client: &LocalClient, written: Vec<Commitment>) -> Result<(), Failure> {
    match client.commit(written)?.into_iter().find(|committed| !matches!(committed, Committed::Stored { .. })) {
        None => Ok(()),
        Some(other) => Err(format!("a block was not stored: {other:?}").into()),
    }
}

/// Runs everything.
pub fn run(options: &Options) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let settings = ["host.bytes=1GiB", "nvme.enabled=false", "local.client_blocks_max=4096", "log.level=warn"];
    let node = Node::start(&folder.path().join("main"), &settings)?;
    node.daemon.settle(1 << 30)?;
    let mut standings = Vec::new();
    if options.wants(Part::Read) {
        standings.push(reading::contest(&node, options.rounds)?);
    }
    if options.wants(Part::Write) {
        standings.push(writing::contest(&node, options.rounds)?);
    }
    let mut notes = String::from(NOTES);
    if options.wants(Part::Handover) {
        writeln!(notes, "\n\n{}", handover::table(&node, folder.path(), options.calls)?)?;
    }
    if options.wants(Part::Idle) {
        writeln!(notes, "\n{}", idle::measure(folder.path(), options.idle_clients)?)?;
    }
    if options.soak > 0 {
        writeln!(notes, "\n{}", soak::run(&node, options.soak)?)?;
    }
    let facts = Facts::read(options.rounds);
    report::publish("The local path", &notes, &facts, &standings, options.out.as_deref())
}

const NOTES: &str = "Reading: chains of 64 blocks of 1 MiB, acquired, every byte added up, released; 512 MiB a run. \
    \"One chain ahead\" has the next chain leased meanwhile (`begin_acquire`). Writing: 512 blocks of 1 MiB a run, reserved and committed 4 at a time; the daemon checksums what the client has \
    written. \"One commit ahead\" writes the next blocks meanwhile (`begin_commit`), \"two threads\" does so with a thread \
    that only commits. The rivals do the same to memory of \
    their own process. Daemon and client share the machine's cores.";
