//! A subscriber that believes the event stream, and is compared with the truth at rest (INV-6).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use kvtier_engine::flow::Engine;
use kvtier_engine::flow::ask::{Event, SubscribeFrom};
use kvtier_engine::flow::status::EngineStatus;
use kvtier_engine::place::TierKind;
use kvtier_engine::port::JournalState;
use kvtier_identity::BlockId;

use crate::executor::Executor;

#[derive(Default)]
struct Believed {
    copies: BTreeSet<(BlockId, TierKind)>,
    seq: u64,
    in_snapshot: bool,
    heard: Vec<String>,
}

pub(crate) struct Mirror(Rc<RefCell<Believed>>);

impl Mirror {
    pub(crate) fn subscribe(engine: &Engine, executor: &mut Executor) -> Self {
        let believed = Rc::new(RefCell::new(Believed::default()));
        let engine = engine.clone();
        let out = Rc::clone(&believed);
        executor.start("mirror", async move {
            let Ok(mut subscription) = engine.subscribe(SubscribeFrom::Snapshot, &[]) else { return };
            while let Ok(batch) = subscription.next().await {
                let mut believed = out.borrow_mut();
                batch.events.into_iter().for_each(|event| believed.apply(event));
                believed.seq = batch.position.seq;
            }
        });
        Self(believed)
    }

    pub(crate) fn has_read(&self, seq: u64) -> bool {
        let believed = self.0.borrow();
        !believed.in_snapshot && believed.seq >= seq
    }

    /// The believed number of copies per tier must be the catalog's.
    pub(crate) fn compare(&self, engine: &Engine, status: &EngineStatus) -> Result<(), String> {
        let gaps = engine.meter().unjournaled_records.get() > 0 || status.journal.state != JournalState::Open;
        if gaps {
            // The journal is suspended or failed: subscribers know no more than it could tell.
            return Ok(());
        }
        let believed = self.0.borrow();
        let count = |tier| believed.copies.iter().filter(|(_, held)| *held == tier).count() as u64;
        let (host, nvme) = (count(TierKind::Host), count(TierKind::Nvme));
        if (host, nvme) != (status.count.host.blocks, status.count.nvme.blocks) {
            return Err(format!(
                "INV-6: a subscriber believes in {host} host and {nvme} nvme copies, there are {} and {}",
                status.count.host.blocks, status.count.nvme.blocks
            ));
        }
        Ok(())
    }
}

impl Mirror {
    /// Copies one of the two believes in and the other does not.
    pub(crate) fn difference(&self, other: &Self) -> Vec<(BlockId, TierKind)> {
        self.0.borrow().copies.symmetric_difference(&other.0.borrow().copies).copied().collect()
    }

    /// What was heard of a block.
    pub(crate) fn heard_of(&self, block: BlockId) -> Vec<String> {
        let name = format!("{block:?}, ");
        self.0.borrow().heard.iter().filter(|event| event.contains(&name)).cloned().collect()
    }
}

impl Believed {
    fn apply(&mut self, event: Event) {
        self.heard.push(format!("{event:?}"));
        match event {
            Event::Reset { .. } => {
                self.copies.clear();
                self.in_snapshot = true;
            }
            Event::SnapshotEnd => self.in_snapshot = false,
            Event::Stored { block, tier, .. } => {
                self.copies.insert((block, tier));
            }
            Event::Removed { block, tier, .. } => {
                self.copies.remove(&(block, tier));
            }
            Event::SpaceOpened { .. }
            | Event::SpaceDropped { .. }
            | Event::EngineStored { .. }
            | Event::EngineRemoved { .. }
            | Event::EngineReset { .. } => {}
        }
    }
}
