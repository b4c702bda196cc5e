//! One incarnation of a node: the real engine, WAL, NVMe tier and arena over the simulated machine.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtier_device::sim::SimWorld;
use kvtier_device::{Disk, Folder};
use kvtier_engine::flow::{Engine, EngineSettings, Ports};
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::{Clock as _, Index as _};
use kvtier_host::{Arena, ArenaSettings, Arenas, Wish};
use kvtier_index::MemoryIndex;
use kvtier_nvme::{AlwaysPresent, DeviceSource, NodeId, NvmeSettings, NvmeTier};
use kvtier_wal::{Settings, Wal};

use crate::clock::SimClock;
use crate::executor::{Executor, LocalSpawn, SimSpawn};
use crate::ledger::TENANTS;
use crate::seed::{Seed, SimRandom};

/// Bytes of one extent everywhere.
const EXTENT_BYTES: u64 = 64 << 10;
const DISK: &str = "nvme-0";
const LOG: &str = "wal";

/// What a run chooses once and keeps over crashes.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// Extents of each domain's arena.
    pub(crate) host_extents: Vec<u64>,
    pub(crate) nvme_extents: u64,
    pub(crate) policy: PolicyKind,
    pub(crate) admission: AdmissionKind,
    pub(crate) store_flights_max: usize,
}

impl Shape {
    /// The domain of a tenant: with one domain everybody's, with two or more one of the tenant's own. Of three, the node's
    /// own stays empty.
    pub(crate) fn domain(&self, tenant: usize) -> u8 {
        match self.host_extents.len() {
            1 => 0,
            2 => tenant as u8,
            _ => tenant as u8 + 1,
        }
    }
}

/// A node that serves.
#[derive(Clone)]
pub(crate) struct Booted {
    pub(crate) engine: Engine,
    /// What local workers would map.
    pub(crate) memory: Arc<Arenas>,
}

/// Filled in once a boot has ended.
pub(crate) type BootCell = Rc<RefCell<Option<Result<Booted, String>>>>;

/// What survives a crash, and what boots from it.
pub(crate) struct Machine {
    pub(crate) world: SimWorld,
    pub(crate) index: Arc<MemoryIndex>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) shape: Shape,
}

impl Machine {
    pub(crate) fn new(world: SimWorld, shape: Shape) -> Self {
        world.add_disk(DISK, disk_bytes(&shape), 512);
        Self {
            world,
            index: Arc::new(MemoryIndex::new(kvtier_index::MemoryFaults::default())),
            clock: Arc::default(),
            shape,
        }
    }

    /// The machine after its power was cut: un-synced sectors and unflushed batches survive as the seed says.
    pub(crate) fn crash(&self, seed: &mut Seed) -> Self {
        let batches = seed.below(self.index.unflushed_len() + 1);
        Self {
            world: self.world.crash(seed.next()),
            index: Arc::new(self.index.crash_keeping(batches)),
            clock: Arc::clone(&self.clock),
            shape: self.shape.clone(),
        }
    }

    /// What `kvtier fsck --repair` does to the log.
    pub(crate) fn repair_log(&self) -> Result<(), String> {
        let folder = self.world.folder(LOG);
        let (covered, now) = (self.index.applied(), self.clock.unix_ms());
        let repaired = self.world.block_on(async move { kvtier_wal::fsck::repair(&folder, covered, now).await });
        repaired.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Starts a boot; the engine appears in the cell once it serves.
    pub(crate) fn boot(&self, executor: &mut Executor, seed: &mut Seed) -> BootCell {
        let cell = Rc::new(RefCell::new(None));
        let boot = Boot {
            disk: Arc::new(self.world.disk(DISK)),
            folder: Rc::new(self.world.folder(LOG)),
            index: Arc::clone(&self.index),
            clock: Arc::clone(&self.clock),
            random: Arc::new(SimRandom(Mutex::new(seed.fork()))),
            spawn: executor.spawner(),
            local: executor.local_spawner(),
            shape: self.shape.clone(),
        };
        let out = Rc::clone(&cell);
        executor.start("boot", async move {
            let booted = boot.run().await;
            *out.borrow_mut() = Some(booted);
        });
        cell
    }
}

struct Boot {
    disk: Arc<dyn Disk>,
    folder: Rc<dyn Folder>,
    index: Arc<MemoryIndex>,
    clock: Arc<SimClock>,
    random: Arc<SimRandom>,
    spawn: Arc<SimSpawn>,
    local: LocalSpawn,
    shape: Shape,
}

impl Boot {
    async fn run(self) -> Result<Booted, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let arenas: Vec<_> =
            self.shape.host_extents.iter().map(|extents| arena_settings(extents * EXTENT_BYTES)).collect();
        let memory = Arc::new(Arenas::create(&arenas).map_err(|error| text(&error))?);
        let scratch_bytes = kvtier_nvme::scratch_bytes(1).next_multiple_of(EXTENT_BYTES);
        let ports = kvtier_nvme::Ports {
            memory: memory.clone(),
            scratch: Arc::new(Arena::create(&arena_settings(scratch_bytes)).map_err(|error| text(&error))?),
            clock: self.clock.clone(),
            spawn: self.spawn.clone(),
        };
        let settings = NvmeSettings {
            paths: vec![PathBuf::from(DISK)],
            bytes: disk_bytes(&self.shape),
            extent_bytes: EXTENT_BYTES,
            ..NvmeSettings::default()
        };
        let source = DeviceSource { path: DISK.into(), disk: self.disk, presence: Arc::new(AlwaysPresent) };
        let tier =
            NvmeTier::open(&settings, NodeId([7; 16]), vec![source], ports).await.map_err(|error| text(&error))?;
        let wal = Settings {
            segment_bytes_max: 64 << 10,
            group_commit_bytes_max: 64 << 10,
            log_id: 0x5eed,
            ..Settings::default()
        };
        let opened = Wal::open(self.folder, self.clock.clone(), wal, self.index.applied()).await;
        let (wal, writer, _) = opened.map_err(|error| text(&error))?;
        self.local.spawn("wal", writer.run());
        let ports = Ports {
            clock: self.clock,
            random: self.random,
            spawn: self.spawn,
            memory: memory.clone(),
            nvme: Some(Arc::new(tier)),
            journal: wal,
            index: self.index,
        };
        let tenants = (0..).zip(TENANTS).map(|(number, tenant)| (tenant.to_owned(), self.shape.domain(number)));
        let settings = EngineSettings {
            host_domains: tenants.collect(),
            policy: self.shape.policy,
            admission: self.shape.admission,
            store_flights_max: self.shape.store_flights_max,
            store_batch_bytes_max: 32 << 10,
            store_queue_count_max: 16,
            history_count_max: 256,
            part_deadline: Duration::from_secs(2),
            lease_count_max: 64,
            pending_count_max: 64,
            pin_count_max: 16,
            index_flush_interval: Duration::from_millis(50),
            ..EngineSettings::default()
        };
        let engine = Engine::start(ports, settings).await.map_err(|error| text(&error))?;
        Ok(Booted { engine, memory })
    }
}

fn disk_bytes(shape: &Shape) -> u64 {
    (1 << 20) + shape.nvme_extents * EXTENT_BYTES
}

fn arena_settings(bytes: u64) -> ArenaSettings {
    ArenaSettings { bytes, extent_bytes: EXTENT_BYTES, huge_pages: Wish::Off, mlock: Wish::Off, prefault: false }
}
