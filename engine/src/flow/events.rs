//! Following the log: replay, snapshot, tail.
//!
//! A subscriber holds a position, not a queue: what it has not read yet stays in the log, so a slow one costs no memory.
//! If retention overtakes it, or the node began a new epoch, it gets Reset, a snapshot, and the tail (INV-6).
//!
//! A snapshot is fuzzy and converges: its position is taken first, then blocks are listed in chunks; changes made
//! meanwhile are after the position and are replayed over it. Stored and Removed name a block and a tier, so that
//! applying one twice changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvtier_identity::SpaceDigest;

use super::ask::{Event, SubscribeFrom};
use super::error::EngineError;
use super::external::EngineCursor;
use super::{Engine, Shared};
use crate::catalog::plan::SnapshotBlock;
use crate::place::TierKind;
use crate::port::{Position, ReadRefused, Record};

/// Events in one answer.
const BATCH_COUNT: usize = 1024;
/// Where the catalog's walk ends.
const SNAPSHOT_END: u32 = u32::MAX;

/// One subscriber.
pub struct Subscription {
    shared: Arc<Shared>,
    spaces: BTreeSet<SpaceDigest>,
    position: Position,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Say Reset, then list.
    Reset(String),
    /// List blocks from this cursor.
    Snapshot(u32),
    /// List what engines hold from this cursor.
    Engines(EngineCursor),
    /// Follow the log.
    Tail,
}

/// Events and the position after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// Where a later subscription may go on. Inside a snapshot it is the position before the snapshot.
    pub position: Position,
    /// What happened.
    pub events: Vec<Event>,
}

impl Engine {
    /// Follows the log; `spaces` empty = all.
    pub fn subscribe(&self, from: SubscribeFrom, spaces: &[SpaceDigest]) -> Result<Subscription, EngineError> {
        let status = self.shared.ports.journal.status();
        let newest = status.position();
        let (position, state) = match from {
            SubscribeFrom::Tail => (newest, State::Tail),
            SubscribeFrom::Snapshot => (newest, State::Reset("a snapshot was asked for".into())),
            SubscribeFrom::After(after) => resume(after, newest, status.first_seq)?,
        };
        let spaces = spaces.iter().copied().collect();
        Ok(Subscription { shared: Arc::clone(&self.shared), spaces, position, state })
    }
}

fn resume(after: Position, newest: Position, first_seq: u64) -> Result<(Position, State), EngineError> {
    if after.epoch > newest.epoch || after.seq > newest.seq {
        return Err(EngineError::OutOfRange(format!(
            "position {}:{} lies ahead, the newest is {}:{}: subscribe with a snapshot",
            after.epoch, after.seq, newest.epoch, newest.seq
        )));
    }
    if after.epoch < newest.epoch {
        return Ok((newest, State::Reset(format!("the node began epoch {}", newest.epoch))));
    }
    if after.seq + 1 < first_seq {
        return Err(EngineError::OutOfRange(format!(
            "position {}:{} is forgotten, the oldest kept is {}:{}: subscribe with a snapshot",
            after.epoch,
            after.seq,
            newest.epoch,
            first_seq.saturating_sub(1)
        )));
    }
    Ok((after, State::Tail))
}

impl Subscription {
    /// The next events; waits until there are some.
    pub async fn next(&mut self) -> Result<EventBatch, EngineError> {
        loop {
            let events = match &self.state {
                State::Reset(reason) => self.reset(reason.clone()),
                State::Snapshot(cursor) => self.snapshot(*cursor).await?,
                State::Engines(cursor) => self.engines(cursor.clone()),
                State::Tail => self.tail().await?,
            };
            if !events.is_empty() {
                return Ok(EventBatch { position: self.position, events });
            }
        }
    }

    fn reset(&mut self, reason: String) -> Vec<Event> {
        let core = self.shared.lock();
        let newest = self.shared.ports.journal.status().position();
        self.position = Position { seq: core.stores.settled_seq(newest.seq), ..newest };
        self.state = State::Snapshot(0);
        let opened = core.spaces.iter().filter(|space| self.wants(&space.record.digest));
        let opened =
            opened.map(|space| Event::SpaceOpened { space: space.record.digest, name: space.record.name.clone() });
        [Event::Reset { epoch: newest.epoch, reason }].into_iter().chain(opened).collect()
    }

    async fn snapshot(&mut self, mut cursor: u32) -> Result<Vec<Event>, EngineError> {
        self.shared.filled().await;
        if cursor == SNAPSHOT_END {
            return Ok(self.engines(None));
        }
        let blocks = self.shared.lock().catalog.snapshot_next(&mut cursor, BATCH_COUNT);
        self.state = State::Snapshot(cursor);
        self.name_blocks(blocks).await
    }

