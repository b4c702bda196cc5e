//! GPU memory of this process, lent to the daemon: it moves blocks between it and the cache by itself.

use kvtier_client::ClientError;
use kvtier_client::local::{GpuMemory as Native, GpuName, LoadChain, Loading as NativeLoading, NotMoved, SaveChain};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use std::sync::{Arc, Mutex};

use crate::argument::{Packed, Space, durability};
use crate::error::{plain, raise};
use crate::local::Worker;
use crate::outcome::{Miss, Outcome};
use crate::pending::Pending;
use crate::process::{self, Owned};

/// KV memory on a GPU that the daemon has opened. Not yet verified on hardware.
///
/// Made by LocalClient.import_gpu_memory. It belongs to one connection: after a restart of the daemon calls raise
/// Unavailable, and the memory is lent again. Keep the allocation until release() has returned or the connection has ended,
/// and do not write blocks that are being saved or loaded. The daemon copies on streams of its own: synchronize the stream
/// that writes a block before it is saved.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct GpuMemory {
    memory: Mutex<Option<Arc<Owned<Native>>>>,
    worker: Arc<Worker>,
    process: u32,
}

impl GpuMemory {
    pub(crate) fn new(memory: Native, worker: &Arc<Worker>) -> Self {
        let memory = Mutex::new(Some(Arc::new(Owned::new(memory))));
        Self { memory, worker: Arc::clone(worker), process: std::process::id() }
    }

    fn memory(&self) -> PyResult<Arc<Owned<Native>>> {
        process::check(self.process)?;
        let memory = self.memory.lock().expect("nobody panics while releasing");
        memory.clone().ok_or_else(|| plain("Error", "this memory was released"))
    }
}

/// Which GPU: its place among the daemon's, or its UUID.
#[derive(FromPyObject)]
pub(crate) enum Which {
    Place(u32),
    Uuid(String),
}

impl Which {
    pub(crate) fn name(&self) -> GpuName<'_> {
        match self {
            Self::Place(place) => GpuName::Place(*place),
            Self::Uuid(uuid) => GpuName::Uuid(uuid),
        }
    }
}

/// Every block's outcome when nothing moved.
fn not_moved(why: &NotMoved, count: usize) -> Vec<Outcome> {
    let reason = match why {
        NotMoved::GpuLost(_) => "gpu_lost",
        NotMoved::Busy(_) => "busy",
        NotMoved::Corrupt { .. } | NotMoved::Failed(_) => "failed",
    };
    (0..count).map(|_| Outcome::of_slot("declined", Some(reason.to_owned()), why.to_string())).collect()
}

/// A save, to be carried out on any thread.
struct Save {
    memory: Arc<Owned<Native>>,
    space: Space,
    keys: Packed,
    blocks: Vec<u64>,
    parent: Option<Vec<u8>>,
    part: u32,
    durability: kvtier_client::Durability,
    to_pool: bool,
    request: Option<String>,
}

impl Save {
    fn run(&self) -> Result<Vec<Outcome>, ClientError> {
        let keys = self.keys.keys();
        let wanted = SaveChain {
            space: self.space.0,
            keys: &keys,
            blocks: &self.blocks,
            parent: self.parent.as_deref(),
            part: self.part,
            durability: self.durability,
            to_pool: self.to_pool,
            request: self.request.as_deref(),
        };
        Ok(match self.memory.peek().save(&wanted)? {
            Ok(committed) => committed.into_iter().map(Outcome::from).collect(),
            Err(why) => not_moved(&why, keys.len()),
        })
    }
}

#[pymethods]
impl GpuMemory {
    /// Bytes of a block, or of this rank's part of it.
    #[getter]
    fn block_nbytes(&self) -> PyResult<u64> {
        Ok(self.memory()?.peek().block_bytes())
    }

    /// Layers.
    #[getter]
    fn layers(&self) -> PyResult<u32> {
        Ok(self.memory()?.peek().layer_count())
    }

