//! One lane: a thread with a session that has one request in flight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::chains::Chains;
use super::clock::Clock;
use super::replay::Replay;
use super::source::{Deed, Source, Ticket};
use super::tally::{Kind, Moved, Tally, Times};
use crate::job::Job;
use crate::pattern::Pattern;
use crate::target::consumer::Expected;
use crate::target::{Consumer, Failure, Put, Reading, Session};

/// Payload buffers a lane keeps for the next put.
const SPARE_MAX: usize = 4096;

/// Where a lane's requests come from.
pub enum Requests<'a> {
    /// A client's own.
    Made(&'a Mutex<Source>),
    /// A trace's.
    Traced(&'a Replay),
}

/// What all lanes of a job share.
pub struct Surroundings<'a> {
    /// The job.
    pub job: &'a Job,
    /// Its chains.
    pub chains: &'a Chains,
    /// Its payloads.
    pub pattern: &'a Pattern,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Somebody has failed: end.
    pub stopped: &'a AtomicBool,
}

/// A lane at work.
pub struct Lane<'a> {
    around: &'a Surroundings<'a>,
    session: Box<dyn Session>,
    spare: Vec<BytesMut>,
    tally: Tally,
}

impl<'a> Lane<'a> {
    /// Nothing counted yet.
    pub fn new(around: &'a Surroundings<'a>, session: Box<dyn Session>) -> Self {
        Self { around, session, spare: Vec::new(), tally: Tally::default() }
    }

    /// Serves requests until there are none. A failure stops the other lanes too.
    pub fn work(mut self, requests: &Requests<'_>) -> Result<Tally, Failure> {
        let around = self.around;
        while !around.stopped.load(Ordering::Relaxed) {
            let ticket = match requests {
                Requests::Made(source) => source.lock().expect("nobody panics while choosing").next(around.clock.now()),
                Requests::Traced(replay) => replay.next(around.clock, around.chains),
            };
            let Some(ticket) = ticket else { break };
            let served = self.serve(&ticket, requests);
            if let Err(failure) = served {
                around.stopped.store(true, Ordering::Relaxed);
                if let Requests::Traced(replay) = requests {
                    replay.give_up();
                }
                return Err(failure);
            }
            if !around.job.thinktime.is_zero() {
                around.clock.wait_until(around.clock.now() + around.job.thinktime);
            }
        }
        Ok(self.tally)
    }

    fn serve(&mut self, ticket: &Ticket, requests: &Requests<'_>) -> Result<(), Failure> {
        let keys: Vec<Bytes> = ticket.blocks.iter().map(|block| self.around.chains.key(block)).collect();
        match ticket.deed {
            Deed::Put => {
                let puts = self.payloads(&keys, &ticket.blocks)?;
                let due = self.wait(ticket.due);
                self.put(None, puts, due)
            }
            Deed::Get => {
                let due = self.wait(ticket.due);
                self.get(&keys, &ticket.blocks, due).map(drop)
            }
            Deed::Lookup => {
                let due = self.wait(ticket.due);
                self.lookup(&keys, due).map(drop)
            }
            Deed::Serve(at) => {
                let due = self.wait(ticket.due);
                if let Requests::Traced(replay) = requests {
                    replay.wait_for_turn(at);
                }
                let served = self.serve_traced(&keys, &ticket.blocks, due);
                if let Requests::Traced(replay) = requests {
                    replay.done(at);
                }
                served
            }
            Deed::Expired => {
                let due = ticket.due.unwrap_or_default();
                // What it would have been is not known any more; most of a job's requests are of one kind.
                let kind = if self.around.job.rw.reads() { Kind::Read } else { Kind::Write };
                self.tally.note_expired(kind, due, self.around.clock.now(), self.around.job.ramp_time);
                Ok(())
            }
        }
    }

    /// What an engine does: look the chain up, get the prefix that is there, compute (not here) and put the rest.
    fn serve_traced(&mut self, keys: &[Bytes], blocks: &[Expected], due: Times) -> Result<(), Failure> {
        let found = self.lookup(keys, due)?;
        let got = match found {
            0 => 0,
            found => self.get(&keys[..found], &blocks[..found], due)?,
        };
        if got == keys.len() {
            return Ok(());
        }
        let puts = self.payloads(&keys[got..], &blocks[got..])?;
        let now = self.around.clock.now();
        let parent = got.checked_sub(1).map(|last| keys[last].clone());
        self.put(parent.as_ref(), puts, Times { due: now, begun: now, done: now })
    }

