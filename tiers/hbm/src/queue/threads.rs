//! The threads of one GPU: one submitter, one waiter per lane, and one that looks whether the device still answers.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::Queue;
use crate::gpu::Lane;

/// How often a lane is looked at before it counts as hung.
const LOOKS_MAX: u32 = 4;

/// The threads. Dropping them finishes what was taken first, unless the device hangs: then they are left alone.
pub struct Threads {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(queue: &Arc<Queue>, hang_timeout: Duration) -> io::Result<Self> {
        let ordinal = queue.gpu().properties().ordinal;
        let mut started = Self { queue: Arc::clone(queue), threads: Vec::new() };
        let own = Arc::clone(queue);
        started.spawn(format!("gpu{ordinal}-submit"), move || own.submit_until_closed())?;
        for lane in Lane::ALL {
            let own = Arc::clone(queue);
            started.spawn(format!("gpu{ordinal}-{}", lane.name()), move || own.finish_until_closed(lane))?;
        }
        let own = Arc::clone(queue);
        let watch = move || own.look_until_ended(hang_timeout / LOOKS_MAX);
        started.threads.push(Builder::new().name(format!("gpu{ordinal}-watch")).spawn(watch)?);
        Ok(started)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.queue.state().threads += 1;
        let queue = Arc::clone(&self.queue);
        let counted = move || {
            run();
            queue.state().threads -= 1;
            queue.changed.notify_all();
        };
        match Builder::new().name(name).spawn(counted) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                self.queue.state().threads -= 1;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.close();
        if self.queue.waits_until_ended() {
            // Their calls of the driver may never return; they keep the queue and what its jobs own.
            return;
        }
        let own = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            // A panic has ended the process already, or the test.
            thread.join().ok();
        }
    }
}

impl Queue {
    fn submit_until_closed(&self) {
        loop {
            let mut state = self.state();
            let begun = loop {
                if let Some(begun) = self.begin(&mut state) {
                    break Some(begun);
                }
                if state.closed && state.waiting_operations == 0 {
                    break None;
                }
                state = self.may_submit.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            match begun {
                Some(begun) => self.launch(begun),
                None => break,
            }
        }
        // The waiters look once more, now that nothing comes behind.
        self.may_finish.iter().for_each(|lane| lane.notify_all());
    }

    /// Looks in equal pauses until the other threads have ended, or the device hangs.
    fn look_until_ended(&self, pause: Duration) {
        let mut state = self.state();
        while !(state.closed && state.threads == 0) {
            let (later, waited) = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
            state = later;
            if waited.timed_out() {
                drop(state);
                if self.look(LOOKS_MAX) {
                    return;
                }
                state = self.state();
            }
        }
    }

    /// Waits until every thread that works has ended; true: the device hangs instead.
    fn waits_until_ended(&self) -> bool {
        let mut state = self.state();
        // The last one to go may be one of them, by dropping the last job.
        let own = usize::from(std::thread::current().name().is_some_and(|name| name.starts_with("gpu")));
        while !state.hung && state.threads > own {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.hung
    }

    fn finish_until_closed(&self, lane: Lane) {
        loop {
            if self.finish_one(lane) {
                continue;
            }
            let state = self.state();
            let here = &state.lanes[lane as usize];
            if !here.flying.is_empty() {
                continue;
            }
            if state.closed && here.waiting.is_empty() && here.finishing == 0 {
                return;
            }
            drop(self.may_finish[lane as usize].wait(state).unwrap_or_else(PoisonError::into_inner));
        }
    }
}
