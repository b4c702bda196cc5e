//! One contestant: a store, its sessions, and what is in it.

use std::sync::Barrier;
use std::time::Instant;

use bytes::Bytes;

use super::source::Source;
use super::{Failure, REQUEST_BYTES};
use crate::pattern::key;
use crate::target::consumer::Expected;
use crate::target::{Consumer, Put, Reading, Session, Target};

/// A store that takes part.
pub(super) struct Contestant {
    /// What tables call it.
    pub(super) name: String,
    target: Box<dyn Target>,
    sessions: Vec<Box<dyn Session>>,
    /// Keys of the newest run, by client.
    newest: Vec<Vec<Bytes>>,
    runs: u64,
    cold: bool,
}

/// What one client does in a run.
struct Work<'a> {
    session: &'a mut Box<dyn Session>,
    /// Block numbers and keys.
    blocks: Vec<(usize, Bytes)>,
}

impl Contestant {
    /// Opens a session for every client there can be.
    pub(super) fn new(target: Box<dyn Target>, lanes: usize, cold: bool) -> Result<Self, Failure> {
        let sessions = (0..lanes).map(|lane| target.session(lane)).collect::<Result<_, _>>();
        let name = target.name();
        let sessions = sessions.map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { name, target, sessions, newest: Vec::new(), runs: 0, cold })
    }

    pub(super) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Whether it can be read when memory is empty.
    pub(super) fn has_lower_tier(&self) -> bool {
        self.cold
    }

    pub(super) fn takes_part(&self, operation: &str) -> bool {
        self.cold || operation != "cold get"
    }

    /// What it promises, and what it was told.
    pub(super) fn facts(&self) -> Vec<String> {
        let mut facts = vec![format!("{}: {}", self.name, self.target.guarantees())];
        facts.extend(self.target.facts().into_iter().map(|(name, value)| format!("{}, {name}: `{value}`", self.name)));
        facts
    }

    /// Puts a run's blocks, all new; GB/s.
    pub(super) fn put(&mut self, source: &Source, clients: usize) -> Result<f64, Failure> {
        for (session, keys) in self.sessions.iter_mut().zip(self.newest.drain(..)) {
            session.forget(&keys).map_err(plain)?;
        }
        self.runs += 1;
        // Ours share a daemon: no two may use the same names.
        let space = (u64::from(crc32fast::hash(self.name.as_bytes())) << 32) + self.runs;
        let name = |client| source.share(client, clients).map(|number| key(space, number as u64)).collect();
        self.newest = (0..clients).map(name).collect();
        let per_request = per_request(source);
        let prepared: Vec<Vec<Put>> = (0..clients)
            .map(|client| {
                let numbers = source.share(client, clients);
                let keys = self.newest[client].iter().cloned();
                numbers.zip(keys).map(|(number, key)| Put { key, bytes: source.block(number) }).collect()
            })
            .collect();
        for (session, puts) in self.sessions.iter_mut().zip(&prepared) {
            session.prepare(puts).map_err(plain)?;
        }
        let lanes: Vec<_> = self.sessions.iter_mut().zip(prepared).collect();
        let took = timed(lanes, |(session, puts)| {
            for request in puts.chunks(per_request) {
                let tally = session.put(None, request)?;
                if tally.stored != request.len() {
                    return Err(format!("{tally:?} of {} blocks", request.len()).into());
                }
            }
            Ok(())
        })?;
        Ok(source.bytes() as f64 / took / 1e9)
    }

    /// Puts a run's blocks and reads each once, every byte compared with what was put.
    pub(super) fn fill(&mut self, source: &Source, clients: usize) -> Result<(), Failure> {
        let filled = self.put(source, clients).and_then(|_| self.read(source, Reading::Verify));
        filled.map_err(|error| format!("{}: {error}", self.name))?;
        Ok(())
    }

    /// Gets the newest run's blocks, every byte read once; GB/s.
    pub(super) fn get(&mut self, source: &Source, _clients: usize) -> Result<f64, Failure> {
        self.read(source, Reading::Sum)
    }

    /// The same after everything in memory was dropped.
    pub(super) fn get_cold(&mut self, source: &Source, _clients: usize) -> Result<f64, Failure> {
        self.target.chill().map_err(plain)?;
        for session in &mut self.sessions {
            // A daemon that was restarted is connected to again, while no clock runs.
            session.lookup(&[key(0, 0)]).or_else(|_| session.lookup(&[key(0, 0)])).map_err(plain)?;
        }
        self.read(source, Reading::Sum)
    }

    fn read(&mut self, source: &Source, reading: Reading) -> Result<f64, Failure> {
        let clients = self.newest.len();
        let per_request = per_request(source);
        let lanes = self.sessions.iter_mut().zip(&self.newest).enumerate().map(|(client, (session, keys))| {
            let blocks = source.share(client, clients).zip(keys.iter().cloned()).collect();
            Work { session, blocks }
        });
        let took = timed(lanes.collect(), |Work { session, blocks }| {
            for request in blocks.chunks(per_request) {
                let keys: Vec<Bytes> = request.iter().map(|(_, key)| key.clone()).collect();
                let bytes = source.block_bytes();
                let expected: Vec<Expected> =
                    request.iter().map(|(number, _)| Expected { number: *number as u64, bytes }).collect();
                let mut consumer = Consumer::new(&source.pattern, reading, &expected);
                session.get(&keys, &mut consumer)?;
                let found = consumer.finish()?;
                if found != request.len() {
                    return Err(format!("{found} of {} blocks are there", request.len()).into());
                }
            }
            Ok(())
        })?;
        Ok(source.bytes() as f64 / took / 1e9)
    }
}

fn per_request(source: &Source) -> usize {
    (REQUEST_BYTES as usize / source.block_bytes() as usize).max(1)
}

/// Runs every lane on a thread of its own, from one moment on; seconds from then until the last has ended.
fn timed<L: Send>(lanes: Vec<L>, run: impl Fn(L) -> Result<(), crate::target::Failure> + Sync) -> Result<f64, Failure> {
    let (start, run) = (Barrier::new(lanes.len()), &run);
    let start = &start;
    let spans = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|lane| {
                scope.spawn(move || {
                    start.wait();
                    let begun = Instant::now();
                    run(lane).map(|()| (begun, Instant::now()))
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| "a client's thread panicked")?);
        ended.collect::<Result<Vec<_>, crate::target::Failure>>()
    });
    let spans = spans.map_err(plain)?;
    let begun = spans.iter().map(|(begun, _)| *begun).min().ok_or("no client ran")?;
    let ended = spans.iter().map(|(_, ended)| *ended).max().ok_or("no client ran")?;
    Ok(ended.duration_since(begun).as_secs_f64())
}

/// The same error, for one thread.
fn plain(error: crate::target::Failure) -> Failure {
    error
}
