//! `kvtier.LocalClient`: blocks in the daemon's own memory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtier_client::local::{AcquireChain, LocalClient as Native, LocalOptions, ReserveChain};
use kvtier_client::{ClientError, SpaceDigest};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyTuple;

use crate::acquired::Acquired;
use crate::argument::{Packed, Space, durability, seconds, stages};
use crate::error::{invalid, plain, raise};
use crate::lane::Lane;
use crate::pending::Pending;
use crate::process::{self, Owned};
use crate::reservation::{Lengths, Reservation};
use crate::runs::Runs;

/// Threads for calls that wait for disks, at most.
const THREADS_MAX: usize = 64;

/// What a client and its reservations share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) client: Owned<Native>,
    lanes: Mutex<Lanes>,
    threads: usize,
}

/// Made when they are first used; forks never get that far.
#[derive(Debug, Default)]
struct Lanes {
    quick: Option<Arc<Lane>>,
    slow: Option<Arc<Lane>>,
}

impl Worker {
    /// For calls the daemon answers at once.
    fn quick(&self) -> PyResult<Arc<Lane>> {
        self.client.get()?;
        let lanes = &mut *self.lanes.lock().expect("nobody panics while making a lane");
        lane(&mut lanes.quick, "lookup", 1)
    }

    /// For calls that may wait for disks.
    pub(crate) fn slow(&self) -> PyResult<Arc<Lane>> {
        self.client.get()?;
        let lanes = &mut *self.lanes.lock().expect("nobody panics while making a lane");
        lane(&mut lanes.slow, "worker", self.threads)
    }
}

fn lane(place: &mut Option<Arc<Lane>>, name: &'static str, threads: usize) -> PyResult<Arc<Lane>> {
    if let Some(lane) = place {
        return Ok(Arc::clone(lane));
    }
    let lane = Arc::new(Lane::new(name, threads).map_err(raise)?);
    *place = Some(Arc::clone(&lane));
    Ok(lane)
}

/// A worker's handle to the daemon of its machine, for any number of threads.
///
/// `socket` is the daemon's `local.socket`. A "reader" maps the memory read-only. Waits are in seconds: `connect_timeout`
/// bounds connecting, `call_timeout` calls the daemon answers at once, `wait_timeout` those that wait for room, loads and
/// durable commits; `spin` is how long to look for an answer before sleeping. `threads` carry out the calls that were
/// started with acquire_start and commit_start.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct LocalClient {
    worker: Mutex<Option<Arc<Worker>>>,
    process: u32,
}

impl LocalClient {
    /// What calls go through. Raises when it was closed.
    pub(crate) fn worker(&self) -> PyResult<Arc<Worker>> {
        process::check(self.process)?;
        let worker = self.worker.lock().expect("nobody panics while closing");
        worker.clone().ok_or_else(|| plain("Error", "this client was closed"))
    }
}

