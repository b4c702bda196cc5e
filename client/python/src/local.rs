//! `kvtier.LocalClient`: blocks in the daemon's own memory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kvtier_client::ClientError;
use kvtier_client::local::{AcquireChain, GpuLayout, LocalClient as Native, LocalOptions, ReserveChain, Slot};
use kvtier_client::why::Outcome;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyTuple;

use crate::acquired::Acquired;
use crate::argument::{Packed, Space, durability, seconds, stages, verdict};
use crate::error::{invalid, plain, raise};
use crate::gpu::{GpuMemory, Which};
use crate::lane::Lane;
use crate::load::Load;
use crate::memory::{Plan, Segments, Way, borrow_all};
use crate::pending::Pending;
use crate::process::{self, Owned};
use crate::reservation::{Lengths, Reservation};
use crate::runs::Runs;

/// The smallest pages there are.
const PAGE_BYTES: usize = 4096;
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
    room: Option<Arc<Lane>>,
    loads: Option<Arc<Lane>>,
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

    /// For reservations, in their order.
    fn room(&self) -> PyResult<Arc<Lane>> {
        self.client.get()?;
        let lanes = &mut *self.lanes.lock().expect("nobody panics while making a lane");
        lane(&mut lanes.room, "reserve", 1)
    }

    /// For loads, which must not wait for durable commits.
    fn loads(&self) -> PyResult<Arc<Lane>> {
        self.client.get()?;
        let lanes = &mut *self.lanes.lock().expect("nobody panics while making a lane");
        lane(&mut lanes.loads, "load", self.threads)
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
/// started with acquire_start and commit_start, and as many those of load_start. With `notes_at_once=False` the daemon
/// hears of released leases and of reports with the next call or nudge(), which saves system calls.
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
                        wait_timeout=60.0, spin=100e-6, threads=4, notes_at_once=true))]
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
        notes_at_once: bool,
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
            notes_at_once,
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

    /// The same without waiting: a Pending[Reservation]. Reservations are made in the order they were started. Their pages
    /// are mapped on the way, so that whoever writes them does not wait for that. Asked a second time when the
    /// connection turns out to be broken, which is harmless: nothing was written yet.
    #[pyo3(signature = (space, keys, lengths, *, parent=None, part=0, durability="volatile"))]
    fn reserve_start(
        &self,
        space: Space,
        keys: Vec<PyBackedBytes>,
        lengths: Lengths,
        parent: Option<PyBackedBytes>,
        part: u32,
        durability: &str,
    ) -> PyResult<Pending> {
        let worker = self.worker()?;
        let durability = self::durability(durability)?;
        let lane = worker.room()?;
        let keys = Packed::new(&keys);
        let parent = parent.map(|parent| parent.to_vec());
        let work = move || {
            let lengths = match &lengths {
                Lengths::All(length) => kvtier_client::local::Lengths::All(*length),
                Lengths::Each(lengths) => kvtier_client::local::Lengths::Each(lengths),
            };
            let keys = keys.keys();
            let parent = parent.as_deref();
            let wanted = ReserveChain { space: space.0, keys: &keys, parent, part, lengths, durability };
            let client = worker.client.peek();
            let mut reserved = match client.reserve(&wanted) {
                Err(ClientError::Unavailable { .. } | ClientError::Indeterminate { .. }) => client.reserve(&wanted)?,
                answer => answer?,
            };
            map_pages(&mut reserved);
            Ok(Box::new(move |py: Python<'_>| Ok(Py::new(py, Reservation::new(py, &worker, reserved)?)?.into_any()))
                as _)
        };
        lane.ask(work).map_err(raise)
    }

    /// Leases the longest resident prefix of a chain for `lease` seconds. With min_tier="host" every block of the answer
    /// is in host memory, brought up and waited for; with "nvme" nothing is moved. `request` is the engine's name of the
    /// request it is for: the daemon then remembers the answer for `kvtier why`.
    #[pyo3(signature = (space, keys, *, min_tier="host", lease=10.0, request=None))]
    fn acquire(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        min_tier: &str,
        lease: f64,
        request: Option<&str>,
    ) -> PyResult<Acquired> {
        let worker = self.worker()?;
        let (stage, lease) = (stages(min_tier)?, seconds("lease", lease)?);
        let client = worker.client.get()?;
        let wanted = AcquireChain { space: space.0, keys: &keys, lease, stage, poll: false, request };
        py.detach(|| client.acquire(&wanted)).map(Acquired::new).map_err(raise)
    }

    /// The same without waiting: a Pending[Acquired]. With min_tier="nvme" it never queues behind loads.
    #[pyo3(signature = (space, keys, *, min_tier="host", lease=10.0, request=None))]
    fn acquire_start(
        &self,
        space: Space,
        keys: Vec<PyBackedBytes>,
        min_tier: &str,
        lease: f64,
        request: Option<String>,
    ) -> PyResult<Pending> {
        let worker = self.worker()?;
        let (stage, lease) = (stages(min_tier)?, seconds("lease", lease)?);
        let lane = if stage { worker.slow()? } else { worker.quick()? };
        let client = worker.client.get()?.clone();
        let keys = Packed::new(&keys);
        let work = move || {
            let (space, keys, request) = (space.0, keys.keys(), request.as_deref());
            let wanted = AcquireChain { space, keys: &keys, lease, stage, poll: false, request };
            let acquired = client.acquire(&wanted).map(Acquired::new)?;
            Ok(Box::new(move |py: Python<'_>| Ok(Py::new(py, acquired)?.into_any())) as _)
        };
        lane.ask(work).map_err(raise)
    }

    /// Brings a chain's blocks into host memory and copies pieces of them into pieces of buffers, all on a thread without
    /// the GIL: a Pending[Loaded], which is never an exception. `segments` are as in Acquired.read_all, with positions in
    /// `keys`. `run_blocks` are leased at a time, `lease` seconds each; after `timeout` seconds no further run is begun.
    /// The buffers are written until the answer is there, even if it is dropped.
    #[pyo3(signature = (space, keys, buffers, segments, *, verify=true, lease=10.0, timeout=60.0, run_blocks=64))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn load_start(
        &self,
        space: Space,
        keys: Vec<PyBackedBytes>,
        buffers: Vec<Bound<'_, PyAny>>,
        segments: Segments,
        verify: bool,
        lease: f64,
        timeout: f64,
        run_blocks: usize,
    ) -> PyResult<Pending> {
        let worker = self.worker()?;
        if keys.is_empty() || run_blocks == 0 {
            return Err(invalid("keys and run_blocks", "empty or 0", "give at least one"));
        }
        let lane = worker.loads()?;
        let plan = Plan::new(segments, borrow_all(&buffers, Way::IntoBuffers)?, keys.len())?;
        let (lease, longest) = (seconds("lease", lease)?, seconds("timeout", timeout)?);
        let load = Load { space: space.0, keys: Packed::new(&keys), plan, verify, lease, longest, run_blocks };
        let client = worker.client.get()?.clone();
        let work = move || {
            let loaded = load.run(&client);
            Ok(Box::new(move |py: Python<'_>| {
                // The buffers go where the GIL is held already.
                drop(load);
                Ok(Py::new(py, loaded)?.into_any())
            }) as _)
        };
        lane.change(work).map_err(raise)
    }

    /// Lends KV memory on a GPU to the daemon: its place among the daemon's, or its UUID (as
    /// `torch.cuda.get_device_properties(0).uuid`), which is the same whatever CUDA_VISIBLE_DEVICES says. `handles` are what cuIpcGetMemHandle wrote, 64
    /// bytes for each allocation; `surfaces` says for each layer (K and V of each in turn when surfaces_per_layer is 2)
    /// which of them it is in and at which offset block 0 begins. Strides in bytes. Not yet verified on hardware.
    #[pyo3(signature = (handles, surfaces, *, tokens, heads, head_elements, element_bytes, block_count, block_stride,
                        token_stride, head_stride, planes=1, plane_stride=0, surfaces_per_layer=1, gpu=Which::Place(0)),
           text_signature = "($self, /, handles, surfaces, *, tokens, heads, head_elements, element_bytes, block_count, \
                             block_stride, token_stride, head_stride, planes=1, plane_stride=0, surfaces_per_layer=1, gpu=0)")]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn import_gpu_memory(
        &self,
        py: Python<'_>,
        handles: Vec<PyBackedBytes>,
        surfaces: Vec<(u32, u64)>,
        tokens: u32,
        heads: u32,
        head_elements: u32,
        element_bytes: u32,
        block_count: u64,
        block_stride: u64,
        token_stride: u64,
        head_stride: u64,
        planes: u32,
        plane_stride: u64,
        surfaces_per_layer: u32,
        gpu: Which,
    ) -> PyResult<GpuMemory> {
        let worker = self.worker()?;
        let gpu = gpu.name();
        let wrong = |bytes: &PyBackedBytes| {
            invalid("handles", format!("{} bytes long", bytes.len()), "a handle is the 64 bytes of cuIpcGetMemHandle")
        };
        let handles: Vec<[u8; 64]> = handles
            .iter()
            .map(|bytes| <[u8; 64]>::try_from(&bytes[..]).map_err(|_| wrong(bytes)))
            .collect::<PyResult<_>>()?;
        let (surface_memories, surface_offsets) = surfaces.into_iter().unzip();
        let layout = GpuLayout {
            surface_memories,
            surface_offsets,
            surfaces_per_layer,
            planes,
            tokens,
            heads,
            head_elements,
            element_bytes,
            block_count,
            block_stride,
            plane_stride,
            token_stride,
            head_stride,
        };
        let client = worker.client.get()?;
        let memory = py.detach(|| client.import_gpu_memory(gpu, &handles, &layout)).map_err(raise)?;
        Ok(GpuMemory::new(memory, &worker))
    }

    /// Adds what became of a request to what the daemon remembers of it: verdict "loaded", "declined" or "failed" for so
    /// many `blocks`, and why. Never waits.
    #[pyo3(signature = (space, request, verdict, *, blocks=0, detail=""))]
    fn report(&self, space: Space, request: &str, verdict: &str, blocks: u32, detail: &str) -> PyResult<()> {
        let worker = self.worker()?;
        let outcome = Outcome { verdict: self::verdict(verdict)?, blocks, detail };
        worker.client.get()?.report(space.0, request, outcome).map_err(raise)
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

    /// The same without waiting, if the connection is free.
    fn nudge(&self) -> PyResult<()> {
        self.worker()?.client.get()?.nudge();
        Ok(())
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

/// Touches every page of what may be written. A page's first write is a fault of 4 us, where the kernel has no huge pages
/// for the arena: a fifth of the speed of the copy that would otherwise meet it.
fn map_pages(reserved: &mut [Slot]) {
    for slot in reserved {
        if let Slot::Write(reservation) = slot {
            reservation.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 0);
        }
    }
}
