//! `mooncake-tcp` and `mooncake-own`: the Mooncake store, through its Python binding in a process per lane.
//!
//! ```text
//!   session ── lines ──> python (mooncake_lane.py)── C++ client, without the GIL ──> TCP ──> storage process
//!      │                    │ reads a get's bytes once, itself                       mooncake_master: where what is
//!      └─ payloads of puts ─┘ in a file both have, filled by `prepare`
//! ```
//!
//! Two ways to run it. *tcp*: blocks live in a process of their own, as with a service on the node; lanes have no memory in
//! the store. *own*: every lane keeps its blocks in its own process (`preferred_segment`, `MC_STORE_MEMCPY=1`), so that a
//! put or get of its own block is a memcpy; the blocks die with the worker.
//!
//! What a line costs is measured when a session opens and told among the facts; payloads are never in one.
//!
//! Processes end with the session (standard input closes) or the target. A lane that dies answers nothing: the run fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::consumer::Reading;
use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};
use crate::process::{Process, free_port};

const LANE: &str = include_str!("mooncake_lane.py");
/// Payload bytes of one request.
const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Empty lines behind the cost of one.
const PROBES: u32 = 200;

/// A master, a metadata server and, unless lanes keep blocks themselves, a process that stores them.
pub struct Mooncake {
    program: PathBuf,
    script: PathBuf,
    rpc: u16,
    metadata: u16,
    own: bool,
    setup: Setup,
    line_cost: Mutex<Option<Duration>>,
    /// Ended in this order: who stores before who knows.
    _storage: Option<Lane>,
    _master: Process,
}

impl Mooncake {
    /// Starts one with the programs of a Python environment that has the package.
    pub fn open(setup: &Setup, environment: &Path, own: bool) -> Result<Self, Failure> {
        if setup.durable || setup.endpoint.is_some() {
            return Err("mooncake is started by the run, in memory only: leave sync and endpoint out".into());
        }
        std::fs::create_dir_all(&setup.folder)?;
        let script = setup.folder.join("lane.py");
        std::fs::write(&script, LANE)?;
        let port = || free_port().map_err(|error| error.to_string());
        let (rpc, metadata, metrics) = (port()?, port()?, port()?);
        let mut master = Command::new(environment.join("bin/mooncake_master"));
        master.args(["-rpc_address=127.0.0.1", "-metrics_host=127.0.0.1", "-enable_metric_reporting=false"]);
        master.args(["-enable_http_metadata_server=true", "-http_metadata_server_host=127.0.0.1"]);
        master.arg(format!("-rpc_port={rpc}")).arg(format!("-metrics_port={metrics}"));
        master.arg(format!("-http_metadata_server_port={metadata}"));
        let listens = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        let master = Process::start(&mut master, || listens(rpc) && listens(metadata));
        let mut mooncake = Self {
            program: environment.join("bin/python"),
            script,
            rpc,
            metadata,
            own,
            setup: setup.clone(),
            line_cost: Mutex::default(),
            _storage: None,
            _master: master.map_err(|error| error.to_string())?,
        };
        if !own {
            mooncake._storage = Some(mooncake.start(mooncake.segment_bytes(), None)?);
        }
        Ok(mooncake)
    }

    /// Twice what is put, since blocks of the last run are there until they are removed.
    fn segment_bytes(&self) -> u64 {
        (self.setup.data_bytes * 2).next_multiple_of(16 << 20) + (64 << 20)
    }

    fn start(&self, segment_bytes: u64, source: Option<&Path>) -> Result<Lane, Failure> {
        let wanted = serde_json::json!({
            "rpc": self.rpc, "metadata": self.metadata, "segment_bytes": segment_bytes, "own": self.own,
            "source": source, "target_bytes": REQUEST_BYTES_MAX,
        });
        let mut command = Command::new(&self.program);
        command.arg(&self.script).env("MC_STORE_MEMCPY", if self.own { "1" } else { "0" });
        // Its libraries talk on standard error.
        let log = tempfile::tempfile()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child =
            command.spawn().map_err(|error| format!("{} does not start: {error}", self.program.display()))?;
        let (ask, answer) = (child.stdin.take(), child.stdout.take());
        let (ask, answer) = ask.zip(answer).ok_or("a pipe was asked for")?;
        let mut lane = Lane { child, ask, answer: BufReader::new(answer), log };
        writeln!(lane.ask, "{wanted}")?;
        match lane.line()?.as_str() {
            "ready" => Ok(lane),
            other => Err(format!("the Mooncake client said {other:?}").into()),
        }
    }
}

impl Target for Mooncake {
    fn name(&self) -> String {
        if self.own { "mooncake-own".to_owned() } else { "mooncake-tcp".to_owned() }
    }

