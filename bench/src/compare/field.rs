//! Who takes part, and how each is run: memory of its own up front, and the settings its documents recommend for this.

use std::path::Path;

use super::Failure;
use super::contestant::Contestant;
use super::limit::Memcpy;
use super::source::Source;
use super::tools::Tools;
use crate::target::files::Files;
use crate::target::grpc::{Grpc, Over};
use crate::target::local::Local;
use crate::target::mooncake::Mooncake;
use crate::target::redis::{Door, Redis};
use crate::target::{Setup, Target};

/// The physical limit of the memory part.
pub(super) const MEMORY_LIMIT: &str = "memcpy";
/// Ours; the first one is the one ratios are of.
pub(super) const OURS: [&str; 3] = ["kvtier local", "kvtier uds", "kvtier tcp"];

/// Everybody who takes part, ours first.
pub(super) struct Field {
    pub(super) contestants: Vec<Contestant>,
}

fn setup(folder: &Path, source: &Source, lanes: usize, runs: u64, durable: bool) -> Setup {
    Setup {
        folder: folder.to_owned(),
        block_bytes_max: source.block_bytes(),
        data_bytes: source.bytes() * runs,
        memory_bytes: source.bytes() * runs,
        lanes,
        durable,
        endpoint: None,
    }
}

impl Field {
    /// Contestants that keep blocks in memory. One daemon serves all three of ours.
    pub(super) fn in_memory(folder: &Path, source: &Source, lanes: usize, tools: &Tools) -> Result<Self, Failure> {
        let below = |name: &str, runs| setup(&folder.join(name), source, lanes, runs, false);
        let node = folder.join("kvtier");
        // Three newest runs at a time, and one that is being written.
        let ours = create(&node, || Local::resident(&below("kvtier", 4)))?;
        let door = |over| {
            let endpoint = Some(node.join("data").display().to_string());
            Grpc::open(&Setup { endpoint, ..below("kvtier", 4) }, over)
        };
        let targets: [(&str, Opened); 3] =
            [(OURS[0], opened(Ok(ours))), (OURS[1], opened(door(Over::Unix))), (OURS[2], opened(door(Over::Tcp)))];
        let mut field = Self { contestants: Vec::new() };
        for (name, target) in targets {
            field.add(Some(name), target, lanes, false)?;
        }
        field.add(None, opened(Redis::open(&below("redis-uds", 1), Door::Unix)), lanes, false)?;
        field.add(None, opened(Redis::open(&below("redis-tcp", 1), Door::Tcp)), lanes, false)?;
        if let Some(environment) = &tools.mooncake {
            field.add(None, opened(Mooncake::open(&below("mooncake-tcp", 1), environment, false)), lanes, false)?;
            field.add(None, opened(Mooncake::open(&below("mooncake-own", 1), environment, true)), lanes, false)?;
        }
        field.add(None, opened(Files::open(&below("files", 1), false)), lanes, false)?;
        let bytes = usize::try_from(source.bytes())?;
        field.add(None, opened(Ok(Memcpy { bytes })), lanes, false)?;
        Ok(field)
    }

    /// Contestants whose puts survive a power failure.
    pub(super) fn durable(folder: &Path, source: &Source, lanes: usize) -> Result<Self, Failure> {
        let below = |name: &str, runs| setup(&folder.join(name), source, lanes, runs, true);
        let node = folder.join("kvtier");
        let ours = create(&node, || Local::open(&below("kvtier", 4)))?;
        let endpoint = Some(node.join("data").display().to_string());
        let unix = Grpc::open(&Setup { endpoint, ..below("kvtier", 4) }, Over::Unix);
        let mut field = Self { contestants: Vec::new() };
        field.add(Some(OURS[0]), opened(Ok(ours)), lanes, true)?;
        // Its daemon is restarted by the first one, not by itself, so it cannot be read cold.
        field.add(Some(OURS[1]), opened(unix), lanes, false)?;
        field.add(None, opened(Redis::open(&below("redis-uds", 1), Door::Unix)), lanes, false)?;
        field.add(None, opened(Files::open(&below("files-direct", 1), true)), lanes, true)?;
        Ok(field)
    }

    fn add(&mut self, name: Option<&str>, target: Opened, lanes: usize, cold: bool) -> Result<(), Failure> {
        let contestant = Contestant::new(target?, lanes, cold)?;
        self.contestants.push(match name {
            Some(name) => contestant.named(name),
            None => contestant,
        });
        Ok(())
    }

    /// Takes contestants out, by name.
    pub(super) fn leave_out(&mut self, names: &[String]) {
        self.contestants.retain(|contestant| !names.contains(&contestant.name));
    }
}

type Opened = Result<Box<dyn Target>, Failure>;

fn opened<T: Target + 'static>(target: Result<T, crate::target::Failure>) -> Opened {
    match target {
        Ok(target) => Ok(Box::new(target)),
        Err(error) => Err(error),
    }
}

fn create<T>(folder: &Path, open: impl FnOnce() -> Result<T, crate::target::Failure>) -> Result<T, Failure> {
    std::fs::create_dir_all(folder.join("data"))?;
    open().map_err(|error| -> Failure { error })
}
