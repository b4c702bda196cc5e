//! What engines hold in their own memory, as far as they tell.
//!
//! An engine is told apart by a name ("a", or "a/3" for its third data-parallel rank). What it tells becomes records of the
//! log, in one order with everything else, so that a subscriber of the node's events sees the engines' blocks without a
//! second stream (docs/decisions/0008-engine-events.md). These are volatile facts of other processes: they are in RAM and
//! in the log's events, never in the index, and the Reset that begins an epoch ends them all.
//!
//! The daemon's own pools in GPU memory are told of in the same way ([`Engine::note_pool`]): they are as volatile, and the
//! catalog does not know of them.
//!
//! Whoever follows an engine calls [`Engine::note_engine`] with what it told and [`Engine::reset_engine`] when it may have
//! missed something or the engine has gone. A block that is not told of although it is there costs a hint; one that is
//! told of although it has gone costs a wrong route. So whatever is in doubt is not told: over the bound nothing is added,
//! and a reset forgets everything first.

use std::collections::BTreeMap;
use std::ops::Bound;

use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::ask::Event;
use super::error::EngineError;
use super::{Core, Engine};
use crate::place::TierKind;
use crate::port::Record;

/// Longest name of an engine, in bytes.
pub const ENGINE_NAME_BYTES_MAX: usize = 64;

/// One thing an engine told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineChange {
    /// A block is in its memory: [`TierKind::Hbm`] or [`TierKind::Engine`].
    Stored {
        /// Where.
        tier: TierKind,
        /// The engine's key.
        key: Key,
        /// The block before it.
        parent: Option<Key>,
    },
    /// It is not any more.
    Removed {
        /// Where it was.
        tier: TierKind,
        /// The engine's key.
        key: Key,
    },
}

/// One thing that changed in a pool of this node's own, told by block and number of the space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolChange {
    /// A block is in it.
    Stored {
        /// The block.
        block: BlockId,
        /// Its space's number.
        space: u32,
        /// The engine's key.
        key: Key,
        /// The block before it.
        parent: Option<BlockId>,
    },
    /// It is not any more.
    Removed {
        /// The block.
        block: BlockId,
    },
}

/// A block in an engine's memory.
#[derive(Debug, Clone)]
struct Held {
    space: u32,
    key: Key,
    parent: Option<BlockId>,
}

/// Where a block is in an engine.
type Place = (TierKind, BlockId);

/// Which engine holds what.
#[derive(Debug, Default)]
pub(crate) struct EngineTable {
    engines: BTreeMap<String, BTreeMap<Place, Held>>,
}

/// Where a snapshot goes on: behind this engine's place.
pub(crate) type EngineCursor = Option<(String, Place)>;

impl EngineTable {
    /// Up to `count_max` entries behind the cursor, as events; none: all have been listed.
    pub(crate) fn snapshot_next(&self, core: &Core, cursor: &mut EngineCursor, count_max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let mut last = None;
        for (engine, place, held) in self.behind(cursor.as_ref()) {
            if events.len() == count_max {
                break;
            }
            last = Some((engine, *place));
            let Some(space) = core.spaces.numbered(held.space).map(|space| space.record.digest) else { continue };
            let (tier, block) = *place;
            let (engine, key, parent) = (engine.to_owned(), held.key.clone(), held.parent);
            events.push(Event::EngineStored { engine, space, block, key, parent, tier });
        }
        if let Some((engine, place)) = last {
            *cursor = Some((engine.to_owned(), place));
        }
        events
    }

