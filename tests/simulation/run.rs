//! One seed, from boot to verdict.
//!
//! A step is one poll of one task, one completion of one disk operation, or one jump of the clock; the seed chooses. After
//! every step the core's invariants are checked. A run boots, works, crashes at a random step, boots again, checks every
//! promise, and so on; at the end it comes to rest and a subscriber's mirror must agree with the catalog (INV-6).

use std::cell::RefCell;
use std::rc::Rc;

use kvtier_device::sim::{Faults, SimWorld};
use kvtier_engine::catalog::plan::{Miss, MissReason, OwnerId};
use kvtier_engine::flow::Engine;
use kvtier_engine::flow::ask::Got;
use kvtier_engine::policy::{AdmissionKind, PolicyKind};

use crate::executor::Executor;
use crate::ledger::{Ledger, Name, Seen, all_names};
use crate::mirror::Mirror;
use crate::node::{Booted, Machine, Shape};
use crate::seed::Seed;
use crate::workload::{Action, Client};

/// Steps in which one tenant works alone.
const ALONE_STEPS: usize = 150;
/// Clients that act at once.
const CLIENTS: usize = 4;
/// How often a throttled get is tried again.
const THROTTLED_MAX: usize = 200;
/// Steps after which a run that does not come to rest is stuck.
const STEPS_MAX: usize = 400_000;

/// How bad the world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// The device only crashes: every promise must be kept.
    Honest,
    /// The same, and the metadata disk is full now and then.
    Cramped,
    /// Errors and failed syncs: promises of what was acknowledged must be kept, as far as it can be read.
    Ordinary,
    /// Rot, misdirection, lies: wrong bytes must never be returned.
    Hostile,
}

impl Weather {
    fn is_honest(self) -> bool {
        matches!(self, Self::Honest | Self::Cramped)
    }
}

/// What may happen in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What could before there were domains and workers that share memory. Draws exactly as it did then.
    Early,
    /// Everything.
    Whole,
}

/// What a run leaves behind.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) history: u64,
    pub(crate) seen: Seen,
}

pub(crate) struct Simulation {
    seed: Seed,
    weather: Weather,
    ample: bool,
    pub(crate) executor: Executor,
    pub(crate) machine: Machine,
    ledger: Rc<RefCell<Ledger>>,
    failure: Rc<RefCell<Option<String>>>,
    booted: Option<Booted>,
    clients: Vec<u64>,
    /// What came later is drawn from here, so that earlier draws stay as they were.
    later: Option<Seed>,
    /// Only this tenant works.
    alone: Option<usize>,
}

/// Runs one seed; the error says what broke.
pub(crate) fn run(number: u64, scope: Scope) -> Result<Verdict, String> {
    let mut seed = Seed::new(number);
    let weather = [Weather::Honest, Weather::Honest, Weather::Ordinary, Weather::Hostile][seed.below(4)];
    let weather = if weather == Weather::Honest && number.is_multiple_of(4) { Weather::Cramped } else { weather };
    let ample = seed.chance(500);
    let mut shape = Shape {
        host_extents: vec![3 + seed.below(8) as u64],
        nvme_extents: if ample { 40 } else { 3 + seed.below(6) as u64 },
        policy: [PolicyKind::LeafLru, PolicyKind::S3Fifo][seed.below(2)],
        admission: [AdmissionKind::All, AdmissionKind::SecondTouch][seed.below(2)],
        store_flights_max: 1 + seed.below(3),
    };
    let mut later = (scope == Scope::Whole).then(|| Seed::new(!number));
    if let Some(later) = &mut later {
        let more = later.below(3);
        shape.host_extents.extend((0..more).map(|_| 3 + later.below(8) as u64));
    }
    let world = SimWorld::new(seed.next(), Faults::default());
    let mut simulation = Simulation {
        machine: Machine::new(world, shape),
        seed,
        weather,
        ample,
        executor: Executor::new(),
        ledger: Rc::default(),
        failure: Rc::default(),
        booted: None,
        clients: Vec::new(),
        later,
        alone: None,
    };
    simulation.play()
}