#[pymethods]
impl LocalClient {
    #[new]
    #[pyo3(signature = (socket, *, tenant, name="python", role="writer", connect_timeout=5.0, call_timeout=10.0,
                        wait_timeout=60.0, spin=50e-6, threads=4))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn new(
        py: Python<'_>,
        socket: PathBuf,
        tenant: &str,
        name: &str,
        role: &str,
        connect_timeout: f64,
        call_timeout: f64,
        wait_timeout: f64,
        spin: f64,
        threads: usize,
    ) -> PyResult<Self> {
        let writer = match role {
            "writer" => true,
            "reader" => false,
            other => return Err(invalid("role", format!("{other:?}"), "use \"writer\" or \"reader\"")),
        };
        if !(1..=THREADS_MAX).contains(&threads) {
            return Err(invalid("threads", threads.to_string(), "use 1 to 64"));
        }
        let options = LocalOptions {
            writer,
            connect_timeout: seconds("connect_timeout", connect_timeout)?,
            call_timeout: seconds("call_timeout", call_timeout)?,
            wait_timeout: seconds("wait_timeout", wait_timeout)?,
            spin: seconds("spin", spin)?,
            ..LocalOptions::writer(name, tenant)
        };
        let client = py.detach(|| Native::connect(socket, options)).map_err(raise)?;
        let worker = Worker { client: Owned::new(client), lanes: Mutex::default(), threads };
        Ok(Self { worker: Mutex::new(Some(Arc::new(worker))), process: std::process::id() })
    }

    /// Asks for slots to write a chain's blocks, or one `part` of each, into. `lengths` are the bytes of the part: one
    /// number for all, or one per key. `parent` is the key of the block before the first. With durability="durable" a
    /// commit is answered when the bytes are synced.
    #[pyo3(signature = (space, keys, lengths, *, parent=None, part=0, durability="volatile"))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn reserve(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        lengths: Lengths,
        parent: Option<PyBackedBytes>,
        part: u32,
        durability: &str,
    ) -> PyResult<Reservation> {
        let worker = self.worker()?;
        let lengths = match &lengths {
            Lengths::All(length) => kvtier_client::local::Lengths::All(*length),
            Lengths::Each(lengths) => kvtier_client::local::Lengths::Each(lengths),
        };
        let durability = self::durability(durability)?;
        let wanted = ReserveChain { space: space.0, keys: &keys, parent: parent.as_deref(), part, lengths, durability };
        let client = worker.client.get()?;
        let reserved = py.detach(|| client.reserve(&wanted)).map_err(raise)?;
        Reservation::new(py, &worker, reserved)
    }

    /// Leases the longest resident prefix of a chain for `lease` seconds. With min_tier="host" every block of the answer
    /// is in host memory, brought up and waited for; with "nvme" nothing is moved.
    #[pyo3(signature = (space, keys, *, min_tier="host", lease=10.0))]
    fn acquire(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        min_tier: &str,
        lease: f64,
    ) -> PyResult<Acquired> {
        let worker = self.worker()?;
        let (stage, lease) = (stages(min_tier)?, seconds("lease", lease)?);
        let client = worker.client.get()?;
        let wanted = AcquireChain { space: space.0, keys: &keys, lease, stage, poll: false };
        py.detach(|| client.acquire(&wanted)).map(Acquired::new).map_err(raise)
    }

    /// The same without waiting: a Pending[Acquired]. With min_tier="nvme" it never queues behind loads.
    #[pyo3(signature = (space, keys, *, min_tier="host", lease=10.0))]
    fn acquire_start(&self, space: Space, keys: Vec<PyBackedBytes>, min_tier: &str, lease: f64) -> PyResult<Pending> {
        let worker = self.worker()?;
        let (stage, lease) = (stages(min_tier)?, seconds("lease", lease)?);
        let lane = if stage { worker.slow()? } else { worker.quick()? };
        let client = worker.client.get()?.clone();
        let keys = Packed::new(&keys);
        let work = move || {
            let acquired = acquire(&client, space.0, &keys.keys(), lease, stage)?;
            Ok(Box::new(move |py: Python<'_>| Ok(Py::new(py, acquired)?.into_any())) as _)
        };
        lane.ask(work).map_err(raise)
    }

    /// The same for keys that may be resident with gaps between them, and nothing is moved: a
    /// Pending[tuple[list[tuple[int, Acquired]], int]], every resident run with the position of its first key, and how
    /// many keys were looked at. What comes after `gaps_max` gaps is not.
    #[pyo3(signature = (space, keys, *, lease=10.0, gaps_max=64))]
    fn acquire_runs_start(
        &self,
        space: Space,
        keys: Vec<PyBackedBytes>,
        lease: f64,
        gaps_max: usize,
    ) -> PyResult<Pending> {
        let worker = self.worker()?;
        let lease = seconds("lease", lease)?;
        let client = worker.client.get()?.clone();
        let keys = Packed::new(&keys);
        let work = move || {
            let runs = Runs::find(&client, space.0, &keys.keys(), lease, gaps_max)?;
            Ok(Box::new(move |py: Python<'_>| runs.into_answer(py)) as _)
        };
        worker.quick()?.ask(work).map_err(raise)
    }

    /// Tells the daemon at once what it is told with the next call otherwise: leases that ended, slots given up.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let worker = self.worker()?;
        let client = worker.client.get()?;
        py.detach(|| client.flush()).map_err(raise)
    }

    /// Names this client's attachment in gRPC calls (`x-kvtier-attachment`). A secret.
    #[getter]
    fn attachment(&self, py: Python<'_>) -> PyResult<String> {
        let worker = self.worker()?;
        let client = worker.client.get()?;
        py.detach(|| client.attachment()).map_err(raise)
    }

    /// Refuses calls from now on. The connection ends with the last lease, slot and view of it.
    fn close(&self) -> PyResult<()> {
        process::check(self.process)?;
        let worker = self.worker.lock().expect("nobody panics while closing").take();
        drop(worker);
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close()
    }

    fn __repr__(&self) -> &'static str {
        "<kvtier.LocalClient>"
    }
}

fn acquire(
    client: &Native,
    space: SpaceDigest,
    keys: &[&[u8]],
    lease: Duration,
    stage: bool,
) -> Result<Acquired, ClientError> {
    client.acquire(&AcquireChain { space, keys, lease, stage, poll: false }).map(Acquired::new)
}
