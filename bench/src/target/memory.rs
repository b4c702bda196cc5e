//! `memory`: a table in this process. The harness's own ceiling, and what its tests run against.
//!
//! A put copies the payload once, a get is read in place: what is measured is the harness itself, the generator of
//! payloads, and this machine's memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};

type Table = BTreeMap<Bytes, Arc<[u8]>>;

/// A table behind a lock.
#[derive(Debug, Default)]
pub struct Memory {
    table: Arc<Mutex<Table>>,
    /// Where a byte of every stored block is wrong, for those who test that it is found.
    wrong_at: Option<usize>,
}

impl Memory {
    /// An empty one.
    pub fn open(setup: &Setup) -> Result<Self, Failure> {
        match (setup.durable, &setup.endpoint) {
            (true, _) => Err("target=memory keeps nothing, so sync=1 cannot be kept; use target=local".into()),
            (_, Some(_)) => Err("target=memory is in this process: it has no endpoint".into()),
            _ => Ok(Self::default()),
        }
    }
}

impl Memory {
    /// One that flips a bit of every block at this offset: what a run must find.
    pub fn lying(offset: usize) -> Self {
        Self { wrong_at: Some(offset), ..Self::default() }
    }
}

impl Target for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn guarantees(&self) -> String {
        "none: a table in the harness's own process, to see what the harness itself costs".to_owned()
    }

    fn session(&self, _lane: usize) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(MemorySession { table: Arc::clone(&self.table), wrong_at: self.wrong_at }))
    }
}

struct MemorySession {
    table: Arc<Mutex<Table>>,
    wrong_at: Option<usize>,
}

impl MemorySession {
    fn found(&self, keys: &[Bytes]) -> Vec<Arc<[u8]>> {
        let table = self.table.lock().expect("nobody panics with the table");
        keys.iter().map_while(|key| table.get(key).cloned()).collect()
    }
}

impl Session for MemorySession {
    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        let mut tally = PutTally::default();
        for Put { key, bytes } in blocks {
            let mut copy: Arc<[u8]> = Arc::from(&bytes[..]);
            if let Some(wrong) = self.wrong_at.and_then(|at| Arc::get_mut(&mut copy)?.get_mut(at)) {
                *wrong ^= 1;
            }
            let mut table = self.table.lock().expect("nobody panics with the table");
            match table.insert(key.clone(), copy) {
                None => tally.stored += 1,
                Some(_) => tally.duplicate += 1,
            }
        }
        Ok(tally)
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        Ok(self.found(keys).len())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        for (index, bytes) in self.found(keys).iter().enumerate() {
            consumer.bytes(index, bytes);
        }
        Ok(())
    }
}
