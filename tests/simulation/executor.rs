//! Runs tasks one poll at a time, in an order the seed chooses.
//!
//! There is no thread and no real time: a waker only marks its task as ready. Whoever drives the executor decides
//! between a ready task, a disk completion and the clock. Same seed, same history (INV-9).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use kvtier_engine::port::{BoxFuture, Spawn};

use crate::seed::Seed;

type Task = Pin<Box<dyn Future<Output = ()>>>;
/// Tasks of the engine that have not been polled yet, with their names.
type Arrivals = Arc<Mutex<Vec<(&'static str, BoxFuture<()>)>>>;

/// Tasks and which of them can go on.
pub(crate) struct Executor {
    tasks: BTreeMap<u64, (&'static str, Task)>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    arrivals: Arrivals,
    local_arrivals: LocalSpawn,
    next_id: u64,
    /// Hash of every poll: name, task, outcome.
    pub(crate) history: u64,
    /// The task polled last, for reports.
    pub(crate) last: &'static str,
}

/// The engine's Spawn port.
pub(crate) struct SimSpawn(Arrivals);

/// Starts tasks of the simulation from within one.
#[derive(Clone, Default)]
pub(crate) struct LocalSpawn(Rc<RefCell<Vec<(&'static str, Task)>>>);

impl LocalSpawn {
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push((name, Box::pin(task)));
    }
}

struct Ready {
    id: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Spawn for SimSpawn {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) {
        self.0.lock().expect("one thread").push((name, task));
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.ready.lock().expect("one thread").insert(self.id);
    }
}

impl Executor {
    pub(crate) fn new() -> Self {
        Self {
            tasks: BTreeMap::new(),
            ready: Arc::default(),
            arrivals: Arc::default(),
            local_arrivals: LocalSpawn::default(),
            next_id: 0,
            history: 0xcbf2_9ce4_8422_2325,
            last: "",
        }
    }

    pub(crate) fn spawner(&self) -> Arc<SimSpawn> {
        Arc::new(SimSpawn(Arc::clone(&self.arrivals)))
    }

    pub(crate) fn local_spawner(&self) -> LocalSpawn {
        self.local_arrivals.clone()
    }

    /// Starts a task of the simulation itself; returns its number.
    pub(crate) fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + 'static) -> u64 {
        self.next_id += 1;
        self.tasks.insert(self.next_id, (name, Box::pin(task)));
        self.ready.lock().expect("one thread").insert(self.next_id);
        self.next_id
    }

    /// Drops a task wherever it waits. False if it was done.
    pub(crate) fn cancel(&mut self, id: u64) -> bool {
        self.note(id ^ 0xdead);
        self.tasks.remove(&id).is_some()
    }

    pub(crate) fn is_running(&self, id: u64) -> bool {
        self.tasks.contains_key(&id)
    }

    /// Drops everything: what a crash does to a process.
    pub(crate) fn kill(&mut self) {
        self.arrivals.lock().expect("one thread").clear();
        // A task's drop may wake or spawn others; they are dropped as well.
        while let Some((_, task)) = self.tasks.pop_first() {
            drop(task);
            self.arrivals.lock().expect("one thread").clear();
            self.local_arrivals.0.borrow_mut().clear();
        }
    }

    /// Polls one ready task; false if there is none.
    pub(crate) fn step(&mut self, seed: &mut Seed) -> bool {
        let arrivals = std::mem::take(&mut *self.arrivals.lock().expect("one thread"));
        for (name, task) in arrivals {
            self.start(name, task);
        }
        let local_arrivals = std::mem::take(&mut *self.local_arrivals.0.borrow_mut());
        for (name, task) in local_arrivals {
            self.start(name, task);
        }
        let id = {
            let mut ready = self.ready.lock().expect("one thread");
            ready.retain(|id| self.tasks.contains_key(id));
            let Some(id) = ready.iter().nth(seed.below(ready.len().max(1))).copied() else { return false };
            ready.remove(&id);
            id
        };
        let (name, mut task) = self.tasks.remove(&id).expect("ready tasks are kept to those that run");
        let waker = Waker::from(Arc::new(Ready { id, ready: Arc::clone(&self.ready) }));
        let done = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        self.last = name;
        self.note(id);
        name.bytes().for_each(|byte| self.note(u64::from(byte)));
        self.note(u64::from(done));
        if !done {
            self.tasks.insert(id, (name, task));
        }
        true
    }

    pub(crate) fn note(&mut self, value: u64) {
        self.history = (self.history ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Names of the tasks that wait, for the report of a stuck run.
    pub(crate) fn waiting(&self) -> Vec<&'static str> {
        self.tasks.values().map(|(name, _)| *name).collect()
    }
}

/// Resolves after being polled once: a place where another task may go first.
pub(crate) fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}
