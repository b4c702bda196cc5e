//! One GPU: its context, streams, events, kernels and memories.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::arguments::{ChecksumArguments, ShuffleArguments};
use super::driver::{self, Event, Kernel, Module, Retained, Stream};
use super::memory::{Kind, Memories, Stored};
use super::registered;
use crate::checksum::{PIECE_ROWS, ROW_BYTES, SPAN_ALIGNMENT, SPANS_MAX, Span, tables};
use crate::gpu::{Gpu, GpuError, HostMemory, Imported, IpcHandle, Lane, Mark, MemoryId, Place, Properties, Run};
use crate::layout::{Shuffle, Tiling};

/// The kernels, compiled beforehand; the text ends with a zero.
const PTX: &str = concat!(include_str!("../../kernels/kernels.ptx"), "\0");
/// Every address the driver gives out is a multiple of this.
const ADDRESS_ALIGNMENT: u64 = 256;
const THREADS: u32 = 256;
/// Thread blocks per multiprocessor of a gather or scatter: as many as run at once.
const BLOCKS_PER_PROCESSOR: u32 = 8;

struct Kernels {
    shuffles: [(u32, Kernel); 3],
    checksum: Kernel,
    /// Device address of the results of each lane, behind the tables.
    results: [u64; 4],
    tables: Tables,
    _module: Loaded,
}

/// The streams of all lanes.
struct Streams(Vec<Stream>);

impl Streams {
    fn new() -> Result<Self, GpuError> {
        let (least, greatest) = driver::priorities()?;
        let mut made = Self(Vec::new());
        for lane in Lane::ALL {
            made.0.push(driver::create_stream(if lane.is_load() { greatest } else { least })?);
        }
        Ok(made)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|stream| _ = driver::destroy_stream(stream));
    }
}

/// A module that is loaded.
struct Loaded(Module);

impl Drop for Loaded {
    fn drop(&mut self) {
        driver::unload_module(self.0).ok();
    }
}

/// Device memory of the checksum's tables and results.
struct Tables(u64);

impl Drop for Tables {
    fn drop(&mut self) {
        driver::free(self.0).ok();
    }
}

struct Events {
    free: Vec<Event>,
    recorded: BTreeMap<u64, Event>,
    next: u64,
}

/// A GPU of this machine. What it has made in the context goes before the context does.
pub struct CudaGpu {
    properties: Properties,
    memories: RwLock<Memories>,
    events: Mutex<Events>,
    /// Whether the driver takes batches of copies, as far as it has not refused one.
    batches: AtomicBool,
    kernels: Kernels,
    streams: Streams,
    context: Retained,
}

impl CudaGpu {
    /// Opens the GPU of that number. After a [`super::probe`] that found it.
    pub fn open(ordinal: u32) -> Result<Self, GpuError> {
        let device = driver::device(ordinal)?;
        let properties = properties_of(ordinal, device)?;
        if properties.capability < (8, 0) {
            let (major, minor) = properties.capability;
            let why = format!("compute capability {major}.{minor} is too old; 8.0 or newer is needed");
            return Err(GpuError::Unavailable(why));
        }
        // From here on, what was made is given back when the next step fails.
        let context = Retained::new(device)?;
        driver::make_current(context.context)?;
        let streams = Streams::new()?;
        let kernels = Kernels::load()?;
        let events = Events { free: Vec::new(), recorded: BTreeMap::new(), next: 1 };
        let (memories, events) = (RwLock::default(), Mutex::new(events));
        let batches = AtomicBool::new(properties.batched_copies);
        Ok(Self { properties, memories, events, batches, kernels, streams, context })
    }

    fn make_current(&self) -> Result<(), GpuError> {
        driver::make_current(self.context.context)
    }

    /// The memories, with this GPU's context current on the calling thread.
    fn enter(&self) -> Result<RwLockReadGuard<'_, Memories>, GpuError> {
        self.make_current()?;
        Ok(self.memories.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, address: u64, bytes: u64, kind: Kind) -> MemoryId {
        let mut memories = self.memories.write().unwrap_or_else(PoisonError::into_inner);
        memories.add(Stored { address, bytes, kind })
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size of an allocation that was opened; refuses one of another GPU, which the driver would reach through this one.
    fn size_of_opened(&self, address: u64) -> Result<u64, GpuError> {
        let lies_on = driver::device_of(address)?;
        if lies_on != self.context.device {
            return Err(GpuError::Invalid(format!(
                "the memory is on GPU {lies_on}, not on GPU {}",
                self.context.device
            )));
        }
        Ok(driver::allocation_of(address)?.1)
    }

    fn stream(&self, lane: Lane) -> Stream {
        self.streams.0[lane as usize]
    }
}

fn properties_of(ordinal: u32, device: driver::Device) -> Result<Properties, GpuError> {
    let attribute = |which| driver::attribute(device, which);
    let driver_version = driver::driver_version()?;
    Ok(Properties {
        ordinal,
        name: driver::device_name(device)?,
        uuid: driver::device_uuid(device)?,
        total_bytes: driver::total_bytes(device)?,
        multiprocessor_count: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        driver_version,
        batched_copies: driver::has_batches(driver_version),
    })
}

impl Kernels {
    fn load() -> Result<Self, GpuError> {
        let text = std::ffi::CStr::from_bytes_with_nul(PTX.as_bytes()).expect("PTX is text without zeros");
        let module = Loaded(driver::load_module(text)?);
        let find = |name| driver::find_kernel(module.0, name);
        let shuffles =
            [(16, find(c"kvtier_shuffle_16")?), (4, find(c"kvtier_shuffle_4")?), (1, find(c"kvtier_shuffle_1")?)];
        let words = tables();
        let result_bytes = SPANS_MAX as u64 * 4;
        let tables_bytes = (size_of_val(&words[..]) as u64).next_multiple_of(ADDRESS_ALIGNMENT);
        let tables = Tables(driver::allocate(tables_bytes + result_bytes * 4)?);
        driver::upload(tables.0, &words)?;
        let results = std::array::from_fn(|lane| tables.0 + tables_bytes + lane as u64 * result_bytes);
        let checksum = find(c"kvtier_checksum")?;
        Ok(Self { shuffles, checksum, results, tables, _module: module })
    }
}

impl Gpu for CudaGpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<u64, GpuError> {
        let _memories = self.enter()?;
        driver::free_bytes()
    }