    /// Every entry behind a place, in order; found without a walk over those before it.
    fn behind(&self, cursor: Option<&(String, Place)>) -> impl Iterator<Item = (&str, &Place, &Held)> {
        let from = cursor.map_or("", |(engine, _)| engine);
        self.engines.range::<str, _>((Bound::Included(from), Bound::Unbounded)).flat_map(move |(engine, places)| {
            let last = cursor.filter(|(listed, _)| listed == engine).map(|(_, place)| *place);
            let places = places.range((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
            places.map(move |(place, held)| (engine.as_str(), place, held))
        })
    }
}

impl Engine {
    /// Notes what an engine told, in its order; how many of its blocks are known now. A block beyond `count_max` is not
    /// noted, and its removal is no news. Refused while the log takes no more records: whoever follows the engine waits,
    /// or resets it later.
    pub fn note_engine(
        &self,
        engine: &str,
        space: &SpaceDigest,
        changes: &[EngineChange],
        count_max: usize,
    ) -> Result<usize, EngineError> {
        check_name(engine)?;
        self.ready()?;
        let mut core = self.shared.lock();
        let (number, ids) = {
            let space = core.spaces.find(space)?;
            let id = |key: &Key| space.block_id(key);
            let ids = changes.iter().map(|change| match change {
                EngineChange::Stored { key, parent, .. } => (id(key), parent.as_ref().map(id)),
                EngineChange::Removed { key, .. } => (id(key), None),
            });
            (space.record.number, ids.collect::<Vec<_>>())
        };
        let mut records = Vec::new();
        let held = match core.engines.engines.get_mut(engine) {
            Some(held) => held,
            None => core.engines.engines.entry(engine.to_owned()).or_default(),
        };
        for (change, (block, parent)) in changes.iter().zip(ids) {
            match change {
                EngineChange::Stored { tier, key, .. } => {
                    let place = (*tier, block);
                    if held.contains_key(&place) || held.len() >= count_max {
                        continue;
                    }
                    held.insert(place, Held { space: number, key: key.clone(), parent });
                    let (engine, tier, key) = (engine.to_owned(), *tier, key.clone());
                    records.push(Record::EngineStored { engine, tier, block, space: number, key, parent });
                }
                EngineChange::Removed { tier, .. } => {
                    if let Some(held) = held.remove(&(*tier, block)) {
                        let (engine, tier, space) = (engine.to_owned(), *tier, held.space);
                        records.push(Record::EngineRemoved { engine, tier, block, space });
                    }
                }
            }
        }
        let count = held.len();
        self.shared.journal(&mut core, records);
        Ok(count)
    }

    /// Notes what has changed in a pool in GPU memory, in its order, as if an engine of that name told it. Not refused: while
    /// the log takes no records, subscribers get all of it with the epoch that ends the gap.
    pub fn note_pool(&self, pool: &str, changes: Vec<PoolChange>) {
        let tier = TierKind::Hbm;
        let mut core = self.shared.lock();
        let held = core.engines.engines.entry(pool.to_owned()).or_default();
        let mut records = Vec::with_capacity(changes.len());
        for change in changes {
            let engine = pool.to_owned();
            match change {
                PoolChange::Stored { block, space, key, parent } => {
                    held.insert((tier, block), Held { space, key: key.clone(), parent });
                    records.push(Record::EngineStored { engine, tier, block, space, key, parent });
                }
                PoolChange::Removed { block } => {
                    if let Some(Held { space, .. }) = held.remove(&(tier, block)) {
                        records.push(Record::EngineRemoved { engine, tier, block, space });
                    }
                }
            }
        }
        self.shared.journal(&mut core, records);
    }

    /// Forgets what an engine has told; how much that was. Nothing is told of an engine that has nothing.
    pub fn reset_engine(&self, engine: &str, reason: &str) -> usize {
        let mut core = self.shared.lock();
        let Some(held) = core.engines.engines.remove(engine).filter(|held| !held.is_empty()) else { return 0 };
        let record = Record::EngineReset { engine: engine.to_owned(), reason: reason.to_owned() };
        self.shared.journal(&mut core, vec![record]);
        held.len()
    }

    /// Blocks each engine is known to hold.
    pub fn engine_blocks(&self) -> BTreeMap<String, u64> {
        let core = self.shared.lock();
        core.engines.engines.iter().map(|(engine, held)| (engine.clone(), held.len() as u64)).collect()
    }

    fn ready(&self) -> Result<(), EngineError> {
        self.shared.ports.journal.ready().map_err(|refused| EngineError::unavailable("the journal", refused))
    }
}

fn check_name(engine: &str) -> Result<(), EngineError> {
    if engine.is_empty() || engine.len() > ENGINE_NAME_BYTES_MAX {
        let remedy = format!("an engine's name has 1 to {ENGINE_NAME_BYTES_MAX} bytes");
        return Err(EngineError::invalid("engine", format!("{} bytes long", engine.len()), remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_in_pages_lists_every_place_once() {
        let mut table = EngineTable::default();
        let key = Key::new(b"k").expect("a key");
        for (engine, count) in [("a", 5), ("b", 1), ("b/1", 4), ("c", 0)] {
            let held = || Held { space: 0, key: key.clone(), parent: None };
            let places = (0..count).map(|number| ((TierKind::Hbm, BlockId(number)), held()));
            table.engines.insert(engine.to_owned(), places.collect());
        }
        for page in 1..=11 {
            let (mut cursor, mut listed) = (None, Vec::new());
            loop {
                let before = listed.len();
                listed.extend(
                    table.behind(cursor.as_ref()).take(page).map(|(engine, place, _)| (engine.to_owned(), *place)),
                );
                if listed.len() == before {
                    break;
                }
                cursor = listed.last().cloned();
            }
            let expected: Vec<_> = table.behind(None).map(|(engine, place, _)| (engine.to_owned(), *place)).collect();
            assert_eq!((listed.len(), &listed), (10, &expected), "{page} a page");
        }
    }
}
