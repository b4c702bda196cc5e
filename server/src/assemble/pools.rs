//! The pools in GPU memory and the engine: it tells them what is gone and takes blocks from them, they tell it what they have.

use std::sync::{Arc, OnceLock, Weak};

use kvtier_engine::flow::Engine;
use kvtier_engine::flow::alarm::{Alarm, RaisedAlarm};
use kvtier_engine::flow::annex::{Annex, Fetched};
use kvtier_engine::flow::external::PoolChange;
use kvtier_engine::place::Slot;
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{BoxFuture, DeviceState, Tier};
use kvtier_hbm::pool::{Listener, PoolNews};
use kvtier_identity::BlockId;

use super::hbm::Found;
use super::opening::Opening;

/// Both ends, until they know each other.
pub(super) struct Pools {
    annex: PoolAnnex,
    engine: Arc<OnceLock<Engine>>,
}

/// The pools as the engine sees them. It does not keep them: they keep the engine.
struct PoolAnnex {
    opening: Weak<Opening>,
}

impl Pools {
    pub(super) fn new(opening: &Arc<Opening>) -> Self {
        Self { annex: PoolAnnex { opening: Arc::downgrade(opening) }, engine: Arc::default() }
    }

    /// Brings them together.
    pub(super) fn join(self, engine: &Engine) {
        // Nothing is in a pool before workers can reach it.
        self.engine.set(engine.clone()).ok();
        engine.add_annex(Arc::new(self.annex));
    }

    /// Tells the engine what changes in the pools.
    pub(super) fn listener(&self) -> Listener {
        let engine = Arc::clone(&self.engine);
        Box::new(move |news| {
            if let Some(engine) = engine.get() {
                tell(engine, news);
            }
        })
    }
}

impl PoolAnnex {
    /// Looks at what was found, if the tier is open.
    fn look<T>(&self, look: impl FnOnce(&Found) -> T) -> Option<T> {
        self.opening.upgrade()?.outcome()?.as_ref().ok().map(look)
    }
}

/// As which engine a GPU's pool is told of. No engine that is followed can have such a name.
fn name(gpu: u8) -> String {
    format!("kvtierd/gpu{gpu}")
}

fn tell(engine: &Engine, news: Vec<PoolNews>) {
    let mut changes: Vec<PoolChange> = Vec::new();
    let mut of = 0;
    let flush = |gpu: u8, changes: &mut Vec<PoolChange>| {
        if !changes.is_empty() {
            engine.note_pool(&name(gpu), std::mem::take(changes));
        }
    };
    for news in news {
        let gpu = match &news {
            PoolNews::Stored { gpu, .. } | PoolNews::Removed { gpu, .. } | PoolNews::Lost { gpu, .. } => *gpu,
        };
        if gpu != of {
            flush(of, &mut changes);
            of = gpu;
        }
        match news {
            PoolNews::Stored { block, space, key, parent, .. } => {
                changes.push(PoolChange::Stored { block, space, key, parent });
            }
            PoolNews::Removed { block, .. } => changes.push(PoolChange::Removed { block }),
            PoolNews::Lost { cause, .. } => {
                flush(gpu, &mut changes);
                engine.reset_engine(&name(gpu), &cause);
            }
        }
    }
    flush(of, &mut changes);
}

impl Annex for PoolAnnex {
    fn forget(&self, blocks: &[BlockId]) {
        self.look(|found| found.pools.all().for_each(|pool| pool.forget_all(blocks)));
    }

    fn fetch(&self, expect: &Expect, into: Slot) -> Option<BoxFuture<Fetched>> {
        // A domain's pool serves its own arena, and no other.
        self.look(|found| found.pools.of(into.device)?.fetch(expect, into)).flatten()
    }

    fn alarms(&self) -> Vec<RaisedAlarm> {
        let late = self.opening.upgrade().and_then(|opening| opening.late());
        let late = late
            .map(|why| RaisedAlarm { alarm: Alarm::HbmLeftOut, sentence: format!("{why}; workers use host memory") });
        late.into_iter().chain(self.look(alarms_of).into_iter().flatten()).collect()
    }
}

fn alarms_of(found: &Found) -> Vec<RaisedAlarm> {
    let health = found.tier.health();
    let lost = health.iter().enumerate().filter(|(_, gpu)| gpu.state == DeviceState::Poisoned);
    let lost = lost.map(|(number, gpu)| RaisedAlarm {
        alarm: Alarm::HbmPoisoned,
        sentence: format!("device {number} takes nothing ({}); workers use host memory", gpu.detail),
    });
    let left_out = found.left_out.iter().map(|why| RaisedAlarm {
        alarm: Alarm::HbmLeftOut,
        sentence: format!("{why}; the other GPUs serve: mend it, then restart"),
    });
    lost.chain(left_out).collect()
}
