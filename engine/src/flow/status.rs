//! What the engine shows of itself.

use std::time::Duration;

use super::Engine;
use super::alarm::RaisedAlarm;
use super::meter::Meter;
use crate::catalog::plan::{CatalogCount, TierCount};
use crate::port::{DeviceHealth, JournalStatus, Position};

/// One look at everything.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Since the engine was built.
    pub uptime: Duration,
    /// Newest durable position of the log.
    pub position: Position,
    /// `recovering`, `serving`, `draining` or `degraded`.
    pub state: &'static str,
    /// What is wrong and what to do.
    pub alarms: Vec<RaisedAlarm>,
    /// What the catalog holds.
    pub count: CatalogCount,
    /// What each domain of the host tier holds, in the order of their arenas.
    pub host_domains: Vec<TierCount>,
    /// NVMe devices; empty without the tier.
    pub devices: Vec<DeviceHealth>,
    /// The log.
    pub journal: JournalStatus,
    /// Position the index has applied.
    pub index_applied_seq: u64,
    /// Whether RAM still fills.
    pub filling: bool,
    /// How long filling took, once it is done.
    pub recovery: Option<Duration>,
    /// Blocks queued for NVMe or in flight.
    pub unwritten: u64,
    /// Spaces.
    pub spaces: u64,
}

impl Engine {
    /// Looks at everything once.
    pub fn status(&self) -> EngineStatus {
        let journal = self.shared.ports.journal.status();
        let of_annex = self.shared.annex.get().map(|annex| annex.alarms()).unwrap_or_default();
        let core = self.shared.lock();
        let devices = self.shared.ports.nvme.as_ref().map(|tier| tier.health()).unwrap_or_default();
        let known = core.stores.ground.is_logged_in(journal.epoch);
        let mut alarms = self.shared.alarms.all(&journal, known, &devices);
        alarms.extend(of_annex);
        let state = match (core.draining, core.filling, alarms.is_empty()) {
            (true, ..) => "draining",
            (_, true, _) => "recovering",
            (_, _, false) => "degraded",
            _ => "serving",
        };
        EngineStatus {
            uptime: self.shared.now().0,
            position: journal.position(),
            state,
            alarms,
            count: core.catalog.count(),
            host_domains: core.catalog.count_of_domains(),
            devices,
            index_applied_seq: self.shared.ports.index.applied(),
            filling: core.filling,
            recovery: self.shared.recovery(),
            unwritten: core.stores.unwritten() as u64,
            spaces: core.spaces.iter().count() as u64,
            journal,
        }
    }

    /// The counters.
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }
}
