//! The tier: [`NvmeTier`] behind the engine's `Tier` port.

use std::sync::Arc;

use kvtier_engine::port::{
    BoxFuture, Clock, DeviceGeometry, DeviceHealth, Load, LoadOutcome, Memory, Spawn, Store, StoreOutcome, Tier,
    TierError, Verify,
};

use crate::device::{Device, DeviceCounters};
use crate::open::{DeviceSource, OpenError, open_device};
use crate::scratch::{Lane, scratch_bytes};
use crate::settings::NvmeSettings;
use crate::shared::Shared;
use crate::superblock::NodeId;
use crate::{load, store, sync, verify};

/// What the tier needs from the rest of the process.
#[derive(Clone)]
pub struct Ports {
    /// The host arena, whose slots loads and stores name.
    pub memory: Arc<dyn Memory>,
    /// Private memory of at least [`scratch_bytes`] that nobody else uses.
    pub scratch: Arc<dyn Memory>,
    /// Time, for the breaker, the pace of scrubbing and the file's presence.
    pub clock: Arc<dyn Clock>,
    /// Runs operations to their end.
    pub spawn: Arc<dyn Spawn>,
}

/// KV blocks on local NVMe devices. Cheap to clone; the devices close when the last clone and operation are gone.
#[derive(Clone)]
pub struct NvmeTier {
    shared: Arc<Shared>,
}

impl NvmeTier {
    /// Checks every data file and formats blank ones. `sources` are in the order of `settings.paths`.
    pub async fn open(
        settings: &NvmeSettings,
        node: NodeId,
        sources: Vec<DeviceSource>,
        ports: Ports,
    ) -> Result<Self, OpenError> {
        settings.validate().map_err(OpenError::Settings)?;
        let (paths, disks) = (settings.paths.len(), sources.len());
        if paths != disks {
            return Err(OpenError::Components(format!("{disks} disks were opened for {paths} paths")));
        }
        let (scratch, needed) = (ports.scratch.geometry()[0].bytes, scratch_bytes(disks));
        if scratch < needed {
            let message = format!("{scratch} bytes of scratch memory are too few for {disks} devices: {needed}");
            return Err(OpenError::Components(message));
        }
        let mut devices = Vec::with_capacity(disks);
        for (number, source) in sources.into_iter().enumerate() {
            let lane = Lane::of_device(&ports.scratch, number);
            let opened = open_device(source, number, settings, node, lane).await?;
            devices.push(Arc::new(Device::new(opened, settings)));
        }
        let shared = Shared {
            devices,
            memory: ports.memory,
            clock: ports.clock,
            spawn: ports.spawn,
            breaker_pause: settings.breaker_pause,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What each device has done since start.
    pub fn counters(&self) -> Vec<DeviceCounters> {
        self.shared.devices.iter().map(|device| device.counters()).collect()
    }
}

impl std::fmt::Debug for NvmeTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.shared.devices.iter().map(|device| &device.name).collect();
        f.debug_struct("NvmeTier").field("devices", &names).finish_non_exhaustive()
    }
}

impl Tier for NvmeTier {
    fn geometry(&self) -> Vec<DeviceGeometry> {
        self.shared.devices.iter().map(|device| device.geometry).collect()
    }

    fn store(&self, batch: Vec<Store>) -> BoxFuture<Vec<StoreOutcome>> {
        store::start(&self.shared, batch)
    }

    fn load(&self, batch: Vec<Load>) -> BoxFuture<Vec<LoadOutcome>> {
        load::start(&self.shared, batch)
    }

    fn sync(&self, mut devices: Vec<u16>) -> BoxFuture<Result<(), TierError>> {
        devices.sort_unstable();
        devices.dedup();
        let shared = &self.shared;
        let mut coming = Vec::with_capacity(devices.len());
        let mut strange = None;
        for number in devices {
            match shared.devices.get(usize::from(number)) {
                Some(device) => coming.push(sync::join(device, &*shared.spawn, &shared.clock)),
                None => strange = Some(TierError::Io(format!("device {number} does not exist"))),
            }
        }
        Box::pin(async move {
            let mut answer = strange.map_or(Ok(()), Err);
            for receiver in coming {
                // All are awaited: when this returns, nothing of it is under way.
                answer = answer.and(receiver.await.unwrap_or(Err(TierError::Closed)));
            }
            answer
        })
    }

    fn verify(&self, batch: Vec<Verify>) -> BoxFuture<Vec<LoadOutcome>> {
        verify::start(&self.shared, batch)
    }

    fn health(&self) -> Vec<DeviceHealth> {
        let now = self.shared.clock.now();
        self.shared.devices.iter().map(|device| device.health(now)).collect()
    }
}
