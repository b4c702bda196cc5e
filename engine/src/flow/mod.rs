//! The shell: takes the core's plans, awaits the ports, reports outcomes back. All `await`s of the engine live here.
//!
//! One mutex holds the core. It is never held across an `await`, and records are appended to the journal while it is
//! held, so that the order of the log is the order of decisions. Reading order: [`ask`], [`put`], [`store`], [`find`],
//! [`get`], [`load`], [`acquire`], [`hold`], [`annex`], [`recover`], [`events`], [`external`].

pub mod acquire;
pub mod alarm;
pub mod annex;
pub mod ask;
mod core_guard;
mod drain;
pub mod error;
pub mod events;
pub mod external;
mod find;
mod gap;
pub mod get;
pub mod hold;
mod housekeeping;
mod indexer;
mod keep;
mod load;
pub mod meter;
mod names;
pub mod put;
mod recover;
pub mod scrub;
pub mod settings;
mod spaces;
pub mod status;
mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::select;
use kvtier_identity::BlockId;

use crate::catalog::{Catalog, CatalogSettings, HOST_DOMAIN_COUNT_MAX};
use crate::port::{AppendRefused, Moment, Position, Record};

pub(crate) use core_guard::CoreGuard;
pub use error::EngineError;
pub use settings::{EngineSettings, Ports};

/// The engine. Clones share one state.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What every flow shares.
pub(crate) struct Shared {
    ports: Ports,
    settings: EngineSettings,
    meter: meter::Meter,
    core: Mutex<Core>,
    names: Mutex<names::NameCache>,
    alarms: alarm::Alarms,
    recovery: Mutex<Option<Duration>>,
    filled: Mutex<Vec<oneshot::Sender<()>>>,
    applied: Mutex<Vec<(u64, oneshot::Sender<()>)>>,
    stopped: AtomicBool,
    annex: annex::AnnexSlot,
    /// The epoch of the log the engine started in.
    epoch_first: u64,
}

/// What the mutex holds.
pub(crate) struct Core {
    catalog: Catalog,
    spaces: spaces::SpaceTable,
    loads: load::LoadFlights,
    stores: store::StoreQueue,
    engines: external::EngineTable,
    /// Blocks the annex is to be told of.
    gone: Vec<BlockId>,
    /// RAM is not complete yet: the index may know blocks that the catalog does not.
    filling: bool,
    draining: bool,
}

impl Engine {
    /// Builds the engine, applies the log's tail (what is after `Index::applied`) to the index and starts serving.
    /// Recovery goes on in the background; see [`status::EngineStatus::filling`].
    pub async fn start(ports: Ports, settings: EngineSettings) -> Result<Self, EngineError> {
        let epoch = ports.journal.status().epoch;
        let host = ports.memory.geometry();
        check_domains(&settings, host.len())?;
        let mut catalog = Catalog::new(CatalogSettings {
            host,
            nvme: ports.nvme.as_ref().map(|tier| tier.geometry()).unwrap_or_default(),
            policy: settings.policy,
            admission: settings.admission,
            history_count_max: settings.history_count_max,
            lease_count_max: settings.lease_count_max,
            pending_count_max: settings.pending_count_max,
            pin_count_max: settings.pin_count_max,
            generation_first: epoch << 40,
        });
        catalog.remember_given_back();
        let core = Core {
            catalog,
            spaces: spaces::SpaceTable::new(settings.root_secret, settings.host_domains.clone(), epoch),
            loads: load::LoadFlights::default(),
            stores: store::StoreQueue::new(epoch),
            engines: external::EngineTable::default(),
            gone: Vec::new(),
            filling: false,
            draining: false,
        };
        let shared = Arc::new(Shared {
            ports,
            settings,
            meter: meter::Meter::default(),
            core: Mutex::new(core),
            names: Mutex::default(),
            alarms: alarm::Alarms::default(),
            recovery: Mutex::default(),
            filled: Mutex::default(),
            applied: Mutex::default(),
            epoch_first: epoch,
            stopped: AtomicBool::new(false),
            annex: annex::AnnexSlot::new(),
        });
        let engine = Self { shared };
        engine.recover().await?;
        engine.spawn_tasks();
        Ok(engine)
    }