impl Simulation {
    /// A node that serves, on a machine without faults and with no clients but the caller's.
    pub(crate) fn calm(shape: Shape) -> Self {
        let mut simulation = Self {
            machine: Machine::new(SimWorld::new(1, Faults::default()), shape),
            seed: Seed::new(1),
            weather: Weather::Honest,
            ample: true,
            executor: Executor::new(),
            ledger: Rc::default(),
            failure: Rc::default(),
            booted: None,
            clients: Vec::new(),
            later: None,
            alone: None,
        };
        simulation.boot().expect("a calm node boots");
        simulation
    }

    /// Power fails, and the node boots again.
    pub(crate) fn restart(&mut self) {
        self.crash();
        self.boot().expect("a calm node boots");
    }

    fn play(&mut self) -> Result<Verdict, String> {
        self.boot()?;
        for _ in 0..1 + self.seed.below(3) {
            self.work(50 + self.seed.clone().below(700))?;
            self.crash();
            if !self.boot()? {
                return Ok(self.end());
            }
            self.check_promises()?;
        }
        self.work(200)?;
        self.make_room();
        if self.machine.shape.host_extents.len() > 1 {
            self.work_alone()?;
            self.make_room();
        }
        self.rest()?;
        self.check_honesty()?;
        Ok(self.end())
    }

    fn end(&mut self) -> Verdict {
        let history = self.executor.history;
        let seen = self.ledger.borrow().seen.clone();
        self.executor.kill();
        Verdict { history, seen }
    }

    /// Boots. After a device that lies about syncs, the log may refuse to open: then it is repaired, as a person would.
    /// False: a write that went astray hit a superblock, and the node refuses to go on. That ends the run.
    fn boot(&mut self) -> Result<bool, String> {
        // A node that does not come up has nothing to check: faults begin once it serves.
        self.machine.world.set_faults(Faults::default());
        match self.try_boot() {
            Err(refusal) if self.weather == Weather::Hostile && refusal.contains("journal is damaged") => {
                self.ledger.borrow_mut().seen.repairs += 1;
                self.executor.kill();
                self.machine.repair_log()?;
                self.try_boot().map(|()| true)
            }
            Err(refusal) if self.weather == Weather::Hostile && is_about_the_first_page(&refusal) => {
                self.ledger.borrow_mut().seen.refusals += 1;
                Ok(false)
            }
            booted => booted.map(|()| true),
        }
    }

    fn try_boot(&mut self) -> Result<(), String> {
        let cell = self.machine.boot(&mut self.executor, &mut self.seed);
        for _ in 0..STEPS_MAX {
            if let Some(booted) = cell.borrow_mut().take() {
                let booted = booted.map_err(|error| format!("the node does not boot: {error}"))?;
                self.booted = Some(booted);
                let faults = match self.weather {
                    Weather::Honest | Weather::Cramped => Faults::default(),
                    Weather::Ordinary => Faults::ordinary(),
                    Weather::Hostile => Faults::hostile(),
                };
                self.machine.world.set_faults(faults);
                return Ok(());
            }
            if !self.step()? {
                break;
            }
        }
        Err(format!("the node hangs while it boots; waiting: {:?}", self.executor.waiting()))
    }

