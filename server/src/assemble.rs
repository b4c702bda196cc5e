//! Puts the node together: the only file that names concrete tiers.
//!
//! ```text
//!   index ──► WAL from the index's position ──► arena ──► disks ──► NVMe tier ──► engine ──► (listeners)
//!                                                 └─ prefault, then registration with the rings: in the background
//! ```
//!
//! The order is that of the first hit after a restart: nothing on the way waits for memory to be touched or for the RAM
//! index to fill. An error names the component and what to do; what was opened before it closes again, and nothing on
//! disk has changed except what recovery itself repairs (a torn tail, a superblock's second copy).

mod domain_pools;
mod gpus;
mod hbm;
mod opening;
mod pools;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};

use kvtier_device::{DiskSettings, Driver, LocalDisk, open_disk};
use kvtier_engine::flow::{Engine, EngineError, EngineSettings, Ports};
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::{Clock, Index, IndexError, Memory, Random, Spawn, Tier};
use kvtier_host::{Arena, ArenaError, ArenaSettings, Arenas, Wish};
use kvtier_index::{IndexSettings, RocksIndex};
use kvtier_nvme::open::bytes_to_create;
use kvtier_nvme::{DeviceSource, NvmeSettings, NvmeTier, Presence, scratch_bytes};
use kvtier_wal::{Mode, WalError, WalThread, spawn_writer_thread};

use crate::config::{Admission, Config, Eviction, HugePages, Io, MemoryLock, NODE_DOMAIN};
use crate::home::Home;
use crate::local::SharedMemory;
use crate::local::gpu::Gpus;
use crate::runtime::{RuntimeSpawn, SystemRandom};
use crate::service::HbmLook;

/// Extents of the tier's scratch memory. Nothing is allocated from it by size, so any size will do.
const SCRATCH_EXTENT_BYTES: u64 = 64 << 10;

/// How fast a device is verified at most. The engine keeps to the setting in idle time; a scrub somebody asked for goes
/// as fast as loads and stores leave room.
const SCRUB_BYTES_PER_SECOND_MAX: u64 = 1 << 30;
/// How far a get reads ahead at most, and which share of a domain's host memory that may be.
const READ_AHEAD_BYTES_MAX: u64 = 64 << 20;
const READ_AHEAD_SHARE: u64 = 8;

