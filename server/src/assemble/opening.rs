//! The HBM tier on its way: pinning memory for GPUs takes seconds, and a driver that hangs takes for ever.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvtier_engine::port::{Clock, Moment};

use super::hbm::Opened;

/// What a driver that works pins in a second, however slow: usually it is about ten times as much.
const PINNED_BYTES_A_SECOND: u64 = 1 << 30;

/// What became of it, once something has.
pub(super) struct Opening {
    clock: Arc<dyn Clock>,
    begun: Moment,
    patience: Duration,
    outcome: OnceLock<Opened>,
}

impl Opening {
    /// Begins now, with so much host memory to pin. `hang_timeout`: how long a GPU may do nothing.
    pub(super) fn new(clock: Arc<dyn Clock>, hang_timeout: Duration, pinned_bytes: u64) -> Self {
        let patience = hang_timeout + Duration::from_millis(pinned_bytes * 1000 / PINNED_BYTES_A_SECOND);
        Self { begun: clock.now(), clock, patience, outcome: OnceLock::new() }
    }

    /// It is open, or will never be. The first outcome counts.
    pub(super) fn end(&self, outcome: Opened) {
        self.outcome.set(outcome).ok();
    }

    pub(super) fn outcome(&self) -> Option<&Opened> {
        self.outcome.get()
    }

    /// What is to be told of it if it lasts so long that the driver may hang.
    pub(super) fn late(&self) -> Option<String> {
        let lasted = self.clock.now().since(self.begun);
        let is_late = self.outcome.get().is_none() && lasted > self.patience;
        is_late.then(|| {
            format!(
                "the GPUs are not open after {} s: the driver may hang, look at dmesg for Xid messages",
                lasted.as_secs()
            )
        })
    }
}