    fn put(&mut self, parent: Option<&Bytes>, puts: Vec<Put>, times: Times) -> Result<(), Failure> {
        let tally = self.session.put(parent, &puts)?;
        let done = self.around.clock.now();
        if tally.stored + tally.duplicate + tally.declined != puts.len() {
            return Err(format!("{} blocks were put and {tally:?} is what became of them", puts.len()).into());
        }
        let bytes: usize = puts.iter().map(|put| put.bytes.len()).sum();
        let moved = Moved {
            asked_blocks: puts.len() as u64,
            blocks: tally.stored as u64,
            // Of a chain that was taken in part, that part; sizes are alike.
            bytes: (bytes as u128 * tally.stored as u128 / puts.len().max(1) as u128) as u64,
            duplicate_blocks: tally.duplicate as u64,
            declined_blocks: tally.declined as u64,
        };
        self.tally.note(Kind::Write, Times { done, ..times }, moved, self.around.job.ramp_time);
        for put in puts {
            if let Ok(buffer) = put.bytes.try_into_mut()
                && self.spare.len() < SPARE_MAX
            {
                self.spare.push(buffer);
            }
        }
        Ok(())
    }

    /// How many blocks were read and right.
    fn get(&mut self, keys: &[Bytes], blocks: &[Expected], times: Times) -> Result<usize, Failure> {
        let reading = if self.around.job.verify { Reading::Verify } else { Reading::Sum };
        let mut consumer = Consumer::new(self.around.pattern, reading, blocks);
        self.session.get(keys, &mut consumer)?;
        let done = self.around.clock.now();
        let why = consumer.take_miss();
        let read = consumer.finish()?;
        let moved = Moved {
            asked_blocks: keys.len() as u64,
            blocks: read as u64,
            bytes: blocks[..read].iter().map(|block| u64::from(block.bytes)).sum(),
            ..Moved::default()
        };
        if read < keys.len() {
            self.tally.note_miss(why.as_deref().unwrap_or("not there"), (keys.len() - read) as u64);
        }
        self.tally.note(Kind::Read, Times { done, ..times }, moved, self.around.job.ramp_time);
        Ok(read)
    }

    fn lookup(&mut self, keys: &[Bytes], times: Times) -> Result<usize, Failure> {
        let found = self.session.lookup(keys)?;
        let done = self.around.clock.now();
        if found > keys.len() {
            return Err(format!("{found} of {} blocks were found", keys.len()).into());
        }
        let moved = Moved { asked_blocks: keys.len() as u64, blocks: found as u64, ..Moved::default() };
        self.tally.note(Kind::Lookup, Times { done, ..times }, moved, self.around.job.ramp_time);
        Ok(found)
    }

    /// Waits until a request is due. In a closed loop that is now.
    fn wait(&self, due: Option<Duration>) -> Times {
        if let Some(due) = due {
            self.around.clock.wait_until(due);
        }
        let begun = self.around.clock.now();
        Times { due: due.unwrap_or(begun), begun, done: begun }
    }

    /// Makes what will be put, and lets the session have it where it needs it.
    fn payloads(&mut self, keys: &[Bytes], blocks: &[Expected]) -> Result<Vec<Put>, Failure> {
        let puts = payloads(self.around.pattern, &mut self.spare, keys, blocks);
        self.session.prepare(&puts)?;
        Ok(puts)
    }
}

/// Makes the payloads of a chain, in buffers that are there already.
pub fn payloads(pattern: &Pattern, spare: &mut Vec<BytesMut>, keys: &[Bytes], blocks: &[Expected]) -> Vec<Put> {
    let make = |(key, block): (&Bytes, &Expected)| {
        let mut buffer = spare.pop().unwrap_or_default();
        buffer.resize(block.bytes as usize, 0);
        pattern.fill(block.number, &mut buffer);
        Put { key: key.clone(), bytes: buffer.freeze() }
    };
    keys.iter().zip(blocks).map(make).collect()
}

/// Which requests of a trace are done, for those that must come after them.
#[derive(Debug, Default)]
pub struct Turns {
    done: Mutex<(Vec<bool>, bool)>,
    changed: Condvar,
}

impl Turns {
    /// Of so many requests.
    pub fn of(count: usize) -> Self {
        Self { done: Mutex::new((vec![false; count], false)), changed: Condvar::new() }
    }

    /// Returns when that request is done, or everybody has given up. It was taken before, by a lane that is at work on it.
    pub fn wait(&self, at: usize) {
        let done = self.done.lock().expect("nobody panics with it");
        drop(self.changed.wait_while(done, |(done, over)| !done[at] && !*over).expect("nobody panics with it"));
    }

    /// It is done.
    pub fn note(&self, at: usize) {
        self.done.lock().expect("nobody panics with it").0[at] = true;
        self.changed.notify_all();
    }

    /// Nobody will be done any more.
    pub fn give_up(&self) {
        self.done.lock().expect("nobody panics with it").1 = true;
        self.changed.notify_all();
    }
}
