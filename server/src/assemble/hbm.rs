//! The HBM tier: opened in the background, and shown in `status` with its room or with the reason why it has none.
//!
//! Nothing waits for it: registering the arenas with a GPU pins every page of them, which takes a second or so per 10 GiB.
//! A machine without a GPU, a driver that is too old, a pool that does not fit: the node serves without the tier.

use std::error::Error;
use std::sync::Arc;

use kvtier_engine::port::{Clock, Memory, Spawn, Tier};
use kvtier_hbm::cuda;
use kvtier_hbm::gpu::{Gpu, HostArena, HostMemory};
use kvtier_hbm::simulated::{Machine, Simulated};
use kvtier_hbm::{CopiedFrom, Drive, HbmSettings, HbmTier, OpenError, PoolSize};
use kvtier_host::{Arena, Arenas};

use super::domain_pools::{DomainPools, DomainShare, HotRules};
use super::gpus::NodeGpus;
use super::opening::Opening;
use super::pools::Pools;
use crate::config::{Config, GpuDevice, HbmPool};
use crate::local::gpu::Gpus;
use crate::service::{HbmLook, HbmSight};

/// What a simulated GPU has; its pool is taken from it, and from this process.
const SIMULATED_BYTES: u64 = 4 << 30;
/// Decides in which order it does what it is told.
const SIMULATED_SEED: u64 = 1;

/// The tier, or why there is none.
pub(super) type Opened = Result<Found, String>;

/// The tier, and its hot blocks if it has pools.
pub(super) struct Found {
    pub(super) tier: HbmTier,
    pub(super) pools: DomainPools,
    /// GPUs of the machine that are not in the tier, and why.
    pub(super) left_out: Vec<String>,
}

/// What comes of the settings.
pub(super) struct Hbm {
    /// How it is shown; none: it is off.
    pub(super) look: Option<HbmLook>,
    /// How workers reach it.
    pub(super) gpus: Arc<dyn Gpus>,
    /// How the engine reaches its pools, and they it.
    pub(super) pools: Pools,
}

/// Begins to open the tier.
pub(super) fn open(
    config: &Config,
    arenas: &Arc<Arenas>,
    memory: &Arc<dyn Memory>,
    clock: &Arc<dyn Clock>,
    spawn: &Arc<dyn Spawn>,
) -> Hbm {
    let pool = match config.hbm.pool() {
        // A pool that cannot be read is refused when the settings are checked.
        Ok(HbmPool::Off) | Err(_) => PoolSize::Off,
        Ok(HbmPool::Bytes(bytes)) => PoolSize::Bytes(bytes),
        Ok(HbmPool::Percent(percent)) => PoolSize::Percent(percent),
    };
    let host_bytes = arenas.all().iter().map(|arena| arena.size_bytes()).sum();
    let opening = Arc::new(Opening::new(Arc::clone(clock), config.hbm.hang_timeout, host_bytes));
    let gpus = Arc::new(NodeGpus::new(config.hbm.workers, Arc::clone(&opening)));
    let pools = Pools::new(&opening);
    if pool == PoolSize::Off && !config.hbm.workers {
        opening.end(Err("it is off: set hbm.workers or hbm.bytes".into()));
        return Hbm { look: None, gpus, pools };
    }
    let settings = settings_of(config, pool);
    let (device, measured) = (config.hbm.device, config.hbm.copied_from == 0);
    let rules = HotRules { policy: super::policy_of(config), pin_bytes_max: config.limits.pin_quota_bytes };
    let domain = |(name, arena): (&str, &Arc<Arena>)| DomainShare {
        name: name.to_owned(),
        host_bytes: arena.size_bytes(),
        listener: pools.listener(),
    };
    let domains: Vec<_> = super::domain_names(config).zip(arenas.all()).map(domain).collect();
    let (clock, spawn) = (Arc::clone(clock), Arc::clone(spawn));
    let (arenas, memory) = (Arc::clone(arenas), Arc::clone(memory));
    let slot = Arc::clone(&opening);
    let begin = move || {
        let found = find(device);
        let tier = found.and_then(|Gathered { gpus, mut left_out }| {
            let tier = open_now(&settings, gpus, &arenas, memory)?;
            left_out.extend(tier.left_out().iter().map(words_of));
            if measured && device != GpuDevice::Simulated {
                tier.measure_ways(&|| clock.now());
            }
            let pools = DomainPools::new(&tier, domains, &rules, &clock, &spawn);
            Ok(Found { tier, pools, left_out })
        });
        match &tier {
            Ok(found) => tracing::info!(gpus = found.tier.device_count(), "HBM tier opened"),
            Err(why) => tracing::warn!(why, "the HBM tier has no room; everything else works"),
        }
        slot.end(tier);
    };
    if let Err(error) = std::thread::Builder::new().name("hbm-open".into()).spawn(begin) {
        opening.end(Err(format!("no thread to open it: {error}")));
    }
    Hbm { look: Some(Arc::new(move || sight(&opening))), gpus, pools }
}

