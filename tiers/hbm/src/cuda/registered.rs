//! Host memory that is registered with the driver: once for all GPUs of the process, or the second GPU is refused.
//!
//! A registration is portable, so every context may use it; it belongs to the context that made it, which is kept that long.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::driver::{self, Retained};
use crate::gpu::GpuError;

struct Registration {
    bytes: u64,
    user_count: usize,
    _made_in: Retained,
}

/// By address.
static REGISTERED: Mutex<BTreeMap<usize, Registration>> = Mutex::new(BTreeMap::new());

/// Registers memory, or counts one more user of the very same. The device's context is current.
pub(super) fn register(address: usize, bytes: u64, device: driver::Device) -> Result<(), GpuError> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    match registered.get_mut(&address) {
        Some(known) if known.bytes == bytes => known.user_count += 1,
        _ => {
            let made_in = Retained::new(device)?;
            driver::register(address, bytes)?;
            registered.insert(address, Registration { bytes, user_count: 1, _made_in: made_in });
        }
    }
    Ok(())
}

/// Unregisters memory behind its last user. Any context is current.
pub(super) fn unregister(address: usize) -> Result<(), GpuError> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    match registered.get_mut(&address) {
        Some(known) if known.user_count > 1 => {
            known.user_count -= 1;
            Ok(())
        }
        Some(_) => {
            let result = driver::unregister(address);
            // The context goes with it, if nobody else keeps it.
            registered.remove(&address);
            result
        }
        None => Err(GpuError::Invalid(format!("host memory at {address:#x} is not registered"))),
    }
}
