//! A log in memory with everything around it in the test's hands: time, disk, and when tasks run.

pub mod clock;
pub mod folder;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::{LocalPool, block_on};
use futures::task::LocalSpawnExt;
use kvtier_engine::port::{Journal, JournalError, Position, ReadRefused, Record};
use kvtier_wal::conformance::sample;
use kvtier_wal::{Recovered, Settings, Wal, WalError};

pub use clock::ManualClock;
pub use folder::MemFolder;

pub struct World {
    pub pool: LocalPool,
    pub folder: MemFolder,
    pub clock: Arc<ManualClock>,
    pub wal: Arc<Wal>,
    pub recovered: Recovered,
}

pub fn settings() -> Settings {
    Settings { log_id: 0xfeed, ..Settings::default() }
}

impl World {
    pub fn open(folder: &MemFolder, settings: Settings, covered_seq: u64) -> Result<Self, WalError> {
        let clock = Arc::new(ManualClock::default());
        let port: Arc<ManualClock> = Arc::clone(&clock);
        let opened = block_on(Wal::open(Rc::new(folder.clone()), port, settings, covered_seq))?;
        let (wal, writer, recovered) = opened;
        let pool = LocalPool::new();
        pool.spawner().spawn_local(writer.run()).unwrap();
        Ok(Self { pool, folder: folder.clone(), clock, wal, recovered })
    }

    pub fn new(settings: Settings) -> Self {
        Self::open(&MemFolder::default(), settings, 0).unwrap()
    }

    /// Lets the writer do all it can without time passing.
    pub fn run(&mut self) {
        self.pool.run_until_stalled();
    }

    pub fn advance(&mut self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        self.run();
    }

    pub fn append(&self, numbers: std::ops::Range<u32>) -> Position {
        self.wal.append(numbers.map(sample).collect()).unwrap()
    }

    /// Appends and waits until durable.
    pub fn store(&mut self, numbers: std::ops::Range<u32>) -> Position {
        let position = self.append(numbers);
        self.durable(position.seq).unwrap();
        position
    }

    pub fn durable(&mut self, seq: u64) -> Result<(), JournalError> {
        let durable = self.wal.durable(seq);
        self.pool.run_until(durable)
    }

    pub fn wal_read(&self, after: u64) -> kvtier_engine::port::BoxFuture<Result<Vec<(Position, Record)>, ReadRefused>> {
        self.wal.read(after, 1 << 16)
    }

    pub fn read(&mut self, after: u64) -> Result<Vec<(Position, Record)>, ReadRefused> {
        let read = self.wal.read(after, 1 << 16);
        self.pool.run_until(read)
    }

    /// Everything from the oldest on, page by page.
    pub fn read_all(&mut self, mut after: u64) -> Vec<(Position, Record)> {
        let mut all = vec![];
        loop {
            let page = self.read(after).unwrap();
            let Some((last, _)) = page.last() else { return all };
            after = last.seq;
            all.extend(page);
        }
    }

    /// Closes cleanly.
    pub fn close(mut self) -> MemFolder {
        self.wal.close();
        self.pool.run();
        self.folder.clone()
    }

    /// The process dies; the machine goes on.
    pub fn kill(self) -> MemFolder {
        self.folder.kill()
    }
}

/// The records without the resets.
pub fn plain(records: &[(Position, Record)]) -> Vec<(u64, Record)> {
    let kept = records.iter().filter(|(_, record)| !matches!(record, Record::Reset { .. }));
    kept.map(|(position, record)| (position.seq, record.clone())).collect()
}

/// Numbers and samples as they would be read back.
pub fn samples(first_seq: u64, numbers: std::ops::Range<u32>) -> Vec<(u64, Record)> {
    (first_seq..).zip(numbers.map(sample)).collect()
}
