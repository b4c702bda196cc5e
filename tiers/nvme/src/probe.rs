//! Finds out whether a device whose breaker is open reads again.
//!
//! The task exists only while the breaker is open. Between probes it holds nothing but a weak reference, so it keeps
//! neither the tier nor its devices alive.

use std::sync::{Arc, Weak};

use kvtier_engine::place::PAGE_BYTES;

use crate::breaker::probe_pause;
use crate::device::Device;
use crate::open::read;
use crate::shared::Shared;
use crate::superblock::Superblock;

/// Counts a failed or corrupt read; starts probing if that opened the breaker.
pub(crate) fn record_error(shared: &Arc<Shared>, device: &Device, cause: &str) {
    if device.record_read_error(shared.clock.now(), cause) {
        let task = probe_until_well(Arc::downgrade(shared), device.number);
        shared.spawn.spawn("nvme probe", Box::pin(task));
    }
}

async fn probe_until_well(shared: Weak<Shared>, number: u16) {
    let mut failed = 0;
    loop {
        let Some(tier) = shared.upgrade() else { return };
        let pause = tier.clock.sleep(probe_pause(tier.breaker_pause, failed));
        drop(tier);
        pause.await;
        let Some(tier) = shared.upgrade() else { return };
        let device = &tier.devices[usize::from(number)];
        match probe(device).await {
            Ok(()) => return device.close_breaker(),
            Err(cause) => {
                failed += 1;
                tracing::warn!(device = %device.name, %cause, failed, "probe failed, the breaker stays open");
            }
        }
    }
}

/// Reads the superblock back.
async fn probe(device: &Device) -> Result<(), String> {
    let lane = device.lane.lock().await;
    let page = PAGE_BYTES as u32;
    read(&*device.disk, 0, lane.payload(page)).await.map_err(|error| error.to_string())?;
    match Superblock::decode(&lane.view(page)) {
        Ok(superblock) if superblock == device.superblock => Ok(()),
        Ok(_) => Err("another superblock".into()),
        Err(error) => Err(error.to_string()),
    }
}