    fn allocate(&self, bytes: u64) -> Result<MemoryId, GpuError> {
        drop(self.enter()?);
        Ok(self.keep(driver::allocate(bytes)?, bytes, Kind::Device))
    }

    fn pin(&self, bytes: u64) -> Result<MemoryId, GpuError> {
        drop(self.enter()?);
        Ok(self.keep(driver::pin(bytes)?, bytes, Kind::Pinned))
    }

    fn register(&self, memory: HostMemory) -> Result<MemoryId, GpuError> {
        drop(self.enter()?);
        let (address, bytes) = (memory.address, memory.bytes);
        registered::register(address, bytes, self.context.device)?;
        match driver::device_address(address) {
            Ok(seen) => Ok(self.keep(seen, bytes, Kind::Host(memory))),
            Err(error) => {
                registered::unregister(address).ok();
                Err(error)
            }
        }
    }

    fn export(&self, memory: MemoryId) -> Result<IpcHandle, GpuError> {
        let memories = self.enter()?;
        match memories.find(memory)? {
            Stored { kind: Kind::Device, address, .. } => driver::export(*address),
            _ => Err(GpuError::Invalid(format!("memory {} is not device memory of our own", memory.0))),
        }
    }

    fn import(&self, handle: &IpcHandle) -> Result<Imported, GpuError> {
        self.make_current()?;
        // Held while opening, so that two imports of one handle share one opening.
        let mut memories = self.memories.write().unwrap_or_else(PoisonError::into_inner);
        let (address, bytes) = match memories.opened(handle) {
            Some(opened) => opened,
            None => {
                let address = driver::open_handle(handle)?;
                let bytes = self.size_of_opened(address).inspect_err(|_| {
                    driver::close_handle(address).ok();
                })?;
                (address, bytes)
            }
        };
        let memory = memories.add(Stored { address, bytes, kind: Kind::Imported(*handle) });
        Ok(Imported { memory, bytes })
    }

    fn release(&self, memory: MemoryId) -> Result<(), GpuError> {
        self.make_current()?;
        let mut memories = self.memories.write().unwrap_or_else(PoisonError::into_inner);
        let Stored { address, kind, .. } = memories.remove(memory)?;
        match kind {
            Kind::Device => driver::free(address),
            Kind::Pinned => driver::unpin(address),
            Kind::Host(host) => registered::unregister(host.address),
            // Another number may still use the opening.
            Kind::Imported(handle) if memories.opened(&handle).is_some() => Ok(()),
            Kind::Imported(_) => driver::close_handle(address),
        }
    }

    fn read(&self, at: Place, into: &mut [u8]) -> Result<(), GpuError> {
        let memories = self.memories.read().unwrap_or_else(PoisonError::into_inner);
        driver::read_pinned(memories.pinned(at, into.len() as u64)?, into);
        Ok(())
    }

    fn write(&self, at: Place, from: &[u8]) -> Result<(), GpuError> {
        let memories = self.memories.read().unwrap_or_else(PoisonError::into_inner);
        driver::write_pinned(memories.pinned(at, from.len() as u64)?, from);
        Ok(())
    }

