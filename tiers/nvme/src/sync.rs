//! One sync for everybody who waits.
//!
//! A sync covers only what completed before it *began*, so a caller never joins a running one: it joins the next.
//! At most one sync runs per device and at most one group waits for the next.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use kvtier_device::DiskError;
use kvtier_engine::port::{Clock, Spawn, TierError};

use crate::device::Device;

/// Callers that may wait for one sync.
const WAITING_MAX: usize = 65_536;

type Answer = Result<(), TierError>;

#[derive(Default)]
pub(crate) struct SyncGroup {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
}

/// Joins the device's next sync and makes sure that it will run, whoever goes away.
pub(crate) fn join(device: &Arc<Device>, spawn: &dyn Spawn, clock: &Arc<dyn Clock>) -> oneshot::Receiver<Answer> {
    let (sender, receiver) = oneshot::channel();
    let mut state = device.syncs.state();
    if state.waiting.len() >= WAITING_MAX {
        let _ = sender.send(Err(TierError::Busy));
        return receiver;
    }
    state.waiting.push(sender);
    let start = !std::mem::replace(&mut state.running, true);
    drop(state);
    if start {
        let running = Running { device: device.clone(), ended: false };
        spawn.spawn("nvme sync", Box::pin(serve(running, clock.clone())));
    }
    receiver
}

async fn serve(mut running: Running, clock: Arc<dyn Clock>) {
    while let Some(group) = running.next_group() {
        let answer = sync_once(&running.device, &*clock).await;
        for sender in group {
            // A caller that has gone away wanted no answer.
            let _ = sender.send(answer.clone());
        }
    }
}

/// INV-7: after a failure nobody syncs again; INV-3: durable means that the next start will find it.
async fn sync_once(device: &Device, clock: &dyn Clock) -> Answer {
    if let Some(refusal) = device.refuses_syncs() {
        return Err(refusal);
    }
    let result = device.disk.sync().await;
    device.counts.syncs.fetch_add(1, Ordering::Relaxed);
    match result {
        Ok(()) => {}
        Err(DiskError::Io(cause)) => device.lose(&format!("a sync failed: {cause}")),
        Err(error) => return Err(device.explain(error)),
    }
    device.ask_presence(clock.now());
    device.refuses_syncs().map_or(Ok(()), Err)
}

/// The task that syncs. Lets nobody wait for ever if a runtime that shuts down throws it away.
struct Running {
    device: Arc<Device>,
    ended: bool,
}

impl Running {
    /// Those who wait now; with none left the task ends, under the same lock, so that the next caller starts another.
    fn next_group(&mut self) -> Option<Vec<oneshot::Sender<Answer>>> {
        let mut state = self.device.syncs.state();
        if state.waiting.is_empty() {
            state.running = false;
            self.ended = true;
            return None;
        }
        Some(std::mem::take(&mut state.waiting))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.device.syncs.state();
            state.running = false;
            state.waiting.clear();
        }
    }
}

impl SyncGroup {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
