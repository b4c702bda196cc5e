//! An executor for tests: one thread, and the order in which tasks run follows from a seed (INV-9).

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::channel::oneshot;
use kvtier_engine::port::{BoxFuture, Spawn};

use super::HandClock;

struct Ready {
    tasks: Vec<Arc<Task>>,
    seed: u64,
}

struct Task {
    future: Mutex<Option<BoxFuture<()>>>,
    queued: AtomicBool,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let ready = self.ready.clone();
            lock(&ready).tasks.push(self);
        }
    }
}

/// Runs tasks when asked to. A clone shares the tasks.
#[derive(Clone)]
pub struct Tasks {
    ready: Arc<Mutex<Ready>>,
    clock: HandClock,
}

impl Tasks {
    /// No tasks yet. Time moves only when nothing else can run.
    pub fn new(seed: u64, clock: HandClock) -> Self {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { ready: Arc::new(Mutex::new(Ready { tasks: Vec::new(), seed })), clock }
    }

    /// Runs `future` and all tasks until it is done. Panics if it never will be.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.run_with(future, || false)
    }

    /// The same among things that move by themselves: when no task can run, `world` makes something happen (a step of a
    /// simulated disk, a pause for a real one) and says whether it did. Time moves only when it did not.
    pub fn run_with<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        mut world: impl FnMut() -> bool,
    ) -> T {
        let (sender, mut receiver) = oneshot::channel();
        self.spawn("main", Box::pin(async move { drop(sender.send(future.await)) }));
        loop {
            self.run_ready();
            match receiver.try_recv() {
                Ok(Some(output)) => return output,
                Ok(None) => assert!(world() || self.clock.advance_to_next(), "deadlock: nothing can happen any more"),
                Err(_) => panic!("the future was dropped"),
            }
        }
    }

    /// Runs tasks until each of them waits for something. Time stands still.
    pub fn run_ready(&self) {
        while let Some(task) = self.pick() {
            task.queued.store(false, Ordering::Release);
            let Some(mut future) = lock(&task.future).take() else { continue };
            let waker = Waker::from(task.clone());
            if future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
                *lock(&task.future) = Some(future);
            }
        }
    }

    fn pick(&self) -> Option<Arc<Task>> {
        let mut ready = lock(&self.ready);
        if ready.tasks.is_empty() {
            return None;
        }
        ready.seed ^= ready.seed << 13;
        ready.seed ^= ready.seed >> 7;
        ready.seed ^= ready.seed << 17;
        let at = (ready.seed >> 11) as usize % ready.tasks.len();
        Some(ready.tasks.swap_remove(at))
    }
}

impl Spawn for Tasks {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        let task = Task { future: Mutex::new(Some(task)), queued: AtomicBool::new(false), ready: self.ready.clone() };
        Arc::new(task).wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