    fn copy(&self, lane: Lane, runs: &[Run]) -> Result<(), GpuError> {
        let memories = self.enter()?;
        let (mut froms, mut tos, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for run in runs.iter().filter(|run| run.bytes > 0) {
            froms.push(memories.address(run.from, run.bytes)?);
            tos.push(memories.address(run.to, run.bytes)?);
            sizes.push(run.bytes as usize);
        }
        if sizes.len() > 1 && self.batches.load(Ordering::Relaxed) {
            match driver::copy_batch(&mut froms, &mut tos, &mut sizes, self.stream(lane)) {
                // Once more, one by one: copies that were put all the same only happen twice, in order.
                Err(GpuError::Refused { cause, .. }) => {
                    tracing::warn!(cause, "the driver takes no batches of copies; each is a call from now on");
                    self.batches.store(false, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        let each = froms.iter().zip(&tos).zip(&sizes);
        each.into_iter().try_for_each(|((from, to), bytes)| driver::copy(*from, *to, *bytes as u64, self.stream(lane)))
    }

    fn shuffle(&self, lane: Lane, shuffle: &Shuffle) -> Result<(), GpuError> {
        let memories = self.enter()?;
        shuffle.check()?;
        shuffle.ranges().try_for_each(|(place, bytes)| memories.address(place, bytes).map(drop))?;
        if shuffle.bytes() == 0 {
            return Ok(());
        }
        let address = |place: &Place| memories.address(*place, 0);
        let surfaces = shuffle.surfaces.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        let canonical = shuffle.blocks.iter().map(|block| address(&block.canonical));
        let canonical = canonical.collect::<Result<Vec<_>, _>>()?;
        let tiling = Tiling::new(shuffle, ADDRESS_ALIGNMENT);
        let kernel = self.kernels.shuffles.iter().find(|(unit, _)| *unit == tiling.unit_bytes);
        let kernel = kernel.expect("there is a kernel for every unit").1;
        let lanes = u64::from(tiling.tile_count) << tiling.lanes_log2;
        let most = self.properties.multiprocessor_count.max(1) * BLOCKS_PER_PROCESSOR;
        let blocks = u32::try_from(lanes.div_ceil(THREADS.into())).unwrap_or(most).clamp(1, most);
        let arguments = ShuffleArguments::new(shuffle, tiling, &surfaces, &canonical);
        driver::launch(kernel, (blocks, 1), self.stream(lane), &arguments)
    }

    fn checksum(&self, lane: Lane, spans: &[Span], into: Place) -> Result<(), GpuError> {
        let memories = self.enter()?;
        let result_bytes = spans.len() as u64 * 4;
        let answer = memories.pinned(into, result_bytes)?;
        if spans.len() > SPANS_MAX {
            return Err(GpuError::Invalid(format!("{} spans do not fit one call of {SPANS_MAX}", spans.len())));
        }
        if spans.is_empty() {
            return Ok(());
        }
        let mut addresses = Vec::with_capacity(spans.len());
        for span in spans {
            let address = memories.address(span.at, span.bytes.into())?;
            if span.bytes == 0 || !address.is_multiple_of(SPAN_ALIGNMENT) {
                return Err(GpuError::Invalid(format!("a span at {} is empty or not aligned", span.at.offset)));
            }
            addresses.push(address);
        }
        let longest = spans.iter().map(|span| span.bytes).max().unwrap_or(0);
        let pieces = (longest / ROW_BYTES).div_ceil(PIECE_ROWS);
        let blocks = pieces.div_ceil(THREADS / 32).clamp(1, self.properties.multiprocessor_count.max(1));
        let (stream, results) = (self.stream(lane), self.kernels.results[lane as usize]);
        let arguments = ChecksumArguments::new(self.kernels.tables.0, results, spans, &addresses);
        // The lane's results are used by this lane only, in its order.
        driver::zero(results, result_bytes, stream)?;
        driver::launch(self.kernels.checksum, (blocks, spans.len() as u32), stream, &arguments)?;
        driver::copy(results, answer, result_bytes, stream)
    }

    fn mark(&self, lane: Lane) -> Result<Mark, GpuError> {
        self.make_current()?;
        let mut events = self.events();
        let event = events.free.pop().map_or_else(driver::create_event, Ok)?;
        if let Err(error) = driver::record(event, self.stream(lane)) {
            events.free.push(event);
            return Err(error);
        }
        let number = events.next;
        events.next += 1;
        events.recorded.insert(number, event);
        Ok(Mark { lane, number })
    }

    fn wait(&self, mark: Mark) -> Result<(), GpuError> {
        self.make_current()?;
        let event = self.events().recorded.remove(&mark.number);
        let event = event.ok_or_else(|| GpuError::Lost(format!("mark {} was waited for twice", mark.number)))?;
        let reached = driver::wait(event);
        self.events().free.push(event);
        // An event fails only when work before it did: the context cannot be trusted any more. But nobody has waited yet, and
        // whoever hears of this may let go of what the work uses (INV-8).
        reached.map_err(|error| {
            driver::synchronize().ok();
            GpuError::Lost(error.to_string())
        })
    }

    fn quiesce(&self) -> Result<(), GpuError> {
        self.make_current()?;
        driver::synchronize().map_err(|error| GpuError::Lost(error.to_string()))
    }
}

impl Drop for CudaGpu {
    fn drop(&mut self) {
        // Errors, here and in what goes after this, only say that the context is lost already.
        self.make_current().ok();
        driver::synchronize().ok();
        let events = self.events.get_mut().unwrap_or_else(PoisonError::into_inner);
        let recorded = std::mem::take(&mut events.recorded);
        recorded.into_values().chain(events.free.drain(..)).for_each(|event| _ = driver::destroy_event(event));
    }
}
