//! What all operations of the tier use.

use std::sync::Arc;
use std::time::Duration;

use kvtier_engine::port::{Clock, Memory, Spawn};

use crate::device::Device;

pub(crate) struct Shared {
    pub(crate) devices: Vec<Arc<Device>>,
    pub(crate) memory: Arc<dyn Memory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spawn: Arc<dyn Spawn>,
    pub(crate) breaker_pause: Duration,
}

/// The operations of each device, with their places in the batch; `stray` hears of those that name no device.
pub(crate) fn split_by_device<T>(
    device_count: usize,
    batch: Vec<T>,
    device_of: impl Fn(&T) -> u16,
    mut stray: impl FnMut(usize),
) -> Vec<Vec<(usize, T)>> {
    let mut split: Vec<Vec<(usize, T)>> = (0..device_count).map(|_| Vec::new()).collect();
    for (place, operation) in batch.into_iter().enumerate() {
        match split.get_mut(usize::from(device_of(&operation))) {
            Some(operations) => operations.push((place, operation)),
            None => stray(place),
        }
    }
    split
}