    fn guarantees(&self) -> String {
        "no checksum by default; memory only; a bound on memory with eviction; one replica; no tenants by default"
            .to_owned()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let cost = *self.line_cost.lock().expect("nobody panics while noting a cost");
        let cost = cost.map_or_else(String::new, |cost| format!("{:.0} µs", cost.as_secs_f64() * 1e6));
        vec![("one line to a lane and back".to_owned(), cost)]
    }

    fn session(&self, _lane: usize) -> Result<Box<dyn Session>, Failure> {
        // Memory both processes have: a file of the memory file system, where there is one.
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { shared } else { &self.setup.folder };
        let source = tempfile::Builder::new().prefix("kvtier-bench-lane").tempfile_in(folder)?;
        source.as_file().set_len(self.setup.data_bytes.max(REQUEST_BYTES_MAX))?;
        let segment_bytes = if self.own { self.segment_bytes() } else { 0 };
        let mut child = self.start(segment_bytes, Some(source.path()))?;
        let begun = Instant::now();
        for _ in 0..PROBES {
            child.ask("nothing")?;
        }
        *self.line_cost.lock().expect("nobody panics while noting a cost") = Some(begun.elapsed() / PROBES);
        let file = source.reopen()?;
        Ok(Box::new(MooncakeSession { lane: child, source, file, staged: BTreeMap::new(), filled: 0 }))
    }
}

/// A process and the pipes to it.
struct Lane {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    log: File,
}

impl Lane {
    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.answer.read_line(&mut line)? {
            0 => Err(format!("the Mooncake client ended: {}", self.last_words()).into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.log.rewind().and_then(|()| self.log.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text).into_owned();
        read.map_or_else(|error| error.to_string(), |_| text.trim().lines().next_back().unwrap_or_default().to_owned())
    }

    /// One request; the words of the answer, without how long it took there.
    fn ask(&mut self, request: &str) -> Result<Vec<String>, Failure> {
        writeln!(self.ask, "{request}")?;
        let line = self.line()?;
        match line.strip_prefix("ok ") {
            Some(words) => Ok(words.split(' ').skip(1).map(ToOwned::to_owned).collect()),
            None => Err(format!("Mooncake: {line}").into()),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

struct MooncakeSession {
    lane: Lane,
    /// Removed with the session.
    source: tempfile::NamedTempFile,
    file: File,
    /// Where the payloads of the next puts stand.
    staged: BTreeMap<Bytes, u64>,
    filled: u64,
}

impl MooncakeSession {
    /// Where a payload stands; it is moved there if it was not before.
    fn place(&mut self, block: &Put) -> Result<u64, Failure> {
        match self.staged.remove(&block.key) {
            Some(at) => Ok(at),
            None => self.stage(block),
        }
    }

    fn stage(&mut self, block: &Put) -> Result<u64, Failure> {
        let at = self.filled;
        if at + block.bytes.len() as u64 > self.file.metadata()?.len() {
            return Err(format!("{} holds no more payloads", self.source.path().display()).into());
        }
        self.file.write_all_at(&block.bytes, at)?;
        self.filled += block.bytes.len() as u64;
        Ok(at)
    }
}

impl Session for MooncakeSession {
    fn prepare(&mut self, blocks: &[Put]) -> Result<(), Failure> {
        (self.filled, self.staged) = (0, BTreeMap::new());
        for block in blocks {
            let at = self.stage(block)?;
            self.staged.insert(block.key.clone(), at);
        }
        Ok(())
    }

    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        if self.staged.is_empty() {
            self.filled = 0;
        }
        let mut request = String::from("put");
        for block in blocks {
            let at = self.place(block)?;
            request += &format!(" {}:{at}:{}", name(&block.key), block.bytes.len());
        }
        self.lane.ask(&request)?;
        Ok(PutTally { stored: blocks.len(), ..PutTally::default() })
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        let there = self.lane.ask(&with_names("exist", keys))?;
        Ok(there.iter().take_while(|there| *there == "1").count())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        let how = if consumer.reading() == Reading::Verify { "crc" } else { "sum" };
        let mut request = format!("get {how}");
        for (index, key) in keys.iter().enumerate() {
            request += &format!(" {}:{}", name(key), consumer.length(index));
        }
        for (index, sum) in self.lane.ask(&request)?.into_iter().enumerate() {
            if let Ok(sum) = sum.parse() {
                consumer.summed(index, consumer.length(index), sum);
            }
        }
        Ok(())
    }

    fn forget(&mut self, keys: &[Bytes]) -> Result<(), Failure> {
        self.lane.ask(&with_names("forget", keys)).map(drop)
    }
}

fn name(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_names(command: &str, keys: &[Bytes]) -> String {
    keys.iter().fold(command.to_owned(), |request, key| request + " " + &name(key))
}