    fn engines(&mut self, mut cursor: EngineCursor) -> Vec<Event> {
        let listed = {
            let core = self.shared.lock();
            core.engines.snapshot_next(&core, &mut cursor, BATCH_COUNT)
        };
        if listed.is_empty() {
            self.state = State::Tail;
            return vec![Event::SnapshotEnd];
        }
        self.state = State::Engines(cursor);
        listed.into_iter().filter(|event| self.wants_event(event)).collect()
    }

    fn wants_event(&self, event: &Event) -> bool {
        match event {
            Event::EngineStored { space, .. } => self.wants(space),
            _ => true,
        }
    }

    /// Finds the keys RAM does not know in the index.
    async fn name_blocks(&self, mut blocks: Vec<SnapshotBlock>) -> Result<Vec<Event>, EngineError> {
        // A block that became durable before the snapshot must be in the index by now; a later one is in the tail.
        self.shared.applied(self.position.seq).await;
        let nameless: Vec<_> = blocks.iter().filter(|block| block.key.is_none()).map(|block| block.block).collect();
        let entries = self.shared.ports.index.get_many(nameless).await;
        let mut entries = entries.map_err(|error| EngineError::unavailable("the index", error))?.into_iter();
        for block in blocks.iter_mut().filter(|block| block.key.is_none()) {
            // Not in the index: removed meanwhile; the tail says so.
            block.key = entries.next().flatten().map(|entry| entry.key);
        }
        let core = self.shared.lock();
        let mut events = Vec::with_capacity(blocks.len());
        for block in blocks {
            let (Some(key), Some(space)) = (block.key, core.spaces.digest(block.space)) else { continue };
            if !self.wants(&space) {
                continue;
            }
            for (tier, there) in [(TierKind::Host, block.host), (TierKind::Nvme, block.nvme)] {
                if there {
                    let (key, parent, length) = (key.clone(), block.parent, block.length);
                    events.push(Event::Stored { space, block: block.block, key, parent, length, tier });
                }
            }
        }
        Ok(events)
    }

    async fn tail(&mut self) -> Result<Vec<Event>, EngineError> {
        self.shared.ports.journal.grown(self.position.seq).await;
        let records = match self.shared.ports.journal.read(self.position.seq, BATCH_COUNT).await {
            Ok(records) => records,
            Err(ReadRefused::Forgotten { .. }) => {
                self.state = State::Reset("the subscriber fell behind what the log keeps".into());
                return Ok(Vec::new());
            }
            Err(refused) => return Err(EngineError::unavailable("the journal", refused)),
        };
        let mut events = Vec::with_capacity(records.len());
        for (position, record) in records {
            if let Record::Reset { reason, .. } = record {
                self.position = position;
                self.state = State::Reset(reason);
                return Ok(events);
            }
            self.position = position;
            events.extend(self.event_of(record));
        }
        Ok(events)
    }

    fn event_of(&self, record: Record) -> Option<Event> {
        let core = self.shared.lock();
        let space = |number: u32| core.spaces.digest(number).filter(|space| self.wants(space));
        match record {
            Record::StoredHost { block, space: number, key, parent, length } => {
                Some(Event::Stored { space: space(number)?, block, key, parent, length, tier: TierKind::Host })
            }
            Record::StoredNvme { block, entry } => Some(Event::Stored {
                space: space(entry.space)?,
                block,
                key: entry.key,
                parent: entry.parent,
                length: entry.length,
                tier: TierKind::Nvme,
            }),
            Record::Removed { block, space: number, tier, cause } => {
                Some(Event::Removed { space: space(number)?, block, tier, cause })
            }
            Record::SpaceOpened(record) if self.wants(&record.digest) => {
                Some(Event::SpaceOpened { space: record.digest, name: record.name })
            }
            Record::SpaceDropped { digest, .. } if self.wants(&digest) => Some(Event::SpaceDropped { space: digest }),
            Record::EngineStored { engine, tier, block, space: number, key, parent } => {
                Some(Event::EngineStored { engine, space: space(number)?, block, key, parent, tier })
            }
            Record::EngineRemoved { engine, tier, block, space: number } => {
                Some(Event::EngineRemoved { engine, space: space(number)?, block, tier })
            }
            Record::EngineReset { engine, reason } => Some(Event::EngineReset { engine, reason }),
            Record::SpaceOpened(_)
            | Record::SpaceDropped { .. }
            | Record::Quarantined { .. }
            | Record::Reset { .. } => None,
        }
    }

    fn wants(&self, space: &SpaceDigest) -> bool {
        self.spaces.is_empty() || self.spaces.contains(space)
    }
}
