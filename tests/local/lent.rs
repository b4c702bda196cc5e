//! KV memory as a worker without a GPU lends it: files, and a gate that decides when the GPU goes on. The GPU is the simulated
//! one, or what the stand-in for NVIDIA's driver makes of the CPU: [`on_driver`] decides, for all tests here.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use kvtier_client::LocalClient;
use kvtier_client::local::{GpuLayout, GpuMemory};
use kvtier_hbm::conformance::{Dice, gather, scatter};
use kvtier_hbm::layout::{KvLayout, Surface};
use kvtier_hbm::simulated::shared_handle;
use kvtier_proto::v1;
use kvtier_tests::{Setup, World, driver};
use rustix::fs::MemfdFlags;

/// Where this is set in the environment of the tests, their daemons use the driver.
pub const ON_DRIVER: &str = "KVTIER_TEST_ON_DRIVER";

/// Whether the daemons' GPU is the driver's.
pub fn on_driver() -> bool {
    std::env::var_os(ON_DRIVER).is_some()
}

/// Settings of a daemon with a GPU whose workers may lend memory, and these on top.
pub fn gpu_setup(settings: &[(&str, &str)]) -> Setup {
    if on_driver() {
        return driver_setup(settings);
    }
    Setup::with(settings).and("hbm.workers", "true").and("hbm.device", "simulated")
}

/// The same with the driver's stand-in. What is left in its context when the daemon ends, ends it badly; so do streams that race.
/// `KVTIER_DRIVER_SEED` is handed on.
pub fn driver_setup(settings: &[(&str, &str)]) -> Setup {
    let seed = std::env::var_os("KVTIER_DRIVER_SEED").unwrap_or_else(|| "1".into());
    // A measurement makes calls, and faults are counted in them.
    let unmeasured: &[_] = &[("hbm.copied_from", "64KiB")];
    Setup::with(&[unmeasured, settings].concat())
        .and("hbm.workers", "true")
        .with_variable("LD_LIBRARY_PATH", driver::stand_in().to_string_lossy())
        .with_variable("KVTIER_DRIVER_LEAKS", "abort")
        .with_variable("KVTIER_DRIVER_RACES", "abort")
        .with_variable("KVTIER_DRIVER_SEED", seed.to_string_lossy())
}

/// A world on such a daemon, once the GPU is open.
pub async fn gpu_world(settings: &[(&str, &str)]) -> World {
    let mut world = World::of(gpu_setup(settings).start()).await;
    wait_for_gpu(&mut world).await;
    world
}

/// Waits until the GPU is open.
pub async fn wait_for_gpu(world: &mut World) {
    world.wire.status_until("an open GPU", |status| tier(status).state != "absent").await;
}

/// The HBM tier as `status` shows it.
pub fn tier(status: &v1::StatusResponse) -> &v1::TierStatus {
    status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Hbm).expect("the tier is on")
}

/// A worker's memory.
pub struct Kv {
    pub layout: KvLayout,
    pub files: Vec<File>,
    sizes: Vec<u64>,
}

impl Kv {
    /// Memory full of bytes that follow from the seed.
    pub fn new(layout: KvLayout, sizes: Vec<u64>, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let file = |bytes: &u64| {
            let file = rustix::fs::memfd_create("kvtier-test", MemfdFlags::CLOEXEC).expect("a memfd");
            let file = File::from(file);
            file.write_all_at(&dice.bytes(*bytes as usize), 0).expect("written");
            file
        };
        let files = sizes.iter().map(file).collect();
        Self { layout, files, sizes }
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let read = |(file, bytes): (&File, &u64)| {
            let mut all = vec![0; *bytes as usize];
            file.read_exact_at(&mut all, 0).expect("read");
            all
        };
        self.files.iter().zip(&self.sizes).map(read).collect()
    }

    /// The canonical bytes of a block.
    pub fn block(&self, number: u64) -> Vec<u8> {
        gather(&self.layout, &self.bytes(), number)
    }

    /// What all of it must be once these blocks were loaded.
    pub fn with(&self, blocks: &[(u64, &[u8])]) -> Vec<Vec<u8>> {
        let mut all = self.bytes();
        blocks.iter().for_each(|(number, block)| scatter(&self.layout, &mut all, *number, block));
        all
    }

