//! A lane: a few named threads behind one bounded queue, for calls that block.
//!
//! Jobs start in the order they were taken; with one thread they also finish in it. A job owns everything it touches and
//! runs even if nobody waits for it. Dropping the lane finishes what was queued and joins the threads.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something to run once.
pub type Job = Box<dyn FnOnce() + Send>;

/// Why a job was not taken; the job is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaneRefused {
    /// As many jobs as may wait are waiting (INV-5).
    #[error("{0} calls are waiting already, try again")]
    Busy(usize),
    /// A thread died in a job: what it was doing is unknown, so nothing more is started.
    #[error("its thread has failed, restart the daemon")]
    Failed,
}

/// The threads and their queue.
pub struct Lane {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    grown: Condvar,
    queue_len_max: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
    failed: bool,
}

impl Lane {
    /// Starts `thread_count` threads called `name-0`, `name-1`, …; at most `queue_len_max` jobs wait.
    pub fn start(name: &str, thread_count: u32, queue_len_max: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            grown: Condvar::new(),
            queue_len_max: usize::try_from(queue_len_max).unwrap_or(usize::MAX),
        });
        let mut lane = Self { shared, threads: Vec::new() };
        for number in 0..thread_count {
            let shared = lane.shared.clone();
            let thread = std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || shared.work())?;
            lane.threads.push(thread);
        }
        Ok(lane)
    }

    /// Queues a job, or says at once why not.
    pub fn take(&self, job: Job) -> Result<(), LaneRefused> {
        let mut state = self.shared.lock();
        if state.failed {
            return Err(LaneRefused::Failed);
        }
        if state.jobs.len() >= self.shared.queue_len_max {
            return Err(LaneRefused::Busy(state.jobs.len()));
        }
        state.jobs.push_back(job);
        self.shared.grown.notify_one();
        Ok(())
    }

    /// How many jobs wait.
    pub fn queue_len(&self) -> usize {
        self.shared.lock().jobs.len()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.grown.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the index had failed before it was stopped");
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let _fail = FailWhenUnwinding(self);
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.failed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct FailWhenUnwinding<'a>(&'a Shared);

impl Drop for FailWhenUnwinding<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let abandoned = {
            let mut state = self.0.lock();
            state.failed = true;
            std::mem::take(&mut state.jobs)
        };
        // Their answers' senders go with them, so that whoever waits is told.
        drop(abandoned);
        self.0.grown.notify_all();
    }
}

#[cfg(test)]
mod tests;
