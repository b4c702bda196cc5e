//! The writer's own thread, in production.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use kvtier_device::Folder;
use kvtier_engine::port::Clock;

use crate::error::WalError;
use crate::folder::{BlockingFolder, UringFolder};
use crate::journal::Wal;
use crate::open::Recovered;
use crate::settings::Settings;

/// How the folder is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// io_uring where the kernel allows it, else blocking calls.
    Auto,
    /// Blocking calls.
    Blocking,
}

/// A log whose writer runs on a thread of its own.
#[derive(Debug)]
pub struct WalThread {
    /// The handle.
    pub wal: Arc<Wal>,
    /// What the opening found.
    pub recovered: Recovered,
    /// How the folder is driven, for people.
    pub mode: String,
    thread: JoinHandle<()>,
}

impl WalThread {
    /// Closes the journal, waits until everything queued is durable (or cannot be), and ends the thread.
    pub fn finish(self) -> Result<(), WalError> {
        self.wal.close();
        self.thread.join().map_err(|_| WalError::Thread("the journal's thread panicked".into()))
    }
}

type Opened = Result<(Arc<Wal>, Recovered, String), WalError>;

/// Opens the log in the folder at `path` on a new thread named `kvtier-wal`, and lets its writer run there. Blocks until
/// the log is open. The clock's sleeps are polled inside a tokio runtime with timers.
pub fn spawn_writer_thread(
    path: &Path,
    mode: Mode,
    clock: Arc<dyn Clock>,
    settings: Settings,
    covered_seq: u64,
) -> Result<WalThread, WalError> {
    let (reply, opened) = sync_channel(1);
    let path = path.to_path_buf();
    let work = move || run(path, mode, clock, settings, covered_seq, &reply);
    let thread = std::thread::Builder::new()
        .name("kvtier-wal".into())
        .spawn(work)
        .map_err(|error| WalError::Thread(error.to_string()))?;
    match opened.recv() {
        Ok(Ok((wal, recovered, mode))) => Ok(WalThread { wal, recovered, mode, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(WalError::Thread("it ended while the log was opened".into())),
    }
}

fn run(
    path: PathBuf,
    mode: Mode,
    clock: Arc<dyn Clock>,
    settings: Settings,
    covered_seq: u64,
    reply: &SyncSender<Opened>,
) {
    let refused = match mode {
        Mode::Auto => match tokio_uring::Runtime::new(&tokio_uring::builder()) {
            Ok(ring) => {
                let folder = Rc::new(UringFolder::new(&path));
                return ring.block_on(drive(folder, "io_uring".into(), clock, settings, covered_seq, reply));
            }
            Err(error) => format!("blocking calls, because io_uring is refused: {error}"),
        },
        Mode::Blocking => "blocking calls".into(),
    };
    tracing::info!("the journal is driven by {refused}");
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(plain) => {
            let folder = Rc::new(BlockingFolder::new(&path));
            plain.block_on(drive(folder, refused, clock, settings, covered_seq, reply));
        }
        Err(error) => {
            let _ = reply.send(Err(WalError::Thread(error.to_string())));
        }
    }
}

async fn drive(
    folder: Rc<dyn Folder>,
    mode: String,
    clock: Arc<dyn Clock>,
    settings: Settings,
    covered_seq: u64,
    reply: &SyncSender<Opened>,
) {
    match Wal::open(folder, clock, settings, covered_seq).await {
        Ok((wal, writer, recovered)) => {
            let _ = reply.send(Ok((wal, recovered, mode)));
            Box::pin(writer.run()).await;
        }
        Err(error) => {
            let _ = reply.send(Err(error));
        }
    }
}
