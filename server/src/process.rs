//! The process: its limits and the signals that end it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Open files the daemon asks for when it may: enough for `listen.connections_max` and its own.
const FILES_WANTED: u64 = 1 << 20;

/// Raises the soft limit on open files as far as the hard one allows. Shells start processes with 1,024, which a few
/// clients use up. Returns the limit in force.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(FILES_WANTED).min(FILES_WANTED);
    let current = limit.current.unwrap_or(most);
    if current >= most {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }) {
        Ok(()) => most,
        Err(error) => {
            tracing::warn!(%error, current, "cannot raise the limit on open files");
            current
        }
    }
}

/// SIGTERM and SIGINT: the first one means drain, the second one means now.
#[derive(Debug)]
pub struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Takes over both signals. Inside a tokio runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next of them, with its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
