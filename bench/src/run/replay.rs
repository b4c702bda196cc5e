//! A trace as a source of requests.
//!
//! The requests of one session follow each other; those of others run beside them, as many as there are lanes. At a speed
//! the loop is open: a request is due when the trace says so, and what a slow answer to the one before in its session
//! makes it wait counts too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::chains::Chains;
use super::clock::Clock;
use super::lane::Turns;
use super::source::{Deed, Ticket};
use crate::job::{CHAIN_BLOCKS_MAX, Job, Speed};
use crate::target::Failure;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LINE_BYTES_MAX: u64 = 16 << 20;
const REQUESTS_MAX: u64 = 10_000_000;
/// Blocks of a trace; their numbers share 58 bits with a job's.
const BLOCK_MAX: u64 = 1 << 58;

/// The first line of a trace.
#[derive(Debug, Clone, Deserialize)]
pub struct Header {
    /// Tokens per block.
    #[serde(rename = "block")]
    pub tokens_per_block: u32,
    /// Its name.
    pub name: String,
}

/// One request.
#[derive(Debug, Clone, Deserialize)]
struct Request {
    #[serde(rename = "t")]
    seconds: f64,
    #[serde(rename = "s")]
    session: i64,
    #[serde(rename = "h")]
    runs: Vec<(u64, u32)>,
}

/// A trace and how far it is.
#[derive(Debug)]
pub struct Replay {
    /// What it is.
    pub header: Header,
    requests: Vec<Request>,
    before: Vec<Option<usize>>,
    turns: Turns,
    next: AtomicUsize,
    speed: Speed,
    end: Option<Duration>,
}

impl Replay {
    /// Reads the trace of a job.
    pub fn open(path: &Path, job: &Job) -> Result<Self, Failure> {
        let read = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = BufReader::new(File::open(path).map_err(read)?);
        let magic = file.fill_buf().map_err(read)?;
        let (header, requests) = if magic.starts_with(&ZSTD_MAGIC) {
            let decoder = zstd::Decoder::with_buffer(file).map_err(read)?;
            parse(BufReader::new(decoder), job.trace_limit)
        } else {
            parse(file, job.trace_limit)
        }
        .map_err(|why| format!("{}: {why}; traces are described in bench/traces/README.md", path.display()))?;
        let before = turns(&requests);
        let (turns, next) = (Turns::of(requests.len()), AtomicUsize::new(0));
        Ok(Self { header, before, turns, next, speed: job.trace_speed, end: job.runtime, requests })
    }

    /// Different blocks that can be put.
    pub fn distinct_blocks(&self) -> u64 {
        // Ids are dense.
        self.requests.iter().flat_map(|request| &request.runs).map(|run| run.0 + u64::from(run.1)).max().unwrap_or(0)
    }

    /// The next request; none: it is over.
    pub fn next(&self, clock: &dyn Clock, chains: &Chains) -> Option<Ticket> {
        if self.end.is_some_and(|end| clock.now() >= end) {
            return None;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let request = self.requests.get(at)?;
        let due = match self.speed {
            Speed::Max => None,
            Speed::Times(times) => Some(Duration::try_from_secs_f64(request.seconds / times).unwrap_or(Duration::MAX)),
        };
        if due.is_some_and(|due| self.end.is_some_and(|end| due >= end)) {
            return None;
        }
        let blocks = request.runs.iter().flat_map(|run| run.0..run.0 + u64::from(run.1));
        Some(Ticket { deed: Deed::Serve(at), blocks: blocks.map(|block| chains.numbered(block)).collect(), due })
    }

    /// Waits until the request before in the same session is done.
    pub fn wait_for_turn(&self, at: usize) {
        if let Some(before) = self.before[at] {
            self.turns.wait(before);
        }
    }

    /// A request is done.
    pub fn done(&self, at: usize) {
        self.turns.note(at);
    }

    /// A lane has failed: nobody needs to wait for it.
    pub fn give_up(&self) {
        self.turns.give_up();
    }
}

fn parse(mut from: impl BufRead, limit: Option<u64>) -> Result<(Header, Vec<Request>), String> {
    let (mut line, mut number) = (String::new(), 0_u64);
    let mut read = |line: &mut String| {
        number += 1;
        line.clear();
        let bytes = from.by_ref().take(LINE_BYTES_MAX).read_line(line);
        match bytes.map_err(|error| format!("line {number}: {error}"))? as u64 {
            LINE_BYTES_MAX => Err(format!("line {number} is longer than 16 MiB")),
            _ => Ok((number, !line.trim().is_empty())),
        }
    };
    if !read(&mut line)?.1 {
        return Err("the file is empty".into());
    }
    let header: Header = serde_json::from_str(&line).map_err(|error| format!("line 1: {error}"))?;
    let mut requests = Vec::new();
    while (requests.len() as u64) < limit.unwrap_or(REQUESTS_MAX) {
        let (number, more) = read(&mut line)?;
        if !more {
            break;
        }
        let request: Request = serde_json::from_str(&line).map_err(|error| format!("line {number}: {error}"))?;
        check(&request).map_err(|why| format!("line {number}: {why}"))?;
        requests.push(request);
    }
    match requests.is_empty() {
        true => Err("there are no requests".into()),
        false => Ok((header, requests)),
    }
}

fn check(request: &Request) -> Result<(), String> {
    let blocks: u64 = request.runs.iter().map(|run| u64::from(run.1)).sum();
    if blocks == 0 || blocks > u64::from(CHAIN_BLOCKS_MAX) {
        return Err(format!("a chain of {blocks} blocks; 1 to {CHAIN_BLOCKS_MAX} are allowed"));
    }
    if request.runs.iter().any(|run| run.0 >= BLOCK_MAX - u64::from(CHAIN_BLOCKS_MAX)) {
        return Err("a block's number is too large".into());
    }
    match request.seconds.is_finite() && request.seconds >= 0.0 {
        true => Ok(()),
        false => Err(format!("time {} is not a number of seconds", request.seconds)),
    }
}

/// For every request, the place of the one before it in its session.
fn turns(requests: &[Request]) -> Vec<Option<usize>> {
    let mut last = BTreeMap::new();
    let before = requests.iter().enumerate().map(|(at, request)| {
        let in_session = request.session >= 0;
        in_session.then(|| last.insert(request.session, at)).flatten()
    });
    before.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "{\"block\": 512, \"name\": \"n\"}\n";

    fn read(text: &str) -> Result<Vec<Request>, String> {
        parse(text.as_bytes(), None).map(|(_, requests)| requests)
    }

    #[test]
    fn the_turns_of_a_session_follow_each_other() {
        let line = |session| format!("{{\"t\":0,\"s\":{session},\"h\":[[0,1]]}}\n");
        let text = [1, 2, -1, 1, -1, 1].map(line).concat();
        let requests = read(&format!("{HEADER}{text}")).expect("six requests");
        assert_eq!(turns(&requests), [None, None, None, Some(0), None, Some(3)]);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        for (text, expected) in [
            (String::new(), "empty"),
            (format!("{HEADER}nonsense"), "line 2"),
            (HEADER.to_owned(), "no requests"),
            (format!("{HEADER}{{\"t\":0,\"s\":1,\"h\":[]}}"), "a chain of 0 blocks"),
            (format!("{HEADER}{{\"t\":-1,\"s\":1,\"h\":[[0,1]]}}"), "time -1"),
            (format!("{HEADER}{{\"t\":0,\"s\":1,\"h\":[[18446744073709551615,1]]}}"), "too large"),
        ] {
            let why = read(&text).expect_err(expected);
            assert!(why.contains(expected), "{why}");
        }
    }
}