    /// Copies blocks (numbers in this memory, one per key) into the cache and waits until they are visible, or durable.
    /// One Outcome per block. When the GPU did not move them all are "declined", with the reason "gpu_lost" (use host
    /// memory until the daemon is started again), "busy" or "failed". With `to_pool` they are kept in the daemon's pool in
    /// GPU memory, too, as far as there is room, and the next load finds them there.
    #[pyo3(signature = (space, keys, blocks, *, parent=None, part=0, durability="volatile", to_pool=false, request=None))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn save(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        blocks: Vec<u64>,
        parent: Option<PyBackedBytes>,
        part: u32,
        durability: &str,
        to_pool: bool,
        request: Option<String>,
    ) -> PyResult<Vec<Outcome>> {
        let save = self.plan(space, &keys, blocks, parent, part, durability, to_pool, request)?;
        py.detach(|| save.run()).map_err(raise)
    }

    /// The same without waiting: a Pending[list[Outcome]]. It happens even if that is dropped.
    #[pyo3(signature = (space, keys, blocks, *, parent=None, part=0, durability="volatile", to_pool=false, request=None))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn save_start(
        &self,
        space: Space,
        keys: Vec<PyBackedBytes>,
        blocks: Vec<u64>,
        parent: Option<PyBackedBytes>,
        part: u32,
        durability: &str,
        to_pool: bool,
        request: Option<String>,
    ) -> PyResult<Pending> {
        let save = self.plan(space, &keys, blocks, parent, part, durability, to_pool, request)?;
        let work = move || {
            let outcomes = save.run()?;
            Ok(Box::new(move |py: Python<'_>| Ok(outcomes.into_pyobject(py)?.unbind().into_any())) as _)
        };
        self.worker.slow()?.change(work).map_err(raise)
    }

    /// Brings the longest resident prefix of a chain up and begins to load it into `blocks` (numbers in this memory, one
    /// per key): a Loading, when the bytes are on their way. `layer_ends` are the ends of the ranges of layers that will be
    /// waited for: [1, 4, 32] are layers 0, 1 to 3 and 4 to 31. `verify` compares host copies with their checksums first.
    #[pyo3(signature = (space, keys, blocks, *, part=0, layer_ends=Vec::new(), verify=true, request=None))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn load(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        blocks: Vec<u64>,
        part: u32,
        layer_ends: Vec<u32>,
        verify: bool,
        request: Option<&str>,
    ) -> PyResult<Loading> {
        let memory = self.memory()?;
        let wanted =
            LoadChain { part, layer_ends: &layer_ends, verify, request, ..LoadChain::new(space.0, &keys, &blocks) };
        let loading = py.detach(|| memory.peek().load(&wanted)).map_err(raise)?;
        Ok(Loading::new(loading))
    }

    /// Takes the memory back and waits until the daemon has closed it, unless moves are under way: it is closed behind them.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        process::check(self.process)?;
        let memory = self.memory.lock().expect("nobody panics while releasing").take();
        // Another call that is under way releases it with its last hand on it.
        let Some(memory) = memory.and_then(Arc::into_inner) else { return Ok(()) };
        let memory = memory.into_value()?;
        py.detach(|| memory.release()).map_err(raise)
    }

    fn __repr__(&self) -> PyResult<String> {
        let memory = self.memory()?;
        let (bytes, layers) = (memory.peek().block_bytes(), memory.peek().layer_count());
        Ok(format!("<kvtier.GpuMemory: blocks of {bytes} bytes in {layers} layers>"))
    }
}

impl GpuMemory {
    #[expect(clippy::too_many_arguments, reason = "what its callers are given")]
    fn plan(
        &self,
        space: Space,
        keys: &[PyBackedBytes],
        blocks: Vec<u64>,
        parent: Option<PyBackedBytes>,
        part: u32,
        durability: &str,
        to_pool: bool,
        request: Option<String>,
    ) -> PyResult<Save> {
        let parent = parent.map(|parent| parent.to_vec());
        let durability = self::durability(durability)?;
        let (memory, keys) = (self.memory()?, Packed::new(keys));
        Ok(Save { memory, space, keys, blocks, parent, part, durability, to_pool, request })
    }
}

/// A load under way; its length is how many of the chain's first blocks are loaded. Dropped, it goes on.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Loading {
    loading: Mutex<Option<Arc<Owned<NativeLoading>>>>,
    blocks: usize,
    /// Of the blocks, those that come from the daemon's pool in GPU memory.
    #[pyo3(get)]
    from_pool: u32,
    miss: Mutex<Option<kvtier_client::wire::Miss>>,
    process: u32,
}

impl Loading {
    fn new(mut loading: NativeLoading) -> Self {
        let (blocks, from_pool) = (loading.len(), loading.from_pool);
        let miss = Mutex::new(loading.miss.take());
        let loading = Mutex::new(Some(Arc::new(Owned::new(loading))));
        Self { loading, blocks, from_pool, miss, process: std::process::id() }
    }
}

#[pymethods]
impl Loading {
    fn __len__(&self) -> usize {
        self.blocks
    }

    /// Why the block after the last one is missing; None when the whole chain is loaded.
    #[getter]
    fn miss(&self) -> Option<Miss> {
        let miss = self.miss.lock().expect("nobody panics while reading").clone();
        miss.map(|miss| Miss::new(self.blocks, miss))
    }

    /// Waits until a range of layers, and all before it, have arrived: None, or why they will not. Then nothing of the
    /// chain may be used.
    fn wait(&self, py: Python<'_>, range: u32) -> PyResult<Option<String>> {
        process::check(self.process)?;
        let loading = self.loading.lock().expect("nobody panics while waiting").clone();
        let loading = loading.ok_or_else(|| plain("Error", "its end was waited for already"))?;
        let ended = py.detach(|| loading.peek().wait(range)).map_err(raise)?;
        Ok(ended.err().map(|why| why.to_string()))
    }

    /// Waits for the end: None, or why it failed. Nothing is moved after it.
    fn finish(&self, py: Python<'_>) -> PyResult<Option<String>> {
        process::check(self.process)?;
        let loading = self.loading.lock().expect("nobody panics while waiting").take();
        let loading = loading.and_then(Arc::into_inner);
        let loading =
            loading.ok_or_else(|| plain("Error", "its end was waited for already, or a wait is under way"))?;
        let loading = loading.into_value()?;
        let ended = py.detach(|| loading.finish()).map_err(raise)?;
        Ok(ended.err().map(|why| why.to_string()))
    }

    fn __repr__(&self) -> String {
        format!("<kvtier.Loading: {} blocks>", self.blocks)
    }
}