fn settings_of(config: &Config, pool: PoolSize) -> HbmSettings {
    let hbm = &config.hbm;
    let settings =
        HbmSettings { pool, extent_bytes: hbm.extent_bytes, hang_timeout: hbm.hang_timeout, ..Default::default() };
    match hbm.copied_from {
        0 => settings,
        bytes => HbmSettings { copied_from: CopiedFrom::all(bytes), ..settings },
    }
}

/// GPUs that were found, and why others cannot be used.
struct Gathered {
    gpus: Vec<Arc<dyn Gpu>>,
    left_out: Vec<String>,
}

/// The GPUs of this machine, or one that is none.
fn find(device: GpuDevice) -> Result<Gathered, String> {
    if device == GpuDevice::Simulated {
        tracing::warn!("hbm.device = \"simulated\": the GPU is host memory");
        let gpu = Arc::new(Simulated::new(&Machine::new(), SIMULATED_SEED, SIMULATED_BYTES));
        return Ok(Gathered { gpus: vec![gpu], left_out: Vec::new() });
    }
    let machine = cuda::Machine::open().map_err(|absent| absent.to_string())?;
    let told = |(ordinal, error): &(u32, _)| format!("GPU {ordinal} cannot be used: {error}");
    let left_out = machine.left_out.iter().map(told).collect();
    let gpus = machine.gpus.into_iter().map(|gpu| Arc::new(gpu) as Arc<dyn Gpu>).collect();
    Ok(Gathered { gpus, left_out })
}

fn words_of(error: &OpenError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn open_now(
    settings: &HbmSettings,
    gpus: Vec<Arc<dyn Gpu>>,
    arenas: &Arc<Arenas>,
    memory: Arc<dyn Memory>,
) -> Result<HbmTier, String> {
    let registered = arenas.all().iter().zip(0..).map(|(arena, number)| HostMemory {
        address: arena.address(),
        bytes: arena.size_bytes(),
        access: Arc::new(HostArena::new(Arc::clone(&memory), number)),
        keep: arena.keep(),
    });
    let registered: Vec<_> = registered.collect();
    HbmTier::open(settings, gpus, memory, &registered, Drive::Threads).map_err(|error| words_of(&error))
}

fn sight(opening: &Opening) -> HbmSight {
    match opening.outcome() {
        None => {
            let why = opening.late().unwrap_or_else(|| "still opening".into());
            HbmSight { absent: Some(why), ..HbmSight::default() }
        }
        Some(Err(why)) => HbmSight { absent: Some(why.clone()), ..HbmSight::default() },
        Some(Ok(Found { tier, pools, left_out })) => HbmSight {
            left_out: left_out.clone(),
            domains: pools.counts(),
            counters: pools.counters(),
            devices: tier.health(),
            capacity_bytes: tier.geometry().iter().map(|pool| pool.bytes).sum(),
            absent: None,
        },
    }
}