    fn work(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            if self.weather == Weather::Cramped && self.seed.chance(5) {
                let folder_bytes_max = self.seed.chance(500).then_some(0);
                self.machine.world.set_faults(Faults { folder_bytes_max, ..Faults::default() });
            }
            self.clients.retain(|id| self.executor.is_running(*id));
            if self.clients.len() < CLIENTS && self.seed.chance(300) {
                self.start_client();
            }
            if !self.clients.is_empty() && self.seed.chance(15) {
                let victim = self.clients.swap_remove(self.seed.below(self.clients.len()));
                self.executor.cancel(victim);
                self.ledger.borrow_mut().seen.cancelled += 1;
            }
            self.step()?;
        }
        Ok(())
    }

    fn start_client(&mut self) {
        let client = self.client();
        let acquires = self.later.as_mut().is_some_and(|later| later.chance(250));
        let action = match &mut self.later {
            Some(later) if acquires => Action::choose_acquire(later),
            _ => Action::choose(&mut self.seed),
        };
        let action = match self.alone {
            Some(tenant) => action.of_tenant(tenant),
            None => action,
        };
        self.clients.push(self.executor.start("client", client.act(action)));
    }

    pub(crate) fn client(&mut self) -> Client {
        let Booted { engine, memory } = self.booted.clone().expect("clients act on a booted node");
        Client {
            engine,
            memory,
            domains: std::array::from_fn(|tenant| self.machine.shape.domain(tenant)),
            ledger: Rc::clone(&self.ledger),
            failure: Rc::clone(&self.failure),
            owner: OwnerId(self.seed.below(3) as u128),
        }
    }

    /// Comes to rest, and then lets one tenant work alone: whatever it does, the other's domain loses nothing by it.
    fn work_alone(&mut self) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            self.clients.retain(|id| self.executor.is_running(*id));
            if self.is_quiet() {
                break;
            }
            self.step()?;
        }
        let tenant = self.later.as_mut().expect("domains came later").below(2);
        let idle = usize::from(self.machine.shape.domain(1 - tenant));
        let count = |engine: &Engine| {
            let count = engine.status().host_domains[idle];
            (count.blocks, count.evictions)
        };
        let before = count(&self.engine());
        self.alone = Some(tenant);
        for _ in 0..ALONE_STEPS {
            self.work(1)?;
            let after = count(&self.engine());
            if after != before {
                return Err(format!(
                    "tenant {tenant} works alone, and domain {idle} went from {before:?} to {after:?}"
                ));
            }
        }
        self.alone = None;
        self.ledger.borrow_mut().seen.watched += ALONE_STEPS as u64;
        Ok(())
    }

    /// Nothing is under way, and nobody holds anything.
    pub(crate) fn is_quiet(&self) -> bool {
        let status = self.engine().status();
        let idle = self.clients.is_empty() && self.machine.world.under_way_count() == 0;
        let count = status.count;
        let free = count.pending == 0 && count.leases == 0 && count.held_blocks == 0 && count.pins == 0;
        idle && free && status.unwritten == 0
    }

    pub(crate) fn engine(&self) -> Engine {
        self.booted.as_ref().expect("booted").engine.clone()
    }

    /// The metadata disk has room again.
    fn make_room(&mut self) {
        if self.weather == Weather::Cramped {
            self.machine.world.set_faults(Faults::default());
        }
    }

    /// One step of the world; false if nothing can happen any more.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        let first = self.seed.below(16);
        let happened = match first {
            0..=9 => self.executor.step(&mut self.seed) || self.machine.world.step() || self.machine.clock.advance(),
            10..=14 => self.machine.world.step() || self.executor.step(&mut self.seed) || self.machine.clock.advance(),
            _ => self.machine.clock.advance() || self.executor.step(&mut self.seed) || self.machine.world.step(),
        };
        if let Some(problem) = self.failure.borrow_mut().take() {
            return Err(problem);
        }
        if let Some(Booted { engine, .. }) = &self.booted {
            engine.check().map_err(|problem| format!("after a step of {}: {problem}", self.executor.last))?;
        }
        Ok(happened)
    }

    fn crash(&mut self) {
        self.booted = None;
        self.clients.clear();
        // Power goes first: what the dying tasks let go of must not complete.
        self.machine = self.machine.crash(&mut self.seed);
        self.executor.kill();
        self.ledger.borrow_mut().seen.crashes += 1;
    }

    /// INV-1 and INV-3: every block is right or a miss; and what was promised is there.
    fn check_promises(&mut self) -> Result<(), String> {
        let promised: Vec<Name> = self.ledger.borrow().durable.iter().copied().collect();
        let must_hit = self.weather.is_honest() && self.ample;
        self.machine.world.set_faults(Faults::default());
        for name in all_names() {
            let mut got = self.get(name)?;
            for _ in 0..THROTTLED_MAX {
                // A tiny host tier may be full of blocks that the scrubber holds for a moment.
                if !matches!(&got, Got::Miss(miss) if miss.reason == MissReason::Throttled) {
                    break;
                }
                self.step()?;
                got = self.get(name)?;
            }
            self.ledger.borrow_mut().check_got(name, &got)?;
            if !promised.contains(&name) {
                continue;
            }
            match got {
                Got::Block { .. } => self.ledger.borrow_mut().seen.survivors += 1,
                Got::Miss(miss) if must_hit => {
                    let count = self.engine().status().count;
                    return Err(format!(
                        "INV-3: {name:?} was acknowledged durable and is a miss after a crash: {miss:?}; {count:?}"
                    ));
                }
                Got::Miss(_) => {
                    self.ledger.borrow_mut().durable.remove(&name);
                }
            }
        }
        self.check_honesty()
    }

    /// A device that only crashes has no corrupt slots: no slot is written before the log has forgotten what it held.
    fn check_honesty(&self) -> Result<(), String> {
        let engine = self.engine();
        match engine.meter().nvme.corrupt.get() {
            corrupt if corrupt > 0 && self.weather.is_honest() => {
                Err(format!("{corrupt} slots of an honest device were taken for corrupt"))
            }
            _ => Ok(()),
        }
    }

    /// Gets one block, driving the world meanwhile.
    fn get(&mut self, name: Name) -> Result<Got, String> {
        let engine = self.engine();
        let got = self.drive(async move {
            let digest = crate::ledger::description(name.tenant).digest().expect("a valid description");
            let reader = engine.get_keys(&digest, &[name.key()], 0, 0).await;
            match reader {
                Ok(mut reader) => reader.next().await,
                Err(_) => None,
            }
        })?;
        let never = Miss { reason: MissReason::NeverStored, age: None, tier: None };
        Ok(got.unwrap_or(Got::Miss(never)))
    }

    /// Runs something to its end, driving the world meanwhile.
    pub(crate) fn drive<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> Result<T, String> {
        let cell = Rc::new(RefCell::new(None));
        let out = Rc::clone(&cell);
        self.executor.start("check", async move {
            let done = work.await;
            *out.borrow_mut() = Some(done);
        });
        for _ in 0..STEPS_MAX {
            if let Some(done) = cell.borrow_mut().take() {
                return Ok(done);
            }
            if !self.step()? {
                break;
            }
        }
        Err(format!("what was asked for hangs; waiting: {:?}", self.executor.waiting()))
    }

    /// Comes to rest: nothing in flight, no lease left, and a subscriber agrees with the catalog.
    fn rest(&mut self) -> Result<(), String> {
        let engine = self.engine();
        let mirror = Mirror::subscribe(&engine, &mut self.executor);
        for _ in 0..2_000 {
            self.step()?;
        }
        for _ in 0..STEPS_MAX {
            self.clients.retain(|id| self.executor.is_running(*id));
            let status = engine.status();
            if self.is_quiet() && mirror.has_read(status.journal.durable_seq) {
                let Err(problem) = mirror.compare(&engine, &status) else { return Ok(()) };
                return Err(self.explain(problem, &mirror, &engine));
            }
            self.step()?;
        }
        let count = engine.status().count;
        Err(format!("the node does not come to rest: {count:?}; waiting: {:?}", self.executor.waiting()))
    }

    /// Asks for a fresh snapshot and says which copies the two disagree on.
    fn explain(&mut self, problem: String, mirror: &Mirror, engine: &Engine) -> String {
        let fresh = Mirror::subscribe(engine, &mut self.executor);
        while !fresh.has_read(engine.status().journal.durable_seq) {
            if !matches!(self.step(), Ok(true)) {
                break;
            }
        }
        let applied = engine.status().index_applied_seq;
        let problem = format!("{problem}; index applied to {applied} of {}", engine.status().journal.durable_seq);
        let difference = mirror.difference(&fresh);
        let heard: Vec<_> =
            difference.iter().map(|(block, _)| (mirror.heard_of(*block), fresh.heard_of(*block))).collect();
        format!("{problem}; it disagrees with a fresh snapshot on {difference:?}; heard: {heard:#?}")
    }
}

/// A write that went astray has hit the superblock: what is left of it is damaged, or not there at all.
fn is_about_the_first_page(refusal: &str) -> bool {
    refusal.contains("superblock") || refusal.contains("the first page is not kvtier's")
}
