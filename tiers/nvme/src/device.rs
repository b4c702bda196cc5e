//! One device of the tier: its disk, its condition and what it has done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::lock::Mutex as TaskMutex;
use kvtier_device::{Disk, DiskError};
use kvtier_engine::port::{DeviceGeometry, DeviceHealth, DeviceState, LoadOutcome, Moment, StoreOutcome, TierError};

use crate::breaker::Breaker;
use crate::pace::Pace;
use crate::permit::Places;
use crate::presence::Presence;
use crate::scratch::Lane;
use crate::settings::NvmeSettings;
use crate::superblock::Superblock;
use crate::sync::SyncGroup;

/// How long a positive answer of [`Presence`] is believed by stores. A sync always asks again.
const PRESENCE_BELIEVED: Duration = Duration::from_secs(1);
/// Verifications of one device that may wait for its lane.
const VERIFIES_MAX: u32 = 256;

pub(crate) struct Device {
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) geometry: DeviceGeometry,
    pub(crate) superblock: Superblock,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) loads: Arc<Places>,
    pub(crate) stores: Arc<Places>,
    pub(crate) verifies: Arc<Places>,
    pub(crate) lane: TaskMutex<Lane>,
    pub(crate) syncs: SyncGroup,
    pub(crate) counts: Counts,
    condition: Mutex<Condition>,
}

struct Condition {
    breaker: Breaker,
    /// Why the device takes no more stores, for good: poisoned or gone.
    lost: Option<String>,
    present_at: Option<Moment>,
    pace: Pace,
}

/// Everything that opening a device found out.
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) superblock: Superblock,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) lane: Lane,
}

impl Device {
    pub(crate) fn new(opened: Opened, settings: &NvmeSettings) -> Self {
        let superblock = opened.superblock;
        Self {
            number: superblock.device,
            name: opened.name,
            geometry: crate::layout::geometry(superblock.bytes, superblock.extent_bytes),
            superblock,
            disk: opened.disk,
            presence: opened.presence,
            loads: Places::new(settings.queue_ops),
            stores: Places::new(settings.queue_ops),
            verifies: Places::new(VERIFIES_MAX),
            lane: TaskMutex::new(opened.lane),
            syncs: SyncGroup::default(),
            counts: Counts::default(),
            condition: Mutex::new(Condition {
                breaker: Breaker::closed(settings.breaker_errors, settings.breaker_window),
                lost: None,
                present_at: None,
                pace: Pace::of(settings.scrub_bytes_per_second),
            }),
        }
    }

    /// Why loads are answered at once.
    pub(crate) fn refuses_loads(&self) -> Option<TierError> {
        let condition = self.condition();
        condition.breaker.open_cause().map(|cause| TierError::Io(format!("{}: breaker is open: {cause}", self.name)))
    }

    /// Why stores are answered at once. Asks now and then whether the file is still there.
    pub(crate) fn refuses_stores(&self, now: Moment) -> Option<TierError> {
        let believed = self.condition().present_at.is_some_and(|asked| now.since(asked) < PRESENCE_BELIEVED);
        if !believed {
            self.ask_presence(now);
        }
        self.refuses_syncs().or_else(|| self.refuses_loads())
    }

    /// Why nothing can be made durable any more (INV-7).
    pub(crate) fn refuses_syncs(&self) -> Option<TierError> {
        if let Some(cause) = self.disk.poisoned() {
            self.lose(&cause);
        }
        let cause = self.condition().lost.clone()?;
        Some(TierError::Poisoned { device: self.number, cause })
    }

    /// Asks whether the file is still there; what is gone stays gone until a restart.
    pub(crate) fn ask_presence(&self, now: Moment) {
        match self.presence.check() {
            Ok(()) => self.condition().present_at = Some(now),
            Err(cause) => self.lose(&cause),
        }
    }

    /// No more stores and syncs, for good. The first cause is kept.
    pub(crate) fn lose(&self, cause: &str) {
        let mut condition = self.condition();
        if condition.lost.is_none() {
            condition.lost = Some(cause.to_owned());
            drop(condition);
            tracing::error!(device = %self.name, cause, "device takes no more stores until it is repaired and the daemon restarted");
        }
    }

    /// Puts an error of the disk into the engine's words, and keeps poison in mind.
    pub(crate) fn explain(&self, error: DiskError) -> TierError {
        match error {
            DiskError::Io(cause) => TierError::Io(format!("{}: {cause}", self.name)),
            DiskError::Busy => TierError::Busy,
            DiskError::Closed => TierError::Closed,
            DiskError::Poisoned(cause) => {
                self.lose(&cause);
                TierError::Poisoned { device: self.number, cause }
            }
        }
    }

