//! Servers of a contest: processes of their own, started in a folder of their own, ended with the contest.

use std::error::Error;
use std::io::{Read as _, Seek as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Failure = Box<dyn Error>;

/// How long a server may take to answer.
const START_MAX: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: std::fs::File,
}

impl Process {
    /// Starts a program and waits until `ready` says so.
    pub fn start(command: &mut Command, mut ready: impl FnMut() -> bool) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = tempfile::tempfile()?;
        let (stdout, stderr) = (log.try_clone()?, log.try_clone()?);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let child = child.map_err(|error| format!("{name} does not start: {error}"))?;
        let mut process = Self { child, log };
        let started = Instant::now();
        while !ready() {
            if let Some(status) = process.child.try_wait()? {
                return Err(format!("{name} ended with {status}: {}", process.last_words()).into());
            }
            if started.elapsed() > START_MAX {
                return Err(format!("{name} is not ready after {START_MAX:?}").into());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(process)
    }

    /// Process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let read = self.log.rewind().and_then(|()| self.log.read_to_string(&mut text));
        let lines: Vec<&str> = if read.is_ok() { text.lines().collect() } else { Vec::new() };
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A port that is free now.
pub fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A program built next to this one.
pub fn sibling(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name(name);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("{} is not built: run `make build`", path.display()).into()),
    }
}

/// User and system CPU seconds of a process so far.
pub fn cpu_seconds(process: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5), counted after the command name; USER_HZ is 100 on every Linux ABI.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Resident bytes of a process.
pub fn resident_bytes(process: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    Ok(kib * 1024)
}
