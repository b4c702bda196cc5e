//! The HBM tier: opened in the background, and shown in `status` with its room or with the reason why it has none.
//!
//! Nothing waits for it: registering the arenas with a GPU pins every page of them, which takes a second or so per 10 GiB.
//! A machine without a GPU, a driver that is too old, a pool that does not fit: the node serves without the tier.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use kvtier_engine::port::{Clock, Memory, Spawn, Tier};
use kvtier_hbm::cuda;
use kvtier_hbm::gpu::{Gpu, HostArena, HostMemory};
use kvtier_hbm::simulated::{Machine, Simulated};
use kvtier_hbm::{CopiedFrom, Drive, HbmSettings, HbmTier, HotPool, OpenError, PoolSize};
use kvtier_host::Arenas;

use super::gpus::NodeGpus;
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

/// The tier, and its hot blocks if it has a pool.
pub(super) struct Found {
    pub(super) tier: HbmTier,
    pub(super) pool: Option<Arc<HotPool>>,
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
    let opened: Arc<OnceLock<Opened>> = Arc::default();
    let gpus = Arc::new(NodeGpus::new(config.hbm.workers, Arc::clone(&opened)));
    let pools = Pools::new(&opened);
    if pool == PoolSize::Off && !config.hbm.workers {
        return Hbm { look: None, gpus, pools };
    }
    let mut settings = HbmSettings {
        pool,
        extent_bytes: config.hbm.extent_bytes,
        hang_timeout: config.hbm.hang_timeout,
        ..HbmSettings::default()
    };
    if config.hbm.copied_from > 0 {
        settings.copied_from = CopiedFrom::all(config.hbm.copied_from);
    }
    let (device, measured) = (config.hbm.device, config.hbm.copied_from == 0);
    let (policy, pin_bytes_max) = (super::policy_of(config), config.limits.pin_quota_bytes);
    let (clock, spawn) = (Arc::clone(clock), Arc::clone(spawn));
    let (arenas, memory) = (Arc::clone(arenas), Arc::clone(memory));
    let (slot, listener) = (Arc::clone(&opened), pools.listener());
    let begin = move || {
        let found = find(device);
        let tier = found.and_then(|Gathered { gpus, mut left_out }| {
            let tier = open_now(&settings, gpus, &arenas, memory)?;
            left_out.extend(tier.left_out().iter().map(words_of));
            if measured && device != GpuDevice::Simulated {
                tier.measure_ways(&|| clock.now());
            }
            let pool = HotPool::new(tier.clone(), clock, spawn, policy, pin_bytes_max, listener);
            Ok(Found { tier, pool, left_out })
        });
        match &tier {
            Ok(found) => tracing::info!(gpus = found.tier.device_count(), "HBM tier opened"),
            Err(why) => tracing::warn!(why, "the HBM tier has no room; everything else works"),
        }
        // Set once: this thread is the only one.
        slot.set(tier).ok();
    };
    if let Err(error) = std::thread::Builder::new().name("hbm-open".into()).spawn(begin) {
        opened.set(Err(format!("no thread to open it: {error}"))).ok();
    }
    Hbm { look: Some(Arc::new(move || sight(opened.get()))), gpus, pools }
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

fn sight(opened: Option<&Opened>) -> HbmSight {
    match opened {
        None => HbmSight { absent: Some("still opening".into()), ..HbmSight::default() },
        Some(Err(why)) => HbmSight { absent: Some(why.clone()), ..HbmSight::default() },
        Some(Ok(Found { tier, pool, left_out })) => HbmSight {
            left_out: left_out.clone(),
            count: pool.as_ref().map(|pool| pool.count()).unwrap_or_default(),
            counters: pool.as_ref().map(|pool| pool.counters()).unwrap_or_default(),
            devices: tier.health(),
            capacity_bytes: tier.geometry().iter().map(|pool| pool.bytes).sum(),
            absent: None,
        },
    }
}
