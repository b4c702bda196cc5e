//! A real `kvtierd`: one process, one data folder, free ports.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary;
use crate::log::Log;

/// How long a daemon may take to serve, or to end, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What the daemon logs once it serves.
const SERVING: &str = "listening";
/// Where it says how it can be reached.
pub const LISTENING: &str = "LISTENING";

/// Settings of every test daemon: small, and on free ports.
const SMALL: [(&str, &str); 11] = [
    ("listen.tcp", "127.0.0.1:0"),
    ("listen.http", "127.0.0.1:0"),
    ("host.bytes", "64MiB"),
    ("host.extent_bytes", "4MiB"),
    ("host.huge_pages", "off"),
    ("nvme.bytes", "130MiB"),
    ("nvme.extent_bytes", "4MiB"),
    ("wal.segment_bytes", "2MiB"),
    ("wal.retain_bytes", "16MiB"),
    ("wal.bytes_max", "64MiB"),
    ("log.level", "info"),
];

/// A data folder and the settings to start a daemon with.
#[derive(Clone)]
pub struct Setup {
    folder: Arc<TempDir>,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::with(&[])
    }
}

impl Setup {
    /// Small settings, then `settings` on top of them.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("kvtier-test-").tempdir().expect("a folder can be made");
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let settings = SMALL.iter().chain(settings).map(own).collect();
        Self { folder: Arc::new(folder), settings, environment: Vec::new() }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn and(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same with one more variable of the environment, which is empty otherwise.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Keeps the test's folder.
    pub fn keep(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// The test's folder; the data directory is in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory, unless a setting says otherwise.
    pub fn data(&self) -> PathBuf {
        let set = self.settings.iter().rev().find(|(key, _)| key == "data_directory");
        set.map_or_else(|| self.folder.path().join("data"), |(_, value)| PathBuf::from(value))
    }

    /// The command line without a subcommand.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::kvtierd());
        command.args(arguments).arg("--create").arg("--data-directory").arg(self.data()).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (key, value) in &self.settings {
            if key != "data_directory" {
                command.arg("--set").arg(format!("{key}={value}"));
            }
        }
        command
    }

    /// Runs a subcommand to its end.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("kvtierd can be run")
    }

    /// Starts a daemon and waits until it serves; or how it ended instead.
    pub fn try_start(&self) -> Result<Daemon, Stopped> {
        Daemon::launch(self.clone(), self.command(&[]))
    }

    /// Starts a daemon through another command (a limit, a wrapper), which gets kvtierd's command line appended.
    pub fn try_start_under(&self, wrapper: &[&str]) -> Result<Daemon, Stopped> {
        let inner = self.command(&[]);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(inner.get_program()).args(inner.get_args());
        Daemon::launch(self.clone(), command)
    }

    /// Starts a daemon and waits until it serves.
    #[track_caller]
    pub fn start(&self) -> Daemon {
        self.try_start().unwrap_or_else(|stopped| panic!("kvtierd did not serve: {stopped:?}"))
    }
}

/// Where a daemon can be reached.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Endpoints {
    /// gRPC over TCP.
    pub tcp: Option<std::net::SocketAddr>,
    /// gRPC over a unix socket.
    pub unix: Option<PathBuf>,
    /// The local path's raw socket.
    pub local: Option<PathBuf>,
    /// Metrics and health.
    pub http: Option<std::net::SocketAddr>,
    /// Process id.
    pub pid: u32,
}

/// How a process ended, and what it had to say.
#[derive(Clone)]
pub struct Stopped {
    /// Exit status; none if it had to be killed because it neither served nor ended.
    pub status: Option<ExitStatus>,
    /// Its standard error.
    pub log: String,
}

impl std::fmt::Debug for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, log:\n{}", self.status, self.log)
    }
}

impl Stopped {
    /// Exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// Signal, if one ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }
}

/// A running daemon. Killed when dropped.
pub struct Daemon {
    setup: Setup,
    child: Option<Child>,
    log: Log,
    endpoints: Endpoints,
}

impl Daemon {
    /// Starts a small daemon with these settings on top.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Setup::with(settings).start()
    }

    fn launch(setup: Setup, mut command: Command) -> Result<Self, Stopped> {
        // What an earlier daemon left must not be taken for this one's.
        let _ = std::fs::remove_file(setup.data().join(LISTENING));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kvtierd can be started");
        let log = Log::follow(child.stderr.take().expect("it was piped"));
        if !log.wait_for(SERVING, PATIENCE) {
            // What has closed its log is ending; what has not is stuck.
            let ending = log.wait_for_end(Duration::ZERO);
            if !ending {
                let _ = child.kill();
            }
            let ended = child.wait().ok().filter(|_| ending);
            log.wait_for_end(PATIENCE);
            return Err(Stopped { status: ended, log: log.text() });
        }
        let text = std::fs::read_to_string(setup.data().join(LISTENING)).expect("a serving daemon says where");
        let endpoints = toml::from_str(&text).expect("LISTENING is TOML");
        Ok(Self { setup, child: Some(child), log, endpoints })
    }

    /// Where it can be reached.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Its settings and folder.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.setup.data()
    }

    /// What it logs.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our child can be signalled");
    }

    /// Ends it with `kill -9`, and gives its settings and folder back.
    pub fn kill(mut self) -> Setup {
        self.end_now();
        self.setup.clone()
    }

    /// Asks it to end (SIGTERM) and waits for that.
    #[track_caller]
    pub fn stop(self) -> (Setup, Stopped) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> (Setup, Stopped) {
        let ended = self.log.wait_for_end(PATIENCE);
        let mut child = self.child.take().expect("it runs");
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().expect("a child can be waited for");
        let stopped = Stopped { status: ended.then_some(status), log: self.log.text() };
        (self.setup.clone(), stopped)
    }

    /// Kills it with -9 and starts another on the same folder.
    #[track_caller]
    pub fn crash_and_restart(self) -> Self {
        self.kill().start()
    }

    /// Stops it and starts another on the same folder.
    #[track_caller]
    pub fn restart(self) -> Self {
        let (setup, stopped) = self.stop();
        assert_eq!(stopped.code(), Some(0), "a clean stop exits with 0: {stopped:?}");
        setup.start()
    }

    fn end_now(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let running = self.child.is_some();
        self.end_now();
        if running && std::thread::panicking() {
            eprintln!("---- log of kvtierd ----\n{}---- end of log ----", self.log.text());
        }
    }
}