    /// Counts a failed or corrupt read; true if the breaker has just opened.
    pub(crate) fn record_read_error(&self, now: Moment, cause: &str) -> bool {
        let opened = self.condition().breaker.record_error(now, cause);
        if opened {
            tracing::error!(device = %self.name, cause, "breaker opened: loads and stores fail until a probe succeeds");
        }
        opened
    }

    pub(crate) fn close_breaker(&self) {
        self.condition().breaker.close();
        tracing::info!(device = %self.name, "breaker closed: the device reads again");
    }

    /// How long a verification of so many bytes must wait.
    pub(crate) fn pace(&self, now: Moment, bytes: u32) -> Duration {
        self.condition().pace.book(now, u64::from(bytes))
    }

    pub(crate) fn health(&self, now: Moment) -> DeviceHealth {
        self.ask_presence(now);
        let lost = self.refuses_syncs();
        let disk = self.disk.counters();
        let condition = self.condition();
        let tripped = condition.breaker.open_cause();
        let state = match (&lost, tripped) {
            (Some(_), _) => DeviceState::Poisoned,
            (None, Some(_)) => DeviceState::Tripped,
            (None, None) => DeviceState::Up,
        };
        let mut detail = format!("{}: {}", self.name, self.disk.mode());
        if let Some(lost) = &lost {
            detail.push_str(&format!("; no more stores: {lost}; check the device and restart the daemon"));
        }
        if let Some(cause) = tripped {
            detail.push_str(&format!("; breaker is open: {cause}"));
        }
        let taken = (self.loads.taken() + self.stores.taken() + self.verifies.taken()) as u64;
        DeviceHealth {
            state,
            detail,
            in_flight_count: disk.in_flight_count,
            queued_count: disk.queued_count.max(taken.saturating_sub(disk.in_flight_count)),
            read_bytes: disk.read_bytes,
            written_bytes: disk.written_bytes,
        }
    }

    pub(crate) fn counters(&self) -> DeviceCounters {
        self.counts.read(self.condition().breaker.opened_count())
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one device has done since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCounters {
    /// Blocks read and found right.
    pub loads_verified: u64,
    /// Blocks read and found wrong.
    pub loads_corrupt: u64,
    /// Blocks that could not be read.
    pub loads_failed: u64,
    /// Blocks written.
    pub stores_written: u64,
    /// Blocks not written because host memory no longer held what was committed.
    pub stores_corrupt: u64,
    /// Blocks that could not be written.
    pub stores_failed: u64,
    /// Blocks verified in place and found right.
    pub scrubs_verified: u64,
    /// Blocks verified in place and found wrong.
    pub scrubs_corrupt: u64,
    /// Syncs done; less than asked for where they were shared.
    pub syncs: u64,
    /// How often the breaker opened.
    pub breaker_opened: u64,
}

/// The same, while they change.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    loads: [AtomicU64; 3],
    stores: [AtomicU64; 3],
    scrubs: [AtomicU64; 3],
    pub(crate) syncs: AtomicU64,
}

impl Counts {
    pub(crate) fn load(&self, outcome: &LoadOutcome) {
        self.loads[load_place(outcome)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn scrub(&self, outcome: &LoadOutcome) {
        self.scrubs[load_place(outcome)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn store(&self, outcome: &StoreOutcome) {
        let place = match outcome {
            StoreOutcome::Written => 0,
            StoreOutcome::Corrupt(_) => 1,
            StoreOutcome::Failed(_) => 2,
        };
        self.stores[place].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self, breaker_opened: u64) -> DeviceCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DeviceCounters {
            loads_verified: get(&self.loads[0]),
            loads_corrupt: get(&self.loads[1]),
            loads_failed: get(&self.loads[2]),
            stores_written: get(&self.stores[0]),
            stores_corrupt: get(&self.stores[1]),
            stores_failed: get(&self.stores[2]),
            scrubs_verified: get(&self.scrubs[0]),
            scrubs_corrupt: get(&self.scrubs[1]),
            syncs: get(&self.syncs),
            breaker_opened,
        }
    }
}

fn load_place(outcome: &LoadOutcome) -> usize {
    match outcome {
        LoadOutcome::Verified => 0,
        LoadOutcome::Corrupt(_) => 1,
        LoadOutcome::Failed(_) => 2,
    }
}
