//! The daemon behind the targets `local`, `host`, `grpc-tcp` and `grpc-uds`: one of the run's own, or one that runs.
//!
//! ```text
//!   own       kvtierd in the run's folder, its arena and files as large as the run says; killed with the target
//!   endpoint  the data directory of a running daemon, whose file LISTENING says where it can be reached; left alone
//! ```
//!
//! `chill` kills an own daemon and starts it again: what NVMe holds survives, host memory is empty. It waits before until
//! no block is on its way down, so nothing is lost.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvtier_client::wire::{StatusResponse, Tier};
use kvtier_client::{Client, SpaceDescription, SpaceDigest};
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::{Failure, Setup};
use crate::daemon::Daemon;

/// Bytes of an extent of the arena and of the NVMe file, for blocks up to a quarter of it.
const EXTENT_BYTES: u64 = 64 << 20;
/// How long blocks may take on their way down.
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// Where its tenant's spaces are.
pub(super) const TENANT: &str = "kvtier-bench";

/// A daemon, and the space of the run in it.
pub(super) struct Node {
    own: Option<Mutex<Daemon>>,
    places: Places,
    space: SpaceDigest,
    runtime: Runtime,
    settings: Vec<String>,
    version: String,
    memory_bytes: u64,
    has_nvme: bool,
}

/// Where a daemon can be reached.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Places {
    pub(super) tcp: Option<String>,
    pub(super) unix: Option<PathBuf>,
    pub(super) local: Option<PathBuf>,
}

impl Node {
    /// Starts one, or finds the one whose data directory is the endpoint.
    pub(super) fn open(setup: &Setup, with_nvme: bool) -> Result<Self, Failure> {
        if setup.durable && !with_nvme {
            return Err("this target has no persistent tier, so sync=1 cannot be kept; use target=local".into());
        }
        let settings = settings(setup, with_nvme);
        let (own, places) = match &setup.endpoint {
            Some(folder) => (None, listening(Path::new(folder))?),
            None => {
                let (own, places) = start(&setup.folder, &settings, arena_bytes(setup))?;
                (Some(Mutex::new(own)), places)
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let unix = places.unix.clone().ok_or("the daemon has no unix socket; set its listen.unix")?;
        let (space, version) = runtime.block_on(async {
            let client = Client::connect(&format!("unix://{}", unix.display())).await?;
            let model = format!("bench-{}", setup.block_bytes_max);
            let description = SpaceDescription::single_part(TENANT, &model, 16, setup.block_bytes_max);
            let space = client.open_space(&format!("{TENANT}/{model}"), &description).await?.space;
            Ok::<_, Failure>((space, client.status().await?.version))
        })?;
        let (memory_bytes, has_nvme) = (arena_bytes(setup), with_nvme);
        Ok(Self { own, places, space, runtime, settings, version, memory_bytes, has_nvme })
    }

    pub(super) fn space(&self) -> SpaceDigest {
        self.space
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// The settings of an own one, and the version.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let settings = match self.own {
            Some(_) => self.settings.join(" "),
            None => "a running daemon's own".to_owned(),
        };
        vec![("kvtierd".to_owned(), self.version.clone()), ("kvtierd settings".to_owned(), settings)]
    }

    /// Hits, bytes and evictions of every tier since it started.
    pub(super) fn counters(&self) -> Result<Vec<(String, u64)>, Failure> {
        let status = self.status()?;
        let named = |tier: &kvtier_client::wire::TierStatus| {
            let name = kvtier_client::word::tier(tier.tier);
            [
                (format!("{name} hits"), tier.hits),
                (format!("{name} stores"), tier.stores),
                (format!("{name} evictions"), tier.evictions),
                (format!("{name} corrupt"), tier.corrupt),
                (format!("{name} bytes read"), tier.bytes_read),
                (format!("{name} bytes written"), tier.bytes_written),
            ]
        };
        Ok(status.tiers.iter().flat_map(named).collect())
    }

    /// Waits until nothing is on its way to NVMe.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut before = None;
        // Twice the same and nothing under way: a block between two queues is in neither.
        loop {
            let status = self.status()?;
            let nvme = status.tiers.iter().find(|tier| tier.tier() == Tier::Nvme);
            let now = nvme.map_or((0, 0, 0), |tier| (tier.stores, tier.in_flight, tier.queued));
            if (now.1, now.2) == (0, 0) && before == Some(now) {
                return Ok(());
            }
            if started.elapsed() > SETTLE_MAX {
                return Err(format!("blocks are still on their way to NVMe after {SETTLE_MAX:?}").into());
            }
            before = Some(now);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Empties host memory by a crash and a restart.
    pub(super) fn chill(&self) -> Result<(), Failure> {
        let Some(own) = &self.own else {
            return Err("cold=1 restarts the daemon, and this one is not the run's own; leave endpoint out".into());
        };
        if !self.has_nvme {
            return Err("this target has no tier below memory; use target=local for cold=1".into());
        }
        self.settle()?;
        let mut daemon = lock(own);
        daemon.kill_and_restart().map_err(|error| error.to_string())?;
        daemon.settle(self.memory_bytes).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn status(&self) -> Result<StatusResponse, Failure> {
        let unix = self.places.unix.as_ref().ok_or("the daemon has no unix socket")?;
        self.runtime.block_on(async {
            // Not kept: a restart would have to be noticed.
            let client = Client::connect(&format!("unix://{}", unix.display())).await?;
            Ok(client.status().await?)
        })
    }
}

fn lock(own: &Mutex<Daemon>) -> MutexGuard<'_, Daemon> {
    own.lock().expect("nobody panics while restarting")
}

fn start(folder: &Path, settings: &[String], memory_bytes: u64) -> Result<(Daemon, Places), Failure> {
    let daemon = Daemon::start(folder, settings).map_err(|error| error.to_string())?;
    daemon.settle(memory_bytes).map_err(|error| error.to_string())?;
    let places = listening(&folder.join("data"))?;
    Ok((daemon, places))
}

fn listening(data: &Path) -> Result<Places, Failure> {
    let path = data.join("LISTENING");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("{}: {error}; endpoint is the data directory of a running kvtierd", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// What a block takes with its header.
fn slot_bytes(block_bytes: u32) -> u64 {
    u64::from(block_bytes).next_multiple_of(4096) + 4096
}

fn extent_bytes(setup: &Setup) -> u64 {
    let several = (slot_bytes(setup.block_bytes_max) * 4).next_multiple_of(2 << 20);
    several.clamp(EXTENT_BYTES, 1 << 30)
}

fn arena_bytes(setup: &Setup) -> u64 {
    setup.memory_bytes.next_multiple_of(extent_bytes(setup)).max(4 * extent_bytes(setup))
}

fn settings(setup: &Setup, with_nvme: bool) -> Vec<String> {
    let (extent, slot) = (extent_bytes(setup), slot_bytes(setup.block_bytes_max));
    let arena = arena_bytes(setup);
    // Slots do not fill extents exactly, and small blocks have headers too.
    let nvme = (setup.data_bytes / 8 * 10 + 16 * slot).next_multiple_of(extent) + extent + (1 << 20);
    let mut settings = vec![
        format!("host.bytes={arena}B"),
        format!("host.extent_bytes={extent}B"),
        format!("local.client_bytes_max={}B", arena / 2),
        "local.client_blocks_max=65536".to_owned(),
        format!("nvme.enabled={with_nvme}"),
        "log.level=warn".to_owned(),
    ];
    if with_nvme {
        settings.extend([format!("nvme.bytes={nvme}B"), format!("nvme.extent_bytes={extent}B")]);
    }
    settings
}
