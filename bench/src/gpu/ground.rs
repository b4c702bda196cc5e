//! The device, the tier and the memory everything runs on.

use std::error::Error as _;
use std::sync::Arc;

use kvtier_engine::port::{Memory, Tier};
use kvtier_hbm::conformance::Ground;
use kvtier_hbm::cuda::{Absent, CudaGpu, Machine as CudaMachine};
use kvtier_hbm::gpu::{Gpu, HostArena, HostMemory};
use kvtier_hbm::simulated::{Faults, Machine as SimulatedMachine, Simulated};
use kvtier_hbm::{Drive, HbmSettings, HbmTier, PoolSize};
use kvtier_host::{Arena, ArenaSettings, Wish};
use tokio::runtime::Runtime;

use super::{Failure, Options};
use crate::nvme::Rig;

const MIB: u64 = 1 << 20;
/// How the device of the driver's stand-in begins its name.
const STAND_IN: &str = "stand-in";

/// Where GPUs come from.
pub(super) enum Machine {
    /// The driver's.
    Real(Arc<CudaGpu>),
    /// Ours.
    Simulated(Arc<SimulatedMachine>, Arc<Simulated>),
}

impl Machine {
    pub(super) fn find(simulated: bool) -> Result<Self, Absent> {
        if simulated {
            let machine = SimulatedMachine::new();
            let gpu = Arc::new(Simulated::new(&machine, 1, 512 * MIB));
            return Ok(Self::Simulated(machine, gpu));
        }
        CudaMachine::open()?.gpus.into_iter().next().map(|gpu| Self::Real(Arc::new(gpu))).ok_or(Absent::NoDevice)
    }

    /// What it is, if it is no GPU.
    pub(super) fn pretends(&self) -> Option<&'static str> {
        match self {
            Self::Simulated(..) => Some("a simulated device"),
            Self::Real(gpu) if gpu.properties().name.starts_with(STAND_IN) => Some("a stand-in for the driver"),
            Self::Real(_) => None,
        }
    }

    pub(super) fn gpu(&self) -> Arc<dyn Gpu> {
        match self {
            Self::Real(gpu) => Arc::clone(gpu) as Arc<dyn Gpu>,
            Self::Simulated(_, gpu) => Arc::clone(gpu) as Arc<dyn Gpu>,
        }
    }
}

/// Sizes of what is measured: a real device's, or just enough to walk every path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Blocks of the chain.
    pub(super) blocks: u64,
    /// Layers; 64 KiB each.
    pub(super) layers: u32,
    /// Calls whose CPU is counted.
    pub(super) calls: u32,
    pool_bytes: u64,
    arena_bytes: u64,
    file_bytes: u64,
}

const REAL: Sizes = Sizes {
    blocks: 64,
    layers: 32,
    calls: 2000,
    pool_bytes: 1024 * MIB,
    arena_bytes: 320 * MIB,
    file_bytes: 512 * MIB,
};
const SIMULATED: Sizes =
    Sizes { blocks: 4, layers: 4, calls: 500, pool_bytes: 16 * MIB, arena_bytes: 16 * MIB, file_bytes: 160 * MIB };

/// A tier on one GPU and the arena it has registered.
pub(super) struct Site {
    pub(super) simulated: Option<Arc<SimulatedMachine>>,
    /// What the device is, if it is no GPU.
    pub(super) pretends: Option<&'static str>,
    pub(super) ground: Ground,
    pub(super) sizes: Sizes,
    /// The NVMe tier over the same arena; or why there is none.
    pub(super) nvme: Result<Rig, String>,
    pub(super) arena: Arc<Arena>,
    _folder: tempfile::TempDir,
}

impl Site {
    pub(super) fn open(machine: &Machine, options: &Options, runtime: &Runtime) -> Result<Self, Failure> {
        let pretends = machine.pretends();
        let sizes = if pretends.is_some() { SIMULATED } else { REAL };
        let folder = tempfile::tempdir_in(options.folder.clone().unwrap_or_else(std::env::temp_dir))?;
        let gpu = machine.gpu();
        let opened = runtime.block_on(Rig::open(folder.path(), sizes.file_bytes, sizes.arena_bytes, true));
        let with_nvme = opened.map_err(|why| why.to_string()).and_then(|rig| {
            let arena = rig.shared_memory();
            Ok((open_tier(sizes, &gpu, &arena).map_err(|why| why.to_string())?, arena, rig))
        });
        let (tier, arena, nvme) = match with_nvme {
            Ok((tier, arena, rig)) => (tier, arena, Ok(rig)),
            // Once more with plain memory that no disk has registered.
            Err(why) => {
                println!("without NVMe, and with small pages: {why}");
                let arena = plain_arena(sizes)?;
                (open_tier(sizes, &gpu, &arena)?, arena, Err(why))
            }
        };
        let memory: Arc<dyn Memory> = arena.clone();
        let simulated = match machine {
            Machine::Simulated(machine, device) => {
                let refuse_copies = if options.plant_fault { u64::MAX } else { 0 };
                device.set_faults(Faults { refuse_copies, ..Faults::default() });
                Some(Arc::clone(machine))
            }
            Machine::Real(_) => None,
        };
        let ground = Ground { gpu, tier, memory, seed: options.seed };
        Ok(Self { simulated, pretends, ground, sizes, nvme, arena, _folder: folder })
    }

    /// What the tier says of itself.
    pub(super) fn health(&self) -> String {
        format!("{:?}", self.ground.tier.health())
    }
}

/// A tier and host memory, and nothing else.
pub(super) struct Store {
    pub(super) tier: HbmTier,
    pub(super) memory: Arc<Arena>,
}

impl Store {
    pub(super) fn open(machine: &Machine) -> Result<Self, Failure> {
        let memory = plain_arena(REAL)?;
        Ok(Self { tier: open_tier(REAL, &machine.gpu(), &memory)?, memory })
    }
}

fn plain_arena(sizes: Sizes) -> Result<Arc<Arena>, Failure> {
    let settings = ArenaSettings {
        bytes: sizes.arena_bytes,
        extent_bytes: 2 * MIB,
        huge_pages: Wish::Off,
        ..ArenaSettings::default()
    };
    Ok(Arc::new(Arena::create(&settings)?))
}

fn open_tier(sizes: Sizes, gpu: &Arc<dyn Gpu>, arena: &Arc<Arena>) -> Result<HbmTier, Failure> {
    let memory: Arc<dyn Memory> = arena.clone();
    let host = HostMemory {
        address: arena.address(),
        bytes: arena.size_bytes(),
        access: Arc::new(HostArena::new(Arc::clone(&memory), 0)),
        keep: arena.keep(),
    };
    let settings =
        HbmSettings { pool: PoolSize::Bytes(sizes.pool_bytes), extent_bytes: 4 * MIB, ..HbmSettings::default() };
    let opened = HbmTier::open(&settings, vec![Arc::clone(gpu)], memory, &[host], Drive::Threads);
    Ok(opened.map_err(|why| match why.source() {
        Some(source) => format!("{why}: {source}"),
        None => why.to_string(),
    })?)
}
