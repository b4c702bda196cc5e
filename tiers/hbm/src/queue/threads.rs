//! The threads of one GPU.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::Queue;
use crate::gpu::Lane;

/// One submitter, and one waiter per lane. Dropping them finishes what was taken first.
pub struct Threads {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(queue: &Arc<Queue>) -> io::Result<Self> {
        let ordinal = queue.gpu().properties().ordinal;
        let mut started = Self { queue: Arc::clone(queue), threads: Vec::new() };
        let own = Arc::clone(queue);
        started.spawn(format!("gpu{ordinal}-submit"), move || own.submit_until_closed())?;
        for lane in Lane::ALL {
            let own = Arc::clone(queue);
            started.spawn(format!("gpu{ordinal}-{}", lane.name()), move || own.finish_until_closed(lane))?;
        }
        Ok(started)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(Builder::new().name(name).spawn(run)?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.close();
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
                Some((job, scratch)) => self.launch(job, scratch),
                None => break,
            }
        }
        // The waiters look once more, now that nothing comes behind.
        self.may_finish.iter().for_each(|lane| lane.notify_all());
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
