//! Following the node's event log.

use std::sync::Arc;

use kvtier_client::wire::event::Kind;
use kvtier_client::{ClientError, EventStart, SpaceDigest, wire, word};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

use crate::argument::seconds;
use crate::error::{invalid, raise};
use crate::process;
use crate::remote::Connection;

/// Batches between the connection and whoever iterates; when they are full the daemon is not read.
const BATCHES_MAX: usize = 16;

type Batch = Result<kvtier_client::EventBatch, ClientError>;

/// The node's events, batch by batch, without end. Iterate it, or ask with next(timeout).
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Events {
    batches: Mutex<Receiver<Batch>>,
    connection: Arc<Connection>,
    process: u32,
}

/// Some events, and the position after which to ask for the next.
#[pyclass(frozen, module = "kvtier", get_all)]
pub(crate) struct EventBatch {
    /// Incarnation of the log.
    epoch: u64,
    /// Of the last event here.
    seq: u64,
    /// In the order of the log.
    events: Vec<Py<Event>>,
}

/// One event. What its kind does not have is None.
#[pyclass(frozen, module = "kvtier", get_all)]
#[derive(Default)]
pub(crate) struct Event {
    /// "reset" (forget everything known of this node), "stored", "removed", "space_opened", "space_dropped", "snapshot_end"
    /// or "engine_reset" (forget everything known of this engine).
    kind: &'static str,
    /// The space's digest.
    space: Option<Py<PyBytes>>,
    /// The 16-byte id that "removed" names a block by.
    block: Option<Py<PyBytes>>,
    /// The engine's key ("stored").
    key: Option<Py<PyBytes>>,
    /// The id of the block before it ("stored").
    parent_block: Option<Py<PyBytes>>,
    /// Length in bytes ("stored").
    nbytes: Option<u32>,
    /// The tier ("stored", "removed").
    tier: Option<String>,
    /// The engine whose own memory it is about ("stored", "removed", "engine_reset"); None: the node's.
    engine: Option<String>,
    /// Why: evicted, corrupt, deleted, ... ("removed"), or the reason of a "reset".
    cause: Option<String>,
    /// The space's name for people ("space_opened").
    name: Option<String>,
    /// The new incarnation ("reset").
    epoch: Option<u64>,
}

/// Where to begin, from what Python says.
pub(crate) fn start_of(given: Option<&Bound<'_, PyAny>>) -> PyResult<EventStart> {
    let Some(given) = given else { return Ok(EventStart::Tail) };
    if let Ok((epoch, seq)) = given.extract() {
        return Ok(EventStart::After(wire::Position { epoch, seq }));
    }
    match given.extract::<String>().as_deref() {
        Ok("tail") => Ok(EventStart::Tail),
        Ok("snapshot") => Ok(EventStart::Snapshot),
        _ => Err(invalid("start", given.repr()?.to_string(), "use \"tail\", \"snapshot\" or (epoch, seq)")),
    }
}

impl Events {
    pub(crate) fn follow(connection: Arc<Connection>, start: EventStart, spaces: &[SpaceDigest]) -> PyResult<Self> {
        let mut follower = connection.client()?.follow(start, spaces);
        let (sender, receiver) = channel(BATCHES_MAX);
        connection.runtime.handle()?.spawn(async move {
            loop {
                let batch = tokio::select! {
                    batch = follower.next() => batch,
                    () = sender.closed() => return,
                };
                let failed = batch.is_err();
                if sender.send(batch).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { batches: Mutex::new(receiver), connection, process: std::process::id() })
    }
}

#[pymethods]
impl Events {
    /// The next batch, waited for at most `timeout` seconds (None: for ever); None when there was none by then.
    #[pyo3(signature = (timeout=None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<EventBatch>> {
        process::check(self.process)?;
        let longest = timeout.map(|timeout| seconds("timeout", timeout)).transpose()?;
        let receiving = async {
            let receive = async { self.batches.lock().await.recv().await };
            match longest {
                Some(longest) => self::timeout(longest, receive).await.map_err(|_| ()),
                None => Ok(receive.await),
            }
        };
        match self.connection.runtime.wait(py, receiving)? {
            Err(()) => Ok(None),
            Ok(Some(Ok(batch))) => EventBatch::new(py, batch).map(Some),
            Ok(Some(Err(error))) => Err(raise(error)),
            Ok(None) => Err(crate::error::plain("Error", "the events ended with an error that was raised before")),
        }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<EventBatch>> {
        self.next(py, None)
    }
}

impl EventBatch {
    fn new(py: Python<'_>, batch: kvtier_client::EventBatch) -> PyResult<Self> {
        let wire::Position { epoch, seq } = batch.position;
        let events = batch.events.into_iter().filter_map(|event| event.kind);
        let events = events.map(|kind| Py::new(py, Event::new(py, kind))).collect::<PyResult<_>>()?;
        Ok(Self { epoch, seq, events })
    }
}

#[pymethods]
impl EventBatch {
    fn __repr__(&self) -> String {
        format!("<kvtier.EventBatch up to {}:{}, {} events>", self.epoch, self.seq, self.events.len())
    }
}

impl Event {
    fn new(py: Python<'_>, kind: Kind) -> Self {
        let bytes = |bytes: &[u8]| Some(PyBytes::new(py, bytes).unbind());
        let none = Self::default();
        match kind {
            Kind::Reset(reset) => Self { kind: "reset", epoch: Some(reset.epoch), cause: Some(reset.reason), ..none },
            Kind::Stored(stored) => Self {
                kind: "stored",
                space: bytes(&stored.space),
                block: bytes(&stored.block),
                key: bytes(&stored.key),
                parent_block: stored.parent_block.as_deref().and_then(bytes),
                nbytes: Some(stored.length),
                tier: Some(word::tier(stored.tier)),
                engine: Some(stored.engine).filter(|engine| !engine.is_empty()),
                ..none
            },
            Kind::Removed(removed) => Self {
                kind: "removed",
                space: bytes(&removed.space),
                block: bytes(&removed.block),
                tier: Some(word::tier(removed.tier)),
                cause: Some(removed.cause),
                engine: Some(removed.engine).filter(|engine| !engine.is_empty()),
                ..none
            },
            Kind::SpaceOpened(opened) => {
                Self { kind: "space_opened", space: bytes(&opened.space), name: Some(opened.name), ..none }
            }
            Kind::SpaceDropped(dropped) => Self { kind: "space_dropped", space: bytes(&dropped.space), ..none },
            Kind::EngineReset(reset) => {
                Self { kind: "engine_reset", engine: Some(reset.engine), cause: Some(reset.reason), ..none }
            }
            Kind::SnapshotEnd(_) => Self { kind: "snapshot_end", ..none },
        }
    }
}

#[pymethods]
impl Event {
    fn __repr__(&self) -> String {
        format!("<kvtier.Event {}>", self.kind)
    }
}
