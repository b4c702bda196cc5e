//! The tier: [`HbmTier`] behind the engine's `Tier` port.

mod check;
mod load;
mod seal;
mod store;
mod verify;

use std::sync::Arc;

use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{
    BoxFuture, DeviceGeometry, DeviceHealth, Load, LoadOutcome, Memory, Moment, Store, StoreOutcome, Tier, TierError,
    Verify,
};

pub use check::reason;
pub(crate) use store::{Upload, Uploaded};

use crate::chain::Keep;
use crate::device::Device;
use crate::gpu::{Gpu, GpuError, HostMemory, Lane, MemoryId};
use crate::queue::Threads;
use crate::settings::{HbmSettings, Problem};
use crate::ways::{self, CopiedFrom};

/// Why there is no tier.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings that cannot work anywhere.
    #[error("the HBM tier's settings are invalid: {}", list(.0))]
    Invalid(Vec<Problem>),
    /// A GPU did not give what was asked for.
    #[error("GPU {ordinal} cannot be used")]
    Gpu {
        /// Which.
        ordinal: u32,
        /// Why.
        source: GpuError,
    },
    /// The system gave no thread.
    #[error("no thread for GPU {ordinal}")]
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
    /// Why other GPUs are not among them.
    left_out: Vec<OpenError>,
    memory: Arc<dyn Memory>,
    threads: Vec<Threads>,
}

impl Shared {
    fn open(
        &mut self,
        gpu: Arc<dyn Gpu>,
        settings: &HbmSettings,
        arenas: &[HostMemory],
        drive: Drive,
    ) -> Result<(), OpenError> {
        let ordinal = gpu.properties().ordinal;
        let number = u16::try_from(self.devices.len()).unwrap_or(u16::MAX);
        let device = Device::open(gpu, number, settings, arenas);
        let device = Arc::new(device.map_err(|source| OpenError::Gpu { ordinal, source })?);
        if drive == Drive::Threads {
            let threads = Threads::start(&device.queue, settings.hang_timeout);
            self.threads.push(threads.map_err(|source| OpenError::Thread { ordinal, source })?);
        }
        self.devices.push(device);
        Ok(())
    }
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
    /// or so per 10 GiB. A GPU that does not give what was asked for is left out, unless none does.
    pub fn open(
        settings: &HbmSettings,
        gpus: Vec<Arc<dyn Gpu>>,
        memory: Arc<dyn Memory>,
        arenas: &[HostMemory],
        drive: Drive,
    ) -> Result<Self, OpenError> {
        settings.validate().map_err(OpenError::Invalid)?;
        let mut shared = Shared { devices: Vec::new(), left_out: Vec::new(), memory, threads: Vec::new() };
        for gpu in gpus {
            if let Err(why) = shared.open(gpu, settings, arenas, drive) {
                shared.left_out.push(why);
            }
        }
        if shared.devices.is_empty() && !shared.left_out.is_empty() {
            return Err(shared.left_out.swap_remove(0));
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Why GPUs that were given are not in the tier.
    pub fn left_out(&self) -> &[OpenError] {
        &self.shared.left_out
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

    /// Measures on each GPU from which length of a run on the copy engines are faster than the kernel, and uses it for moves
    /// that begin from then on. Takes a moment of the bus and 32 MiB of the GPU; one that has no such room keeps what was set.
    pub fn measure_ways(&self, now: &dyn Fn() -> Moment) {
        for device in &self.shared.devices {
            let gpu = device.gpu().properties().ordinal;
            match ways::measure(&**device.gpu(), now) {
                Ok(from) => {
                    tracing::info!(
                        gpu,
                        load = from.load,
                        save = from.save,
                        "runs of so many bytes go through the copy engines"
                    );
                    device.set_copied_from(from);
                }
                Err(error) => tracing::warn!(gpu, %error, "copy engines and kernel were not compared"),
            }
        }
    }

    /// Which way a GPU's moves go.
    pub fn copied_from(&self, device: u16) -> Option<CopiedFrom> {
        self.device(device).map(|device| device.copied_from())
    }

    /// Sets it for moves that begin from now on: for benchmarks.
    pub fn set_copied_from(&self, from: CopiedFrom) {
        self.shared.devices.iter().for_each(|device| device.set_copied_from(from));
    }

    /// The memory of a GPU's pool, for checks that damage it on purpose.
    pub fn pool_memory(&self, device: u16) -> Option<MemoryId> {
        self.shared.devices.get(usize::from(device))?.pool_memory()
    }

    /// GPUs of the tier.
    pub fn device_count(&self) -> usize {
        self.shared.devices.len()
    }

    /// The place of the GPU of that UUID.
    pub fn find(&self, uuid: &str) -> Option<u16> {
        let at = self.shared.devices.iter().position(|device| device.gpu().properties().is_named(uuid));
        at.and_then(|at| u16::try_from(at).ok())
    }

    /// The UUIDs of its GPUs, in their order.
    pub fn uuids(&self) -> Vec<String> {
        self.shared.devices.iter().map(|device| device.gpu().properties().uuid.clone()).collect()
    }

    /// As [`Tier::store`], of a piece of a block, and lets `keep` go once the device is done with it, even when that is later
    /// than the answer.
    pub(crate) fn upload(&self, upload: Upload, keep: Keep) -> BoxFuture<Vec<Uploaded>> {
        store::upload(self, vec![upload], Some(keep))
    }

    /// As [`Tier::load`], and lets `keep` go in the same way.
    pub(crate) fn load_keeping(&self, load: Load, keep: Keep) -> BoxFuture<Vec<LoadOutcome>> {
        load::start(self, vec![load], Some(keep))
    }

    /// Writes the headers of blocks that a save has gathered into the pool of one GPU; whether each was written.
    pub(crate) fn seal(&self, headers: Vec<(Slot, SlotHeader)>) -> BoxFuture<Vec<bool>> {
        seal::start(self, headers)
    }

    /// Calls this, too, when a GPU is lost.
    pub(crate) fn on_lost(&self, device: u16, lost: Arc<dyn Fn(&str) + Send + Sync>) {
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
        store::start(self, batch)
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