/// Why the node cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The metadata index.
    #[error("the index cannot be opened: {0}; `kvtierd fsck` explains, and `kvtierd fsck --repair` makes it again")]
    Index(IndexError),
    /// The event log.
    #[error("{0}")]
    Journal(#[from] WalError),
    /// Host memory.
    #[error("the host tier cannot be had: {0}")]
    Host(#[from] ArenaError),
    /// A disk.
    #[error("the NVMe tier cannot be opened: {0}")]
    Disk(#[from] kvtier_device::OpenError),
    /// A data file.
    #[error("the NVMe tier cannot be opened: {0}")]
    Nvme(#[from] kvtier_nvme::OpenError),
    /// The engine.
    #[error("recovery failed: {0}")]
    Engine(#[from] EngineError),
    /// Something of the system.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What came back.
        source: std::io::Error,
    },
}

/// A running node without listeners.
pub struct Assembly {
    /// The engine.
    pub engine: Engine,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its tasks.
    pub spawn: Arc<RuntimeSpawn>,
    /// The index, for its figures.
    pub index: Arc<RocksIndex>,
    /// How the host arenas were made, for people.
    pub host_detail: Arc<dyn Fn() -> String + Send + Sync>,
    /// What has become of the HBM tier; `None`: it is off.
    pub hbm: Option<HbmLook>,
    /// Opens workers' GPU memory.
    pub gpus: Arc<dyn Gpus>,
    /// Its randomness.
    pub random: Arc<dyn Random>,
    /// The arenas, for local workers.
    pub shared_memory: Arc<dyn SharedMemory>,
    wal: WalThread,
}

/// Opens everything in `home` and starts the engine. Inside a tokio runtime.
pub async fn assemble(config: &Config, home: &Home, clock: Arc<dyn Clock>) -> Result<Assembly, AssembleError> {
    let spawn = RuntimeSpawn::current();
    let random = SystemRandom::open().map_err(|source| AssembleError::System { doing: "open /dev/urandom", source })?;
    let index =
        RocksIndex::open(&config.index.directory, index_settings(config, home)).map_err(AssembleError::Index)?;
    tracing::info!(applied = index.applied(), blocks = index.status().block_count_estimate, "index opened");
    let wal = open_wal(config, home, &clock, index.applied())?;
    let arenas = Arc::new(Arenas::create(&arena_settings(config))?);
    for (name, arena) in domain_names(config).zip(arenas.all()) {
        tracing::info!(domain = name, arena = %arena.report(), "host tier mapped");
    }
    let memory: Arc<dyn Memory> = arenas.clone();
    let hbm::Hbm { look: hbm, gpus, pools } =
        hbm::open(config, &arenas, &memory, &clock, &(Arc::clone(&spawn) as Arc<dyn Spawn>));
    let mut disks = Vec::new();
    let nvme = match config.nvme.enabled {
        true => Some(open_nvme(config, home, &clock, &spawn, &memory, &mut disks).await?),
        false => None,
    };
    let random: Arc<dyn Random> = Arc::new(random);
    let ports = Ports {
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        spawn: spawn.clone(),
        memory,
        nvme,
        journal: wal.wal.clone(),
        index: index.clone(),
    };
    let engine = Engine::start(ports, engine_settings(config, home)).await?;
    pools.join(&engine);
    prepare_memory(config, &arenas, &disks);
    let host_detail = detail_of(config, &arenas);
    Ok(Assembly {
        engine,
        clock,
        spawn,
        index,
        host_detail,
        hbm,
        gpus,
        random,
        shared_memory: Arc::new(SharedArenas(arenas)),
        wal,
    })
}

impl Assembly {
    /// Ends the node's own tasks, and writes and closes what is open. After [`Engine::drain`].
    pub async fn close(self) {
        self.engine.stop();
        let Self { engine, index, wal, spawn, hbm, gpus, .. } = self;
        drop((engine, spawn));
        // Both block until what is queued is on disk.
        let closing = tokio::task::spawn_blocking(move || {
            if let Err(error) = wal.finish() {
                tracing::warn!(%error, "the event log did not end well; recovery will look at it");
            }
            // The pools in GPU memory keep the engine, and it the index.
            drop((hbm, gpus));
            drop(index);
        });
        if closing.await.is_err() {
            tracing::warn!("closing ended with a panic; recovery will look at what is on disk");
        }
    }
}

/// Touches the arenas' pages and registers them with the rings, in the background and in this order: registered pages
/// cannot become huge any more. Until then transfers go through small pages and plain operations.
fn prepare_memory(config: &Config, arenas: &Arc<Arenas>, disks: &[Weak<LocalDisk>]) {
    let register = {
        let places =
            arenas.all().iter().map(|arena| (arena.address(), arena.size_bytes(), Arc::downgrade(&arena.keep())));
        let (places, disks) = (places.collect::<Vec<_>>(), disks.to_vec());
        move |arena: usize, ready_bytes: u64| {
            let (address, bytes, keep) = &places[arena];
            for disk in disks.iter().filter_map(Weak::upgrade) {
                if let Some(keep) = keep.upgrade() {
                    let arena = kvtier_device::Arena { address: *address, bytes: *bytes, keep };
                    disk.register_arena_up_to(arena, ready_bytes);
                }
            }
        }
    };
    let register_all = |register: &dyn Fn(usize, u64)| {
        arenas.all().iter().enumerate().for_each(|(number, arena)| register(number, arena.size_bytes()));
    };
    if !config.host.prefault {
        return register_all(&register);
    }
    if let Err(error) = arenas.prefault_in_background(register.clone()) {
        tracing::warn!(%error, "host memory is not prefaulted; the first puts are slower");
        register_all(&register);
    }
}

/// How the arenas were made and how much of each is in huge pages by now.
fn detail_of(config: &Config, arenas: &Arc<Arenas>) -> Arc<dyn Fn() -> String + Send + Sync> {
    let names: Vec<String> = domain_names(config).map(str::to_owned).collect();
    let arenas = Arc::downgrade(arenas);
    Arc::new(move || {
        let Some(arenas) = arenas.upgrade() else { return String::new() };
        let each = names.iter().zip(arenas.all());
        match arenas.all() {
            [arena] => arena.describe(),
            _ => each.map(|(name, arena)| format!("{name}: {}", arena.describe())).collect::<Vec<_>>().join("; "),
        }
    })
}

fn open_wal(config: &Config, home: &Home, clock: &Arc<dyn Clock>, covered: u64) -> Result<WalThread, AssembleError> {
    let made = std::fs::create_dir_all(&config.wal.directory);
    made.map_err(|source| AssembleError::System { doing: "create the event log's directory", source })?;
    let settings = wal_settings(config, home);
    let wal = spawn_writer_thread(&config.wal.directory, Mode::Auto, Arc::clone(clock), settings, covered)?;
    let found = &wal.recovered;
    tracing::info!(
        mode = wal.mode,
        epoch = found.epoch,
        tail_records = found.tail_record_count,
        torn_bytes = found.torn_tail_bytes,
        "event log opened"
    );
    Ok(wal)
}

async fn open_nvme(
    config: &Config,
    home: &Home,
    clock: &Arc<dyn Clock>,
    spawn: &Arc<RuntimeSpawn>,
    memory: &Arc<dyn Memory>,
    disks: &mut Vec<Weak<LocalDisk>>,
) -> Result<Arc<dyn Tier>, AssembleError> {
    let settings = nvme_settings(config);
    let bytes = scratch_bytes(settings.paths.len()).next_multiple_of(SCRATCH_EXTENT_BYTES);
    let scratch = Arc::new(Arena::create(&ArenaSettings {
        bytes,
        extent_bytes: SCRATCH_EXTENT_BYTES,
        huge_pages: Wish::Off,
        mlock: Wish::Off,
        prefault: false,
    })?);
    let mut sources = Vec::with_capacity(settings.paths.len());
    for path in &settings.paths {
        let disk = Arc::new(open_disk(&disk_settings(config, path)?)?);
        let (address, bytes, keep) = (scratch.address(), scratch.size_bytes(), scratch.keep());
        disk.register_arena(kvtier_device::Arena { address, bytes, keep });
        disks.push(Arc::downgrade(&disk));
        tracing::info!(path = %path.display(), mode = kvtier_device::Disk::mode(&*disk), "disk opened");
        let presence = Arc::new(NamedDisk(disk.clone()));
        sources.push(DeviceSource { path: path.clone(), disk, presence });
    }
    let ports = kvtier_nvme::Ports {
        memory: Arc::clone(memory),
        scratch,
        clock: Arc::clone(clock),
        spawn: Arc::clone(spawn) as Arc<dyn Spawn>,
    };
    Ok(Arc::new(NvmeTier::open(&settings, kvtier_nvme::NodeId(home.node.0), sources, ports).await?))
}

/// The arenas as local workers get them.
struct SharedArenas(Arc<Arenas>);

impl SharedMemory for SharedArenas {
    fn arena(&self, domain: usize, writable: bool) -> std::io::Result<OwnedFd> {
        self.0.all()[domain].share(writable)
    }

    fn generations(&self, domain: usize) -> std::io::Result<OwnedFd> {
        self.0.all()[domain].share_generations()
    }

    fn arena_bytes(&self, domain: usize) -> u64 {
        self.0.all()[domain].size_bytes()
    }

    fn generation_bytes(&self, domain: usize) -> u64 {
        self.0.all()[domain].generation_bytes()
    }
}

/// Asks whether a disk's path still leads to it.
struct NamedDisk(Arc<LocalDisk>);

impl Presence for NamedDisk {
    fn check(&self) -> Result<(), String> {
        self.0.check_identity().map_err(|change| change.to_string())
    }
}

/// The engine's settings.
pub fn engine_settings(config: &Config, home: &Home) -> EngineSettings {
    let limits = &config.limits;
    let count = |setting: u64| u32::try_from(setting).unwrap_or(u32::MAX);
    let least_arena_bytes = arena_settings(config).iter().map(|arena| arena.bytes).min().unwrap_or(0);
    let tenants = (1..)
        .zip(config.domains.values())
        .flat_map(|(number, domain)| domain.tenants.iter().map(move |tenant| (tenant.clone(), number)));
    EngineSettings {
        root_secret: home.secret.0,
        host_domains: tenants.collect(),
        policy: policy_of(config),
        admission: match config.nvme.admission {
            Admission::All => AdmissionKind::All,
            Admission::SecondTouch => AdmissionKind::SecondTouch,
        },
        lease_max: limits.lease_max,
        lease_count_max: count(limits.leases_max),
        pin_ttl_max: limits.pin_ttl_max,
        pin_quota_bytes: limits.pin_quota_bytes,
        part_deadline: limits.part_deadline,
        pending_count_max: count(limits.pending_puts_max),
        history_count_max: count(limits.history_count),
        index_flush_interval: config.index.flush_interval,
        scrub_bytes_per_second: config.nvme.scrub_bytes_per_second,
        read_ahead_bytes: (least_arena_bytes / READ_AHEAD_SHARE).min(READ_AHEAD_BYTES_MAX),
        ..EngineSettings::default()
    }
}

fn policy_of(config: &Config) -> PolicyKind {
    match config.policy.eviction {
        Eviction::LeafLru => PolicyKind::LeafLru,
        Eviction::S3Fifo => PolicyKind::S3Fifo,
    }
}

/// The index's settings.
pub fn index_settings(config: &Config, home: &Home) -> IndexSettings {
    IndexSettings {
        cache_bytes: config.index.cache_bytes,
        write_buffer_bytes: config.index.write_buffer_bytes,
        node: Some(home.node.0),
        ..IndexSettings::default()
    }
}

/// The event log's settings.
pub fn wal_settings(config: &Config, home: &Home) -> kvtier_wal::Settings {
    let wal = &config.wal;
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    kvtier_wal::Settings {
        log_id: u128::from_le_bytes(home.node.0),
        group_commit_ms_max: ms(wal.group_commit_max_delay),
        group_commit_bytes_max: wal.group_commit_max_bytes,
        segment_bytes_max: wal.segment_bytes,
        retain_bytes: wal.retain_bytes,
        retain_ms: ms(wal.retain_age),
        wal_bytes_max: wal.bytes_max,
        queue_bytes_max: wal.buffer_bytes_max,
        ..kvtier_wal::Settings::default()
    }
}

/// Names of the host tier's domains, in the order of their arenas: the node's own first.
pub(crate) fn domain_names(config: &Config) -> impl Iterator<Item = &str> {
    std::iter::once(NODE_DOMAIN).chain(config.domains.keys().map(String::as_str))
}

/// One arena per domain, in whole extents; the node's own gets what the others leave.
pub(crate) fn arena_settings(config: &Config) -> Vec<ArenaSettings> {
    let host = &config.host;
    let whole = |bytes: u64| bytes / host.extent_bytes * host.extent_bytes;
    let named: Vec<u64> = config.domains.values().map(|domain| whole(domain.host_bytes)).collect();
    let own = whole(host.bytes).saturating_sub(named.iter().sum());
    let arena = |bytes| ArenaSettings {
        bytes,
        extent_bytes: host.extent_bytes,
        huge_pages: match host.huge_pages {
            HugePages::Auto => Wish::Auto,
            HugePages::Off => Wish::Off,
            HugePages::Require => Wish::Require,
        },
        mlock: match host.mlock {
            MemoryLock::Auto => Wish::Auto,
            MemoryLock::Off => Wish::Off,
            MemoryLock::Require => Wish::Require,
        },
        prefault: host.prefault,
    };
    std::iter::once(own).chain(named).map(arena).collect()
}

pub(crate) fn nvme_settings(config: &Config) -> NvmeSettings {
    let nvme = &config.nvme;
    NvmeSettings {
        paths: nvme.files.clone(),
        bytes: nvme.bytes / PAGE_BYTES * PAGE_BYTES,
        extent_bytes: nvme.extent_bytes,
        queue_depth: u32::try_from(nvme.queue_depth).unwrap_or(u32::MAX),
        breaker_errors: u32::try_from(nvme.breaker_failures).unwrap_or(u32::MAX),
        breaker_window: nvme.breaker_window,
        breaker_pause: nvme.breaker_cooldown,
        scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND_MAX,
        ..NvmeSettings::default()
    }
}

fn disk_settings(config: &Config, path: &Path) -> Result<DiskSettings, AssembleError> {
    let bytes = bytes_to_create(path, config.nvme.bytes / PAGE_BYTES * PAGE_BYTES);
    Ok(DiskSettings {
        bytes: bytes.map_err(|source| AssembleError::System { doing: "look at the NVMe tier's file", source })?,
        driver: match config.nvme.io {
            Io::Auto => Driver::Auto,
            Io::IoUring => Driver::Uring,
            Io::Threads => Driver::Pool,
        },
        depth: u32::try_from(config.nvme.queue_depth).unwrap_or(u32::MAX),
        ..DiskSettings::new(path)
    })
}