    fn spawn_tasks(&self) {
        let spawn = &self.shared.ports.spawn;
        spawn.spawn("fill", Box::pin(recover::fill(Arc::clone(&self.shared))));
        spawn.spawn("index", Box::pin(indexer::follow(Arc::clone(&self.shared))));
        spawn.spawn("house", Box::pin(housekeeping::keep_house(Arc::clone(&self.shared))));
    }

    /// Checks every invariant of the core; for tests and the simulator.
    pub fn check(&self) -> Result<(), String> {
        self.shared.lock().catalog.check()
    }
}

/// Every domain that is named has an arena.
fn check_domains(settings: &EngineSettings, arena_count: usize) -> Result<(), EngineError> {
    let count = HOST_DOMAIN_COUNT_MAX;
    if !(1..=count).contains(&arena_count) {
        return Err(EngineError::invalid("arenas", arena_count, format!("the host tier has 1 to {count} domains")));
    }
    match settings.host_domains.iter().find(|(_, domain)| usize::from(**domain) >= arena_count) {
        Some((tenant, domain)) => {
            let remedy = format!("tenant {tenant:?} needs one of the {arena_count} arenas there are");
            Err(EngineError::invalid("host_domains", domain, remedy))
        }
        None => Ok(()),
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> CoreGuard<'_> {
        let core = self.core.lock().expect("a panic in the core is a bug, and going on would hide it");
        CoreGuard::new(core, &*self.ports.memory, &self.annex)
    }

    pub(crate) fn now(&self) -> Moment {
        self.ports.clock.now()
    }

    /// Appends records in the order of the decisions they tell: whoever calls holds the core. What the journal refuses is a gap: it begins a new
    /// epoch when it takes records again (INV-6).
    pub(crate) fn journal(&self, core: &mut Core, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let count = records.len() as u64;
        if self.append(core, records).is_err() {
            self.meter.unjournaled_records.add(count);
        }
    }

    /// The same, when the caller has to know.
    pub(crate) fn append(&self, core: &mut Core, records: Vec<Record>) -> Result<Position, AppendRefused> {
        if self.annex.get().is_some() {
            core.note_gone(&records);
        }
        let needed = records.iter().any(gap::is_needed);
        let appended = self.ports.journal.append(records);
        if needed {
            core.stores.ground.note(&appended);
        }
        appended
    }

    fn recovered(&self, started: Moment) {
        *self.recovery.lock().expect("nobody panics here") = Some(self.now().since(started));
        self.filled.lock().expect("nobody panics here").drain(..).for_each(|waiter| {
            waiter.send(()).ok();
        });
    }

    fn recovery(&self) -> Option<Duration> {
        *self.recovery.lock().expect("nobody panics here")
    }

    /// Resolves once RAM knows every block.
    async fn filled(&self) {
        let waiter = {
            let mut waiters = self.filled.lock().expect("nobody panics here");
            if self.recovery().is_some() {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiters.push(sender);
            receiver
        };
        // Dropped without a word only when the engine stops.
        waiter.await.ok();
    }

    /// The same, at most until `deadline`. False: the deadline has passed.
    async fn filled_before(&self, deadline: Moment) -> bool {
        let left = deadline.since(self.now());
        if left.is_zero() {
            return false;
        }
        select(std::pin::pin!(self.filled()), self.ports.clock.sleep(left)).await;
        true
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_without_an_arena_is_refused() {
        let named =
            |domain| EngineSettings { host_domains: [("acme".to_owned(), domain)].into(), ..Default::default() };
        check_domains(&named(1), 2).expect("it has one");
        let refused = check_domains(&named(2), 2).expect_err("there are two").to_string();
        assert!(refused.contains("acme") && refused.contains('2'), "{refused}");
        assert!(check_domains(&EngineSettings::default(), 0).is_err());
        assert!(check_domains(&EngineSettings::default(), HOST_DOMAIN_COUNT_MAX + 1).is_err());
    }
}
