//! Threads of a local client for calls that nobody waits for.
//!
//! A lane is a bounded queue and the threads that empty it. They never touch Python. When the lane is dropped they
//! finish what is queued and end; a call whose answer nobody can ask for any more is skipped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kvtier_client::ClientError;

use crate::pending::{Convert, Pending, Place};

/// Calls that may wait for a thread.
pub(crate) const QUEUE_MAX: usize = 1024;
/// When to try again after the queue was full.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// What a lane does for a call.
type Work = Box<dyn FnOnce() -> Result<Convert, ClientError> + Send>;

struct Job {
    work: Work,
    place: Arc<Place>,
    /// Whether it is pointless without somebody to ask for its answer.
    only_asks: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    name: &'static str,
    queue: SyncSender<Job>,
}

impl Lane {
    pub(crate) fn new(name: &'static str, threads: usize) -> Result<Self, ClientError> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads {
            let jobs = Arc::clone(&jobs);
            let spawned = thread::Builder::new().name(format!("kvtier-{name}")).spawn(move || run(&jobs));
            spawned.map_err(|error| ClientError::Internal { call: name, detail: error.to_string() })?;
        }
        Ok(Self { name, queue })
    }

    /// Queues a call that only asks: it is skipped when its answer has been dropped before its turn.
    pub(crate) fn ask(
        &self,
        work: impl FnOnce() -> Result<Convert, ClientError> + Send + 'static,
    ) -> Result<Pending, ClientError> {
        self.start(Box::new(work), true)
    }

    /// Queues a call that changes something: it is carried out in any case.
    pub(crate) fn change(
        &self,
        work: impl FnOnce() -> Result<Convert, ClientError> + Send + 'static,
    ) -> Result<Pending, ClientError> {
        self.start(Box::new(work), false)
    }

    fn start(&self, work: Work, only_asks: bool) -> Result<Pending, ClientError> {
        let place = Arc::new(Place::default());
        let job = Job { work, place: Arc::clone(&place), only_asks };
        self.queue.try_send(job).map_err(|_| {
            let detail = format!("{QUEUE_MAX} calls wait for a thread: ask for their answers before starting more");
            ClientError::Exhausted { call: self.name, detail, retry_after: RETRY_AFTER }
        })?;
        Ok(Pending::new(place))
    }
}

fn run(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().expect("nobody panics while taking a job").recv();
        let Ok(Job { work, place, only_asks }) = next else { return };
        if only_asks && Arc::strong_count(&place) == 1 {
            continue;
        }
        // A panic must not leave somebody waiting for ever.
        let answer = catch_unwind(AssertUnwindSafe(work));
        place.fill(answer.unwrap_or_else(|_| {
            let detail = "the call panicked; its message is on standard error".to_owned();
            Err(ClientError::Internal { call: "local", detail })
        }));
    }
}