    pub fn handles(&self, gate: Option<&PipeReader>) -> Vec<[u8; 64]> {
        let gate = gate.map(AsRawFd::as_raw_fd);
        self.files.iter().map(|file| shared_handle(std::process::id(), file.as_raw_fd(), gate).0).collect()
    }

    pub fn lend(&self, client: &LocalClient) -> GpuMemory {
        client.import_gpu_memory(0, &self.handles(None), &told(&self.layout)).expect("memory is lent")
    }

    pub fn lend_gated(&self, client: &LocalClient, gate: &Gate) -> GpuMemory {
        client.import_gpu_memory(0, &self.handles(Some(&gate.exit)), &told(&self.layout)).expect("memory is lent")
    }
}

/// Keeps a GPU waiting before every piece of work on a memory.
pub struct Gate {
    pub exit: PipeReader,
    entrance: PipeWriter,
}

impl Gate {
    pub fn new() -> Self {
        let (exit, entrance) = std::io::pipe().expect("a pipe");
        Self { exit, entrance }
    }

    /// Lets so many pieces begin.
    pub fn let_pass(&mut self, count: usize) {
        self.entrance.write_all(&vec![0; count]).expect("the daemon has the other end");
    }

    /// Lets all of it go on.
    pub fn open(self) {}
}

/// A layout as it is told to the daemon.
pub fn told(layout: &KvLayout) -> GpuLayout {
    GpuLayout {
        surface_memories: layout.surfaces.iter().map(|surface| surface.memory).collect(),
        surface_offsets: layout.surfaces.iter().map(|surface| surface.offset).collect(),
        surfaces_per_layer: layout.surfaces_per_layer,
        planes: layout.planes,
        tokens: layout.tokens,
        heads: layout.heads,
        head_elements: layout.head_elements,
        element_bytes: layout.element_bytes,
        block_count: layout.block_count,
        block_stride: layout.block_stride,
        plane_stride: layout.plane_stride,
        token_stride: layout.token_stride,
        head_stride: layout.head_stride,
    }
}

const LAYERS: u32 = 4;
const TOKENS: u32 = 16;
const HEAD_ELEMENTS: u32 = 16;
/// Blocks of the memories below.
pub const BLOCK_COUNT: u64 = 8;

/// 4 layers of 16 tokens with so many heads, each layer in a memory of its own: NHD with K and V in one tensor.
pub fn nhd(heads: u32) -> (KvLayout, Vec<u64>) {
    nhd_of(heads, BLOCK_COUNT)
}

/// The same with so many blocks.
pub fn nhd_of(heads: u32, block_count: u64) -> (KvLayout, Vec<u64>) {
    let head = u64::from(HEAD_ELEMENTS) * 2;
    let page = head * u64::from(TOKENS * heads);
    let layout = KvLayout {
        surfaces: (0..LAYERS).map(|memory| Surface { memory, offset: 0 }).collect(),
        surfaces_per_layer: 1,
        planes: 2,
        tokens: TOKENS,
        heads,
        head_elements: HEAD_ELEMENTS,
        element_bytes: 2,
        block_count,
        block_stride: page,
        plane_stride: page * block_count,
        token_stride: head * u64::from(heads),
        head_stride: head,
    };
    (layout, vec![2 * page * block_count; LAYERS as usize])
}

/// The same as HND, K and V of a block side by side.
pub fn hnd(heads: u32) -> (KvLayout, Vec<u64>) {
    let (layout, sizes) = nhd(heads);
    let page = layout.block_stride;
    let head = layout.head_stride;
    let (block_stride, plane_stride) = (2 * page, page);
    let (token_stride, head_stride) = (head, head * u64::from(TOKENS));
    (KvLayout { block_stride, plane_stride, token_stride, head_stride, ..layout }, sizes)
}

/// The same in one memory, K and V as tensors of their own.
pub fn split(heads: u32) -> (KvLayout, Vec<u64>) {
    let (layout, _) = nhd(heads);
    let tensor = layout.block_stride * BLOCK_COUNT;
    let place = |number: u32| Surface { memory: 0, offset: u64::from(number) * tensor };
    let surfaces: Vec<_> = (0..2 * LAYERS).map(place).collect();
    let bytes = tensor * surfaces.len() as u64;
    (KvLayout { surfaces, surfaces_per_layer: 2, planes: 1, plane_stride: 0, ..layout }, vec![bytes])
}
