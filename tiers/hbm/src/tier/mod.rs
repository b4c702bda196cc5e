//! The tier: [`HbmTier`] behind the engine's `Tier` port.

mod check;
mod load;
mod store;
mod verify;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvtier_engine::port::{
    BoxFuture, DeviceGeometry, DeviceHealth, Load, LoadOutcome, Memory, Store, StoreOutcome, Tier, TierError, Verify,
};

pub use check::reason;

use crate::chain::Keep;
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, HostMemory, Lane, MemoryId};
use crate::queue::Threads;
use crate::settings::{HbmSettings, Problem};

/// Why there is no tier.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings that cannot work anywhere.
    #[error("the HBM tier's settings are invalid: {}", list(.0))]
    Invalid(Vec<Problem>),
    /// A GPU did not give what was asked for.
    #[error("GPU {ordinal} cannot be used: {source}")]
    Gpu {
        /// Which.
        ordinal: u32,
        /// Why.
        source: GpuError,
    },
    /// The system gave no thread.
    #[error("no thread for GPU {ordinal}: {source}")]
    Thread {
        /// Which.
        ordinal: u32,
        /// Why.
        source: std::io::Error,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// Who drives the GPUs' queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// Threads of their own.
    Threads,
    /// The caller, by [`HbmTier::step`]: for tests with a seeded order.
    ByHand,
}

struct Shared {
    devices: Vec<Arc<Device>>,
    memory: Arc<dyn Memory>,
    threads: Vec<Threads>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What was taken is finished before the pools go.
        self.threads.clear();
    }
}

/// KV blocks in GPU memory. Without a GPU it has no device and no room. Cheap to clone.
#[derive(Clone)]
pub struct HbmTier {
    shared: Arc<Shared>,
}

impl HbmTier {
    /// Takes pool and lanes on every GPU and registers the arenas with them, which pins every page of the arenas: a second
    /// or so per 10 GiB.
    pub fn open(
        settings: &HbmSettings,
        gpus: Vec<Arc<dyn Gpu>>,
        memory: Arc<dyn Memory>,
        arenas: &[HostMemory],
        drive: Drive,
    ) -> Result<Self, OpenError> {
        settings.validate().map_err(OpenError::Invalid)?;
        let mut shared = Shared { devices: Vec::new(), memory, threads: Vec::new() };
        for gpu in gpus {
            let ordinal = gpu.properties().ordinal;
            let number = u16::try_from(shared.devices.len()).unwrap_or(u16::MAX);
            let device = Device::open(gpu, number, settings, arenas);
            let device = Arc::new(device.map_err(|source| OpenError::Gpu { ordinal, source })?);
            if drive == Drive::Threads {
                let threads = Threads::start(&device.queue, settings.hang_timeout)
                    .map_err(|source| OpenError::Thread { ordinal, source })?;
                shared.threads.push(threads);
            }
            shared.devices.push(device);
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Lets one thing happen on one GPU, which one `choice` decides; false: nothing can happen. For [`Drive::ByHand`].
    pub fn step(&self, choice: u64) -> bool {
        let devices = &self.shared.devices;
        let turns = devices.len() * 5;
        (0..turns).any(|turn| {
            let turn = (choice as usize % turns.max(1) + turn) % turns;
            let queue = &devices[turn / 5].queue;
            match Lane::ALL.get(turn % 5) {
                Some(lane) => queue.finish_one(*lane),
                None => queue.submit_one(),
            }
        })
    }

    /// Changes [`HbmSettings::copy_run_bytes_min`] for moves that begin from now on: a machine may be measured first.
    pub fn set_copy_run_bytes_min(&self, bytes: u64) {
        self.shared.devices.iter().for_each(|device| device.copy_run_bytes_min.store(bytes, Ordering::Relaxed));
    }

    /// The memory of a GPU's pool, for checks that damage it on purpose.
    pub fn pool_memory(&self, device: u16) -> Option<MemoryId> {
        self.shared.devices.get(usize::from(device))?.pool_memory()
    }

    /// GPUs of the tier.
    pub fn device_count(&self) -> usize {
        self.shared.devices.len()
    }

    /// As [`Tier::store`], and lets `keep` go once the device is done with it, even when that is later than the answer.
    pub(crate) fn store_keeping(&self, store: Store, keep: Keep) -> BoxFuture<Vec<StoreOutcome>> {
        store::start(self, vec![store], Some(keep))
    }

    /// As [`Tier::load`], and the same.
    pub(crate) fn load_keeping(&self, load: Load, keep: Keep) -> BoxFuture<Vec<LoadOutcome>> {
        load::start(self, vec![load], Some(keep))
    }

    /// Calls this when a GPU is lost. The first one counts.
    pub(crate) fn on_lost(&self, device: u16, lost: Box<dyn Fn(&str) + Send + Sync>) {
        if let Some(device) = self.device(device) {
            device.queue.on_lost(lost);
        }
    }

    /// Why a GPU is lost.
    pub(crate) fn lost(&self, device: u16) -> Option<String> {
        self.device(device).and_then(|device| device.queue.poison())
    }

    pub(crate) fn memory(&self) -> &Arc<dyn Memory> {
        &self.shared.memory
    }

    pub(crate) fn device(&self, number: u16) -> Option<&Arc<Device>> {
        self.shared.devices.get(usize::from(number))
    }

    /// Operations of a batch by device; `stray` hears of those that name none.
    fn split<T>(&self, batch: Vec<T>, device_of: impl Fn(&T) -> u16, stray: impl Fn(usize)) -> Vec<Vec<(usize, T)>> {
        let mut split: Vec<Vec<(usize, T)>> = self.shared.devices.iter().map(|_| Vec::new()).collect();
        for (place, operation) in batch.into_iter().enumerate() {
            match split.get_mut(usize::from(device_of(&operation))) {
                Some(operations) => operations.push((place, operation)),
                None => stray(place),
            }
        }
        split
    }
}

impl std::fmt::Debug for HbmTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HbmTier").field("device_count", &self.shared.devices.len()).finish_non_exhaustive()
    }
}

impl Tier for HbmTier {
    fn geometry(&self) -> Vec<DeviceGeometry> {
        self.shared.devices.iter().map(|device| device.geometry).collect()
    }

    fn store(&self, batch: Vec<Store>) -> BoxFuture<Vec<StoreOutcome>> {
        store::start(self, batch, None)
    }

    fn load(&self, batch: Vec<Load>) -> BoxFuture<Vec<LoadOutcome>> {
        load::start(self, batch, None)
    }

    /// GPU memory is volatile: nothing becomes durable, and nothing is waited for.
    fn sync(&self, devices: Vec<u16>) -> BoxFuture<Result<(), TierError>> {
        let answer = devices.into_iter().try_for_each(|number| match self.device(number) {
            None => Err(TierError::Io(format!("GPU {number} does not exist"))),
            Some(device) => match device.queue.poison() {
                Some(cause) => Err(TierError::Poisoned { device: number, cause }),
                None => Ok(()),
            },
        });
        Box::pin(std::future::ready(answer))
    }

    fn verify(&self, batch: Vec<Verify>) -> BoxFuture<Vec<LoadOutcome>> {
        verify::start(self, batch)
    }

    fn health(&self) -> Vec<DeviceHealth> {
        self.shared.devices.iter().map(|device| device.health()).collect()
    }
}
