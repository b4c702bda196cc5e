//! From the log's events to vLLM's: what they name differently, what is left out, what belongs into one event.
//!
//! The log removes a block by its id, vLLM by its hash: the narrator remembers the keys of resident blocks, up to a bound.
//! Blocks beyond it are not told of, neither their coming nor their going. Host memory is medium `CPU`, NVMe is `STORAGE`.
//! What engines hold themselves is left out: they publish it.

use std::collections::BTreeMap;

use kvtier_engine::flow::Engine;
use kvtier_engine::flow::ask::Event;
use kvtier_engine::place::TierKind;
use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::batch::{Told, encode};

/// Blocks of one event at most.
const RUN_MAX: usize = 256;

/// See the module.
pub(super) struct Narrator {
    blocks_max: usize,
    numbers: bool,
    known: BTreeMap<BlockId, Known>,
    /// Tokens of a block, by space.
    tokens: BTreeMap<SpaceDigest, u32>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    host: bool,
    nvme: bool,
}

impl Narrator {
    pub(super) fn new(blocks_max: usize, numbers: bool) -> Self {
        Self { blocks_max, numbers, known: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// Events as one batch; none if they say nothing to vLLM's subscribers.
    pub(super) fn tell(&mut self, events: Vec<Event>, engine: &Engine, unix_ms: u64) -> Option<Vec<u8>> {
        let told = self.translate(events, |space| tokens_of(engine, space));
        (!told.is_empty()).then(|| encode(&told, unix_ms, self.numbers))
    }

    fn translate(&mut self, events: Vec<Event>, tokens_of: impl Fn(&SpaceDigest) -> Option<u32>) -> Vec<Told> {
        let mut told = Vec::new();
        for event in events {
            match event {
                Event::Reset { .. } => {
                    self.known.clear();
                    told = vec![Told::Cleared];
                }
                Event::Stored { space, block, key, parent, tier, .. } => {
                    let Some(medium) = self.store(block, &key, tier) else { continue };
                    let parent = parent.and_then(|parent| Some(self.known.get(&parent)?.key.clone()));
                    let tokens = self.tokens.get(&space).copied().or_else(|| tokens_of(&space)).unwrap_or(0);
                    self.tokens.insert(space, tokens);
                    append_stored(&mut told, key, parent, tokens, medium);
                }
                Event::Removed { block, tier, .. } => {
                    if let Some((key, medium)) = self.remove(block, tier) {
                        append_removed(&mut told, key, medium);
                    }
                }
                Event::SpaceDropped { space } => drop(self.tokens.remove(&space)),
                Event::SnapshotEnd
                | Event::SpaceOpened { .. }
                | Event::EngineStored { .. }
                | Event::EngineRemoved { .. }
                | Event::EngineReset { .. } => {}
            }
        }
        told
    }

    /// The medium, if it is news.
    fn store(&mut self, block: BlockId, key: &Key, tier: TierKind) -> Option<&'static str> {
        let medium = medium_of(tier)?;
        if !self.known.contains_key(&block) {
            if self.known.len() >= self.blocks_max {
                return None;
            }
            self.known.insert(block, Known { key: key.clone(), host: false, nvme: false });
        }
        let there = self.known.get_mut(&block).expect("it is known now").place(tier);
        (!std::mem::replace(there, true)).then_some(medium)
    }

    fn remove(&mut self, block: BlockId, tier: TierKind) -> Option<(Key, &'static str)> {
        let medium = medium_of(tier)?;
        let known = self.known.get_mut(&block)?;
        if !std::mem::replace(known.place(tier), false) {
            return None;
        }
        let key = known.key.clone();
        if !known.host && !known.nvme {
            self.known.remove(&block);
        }
        Some((key, medium))
    }
}

impl Known {
    fn place(&mut self, tier: TierKind) -> &mut bool {
        if tier == TierKind::Nvme { &mut self.nvme } else { &mut self.host }
    }
}

fn medium_of(tier: TierKind) -> Option<&'static str> {
    match tier {
        TierKind::Host => Some("CPU"),
        TierKind::Nvme => Some("STORAGE"),
        TierKind::Hbm | TierKind::Archive | TierKind::Engine => None,
    }
}

fn tokens_of(engine: &Engine, space: &SpaceDigest) -> Option<u32> {
    let spaces = engine.spaces();
    spaces.iter().find(|known| known.digest == *space).map(|space| space.description.tokens_per_block)
}

/// A block that follows the last one of the last event joins it.
fn append_stored(told: &mut Vec<Told>, key: Key, parent: Option<Key>, tokens: u32, medium: &'static str) {
    if let Some(Told::Stored { keys, block_tokens, medium: last, .. }) = told.last_mut()
        && *last == medium
        && *block_tokens == tokens
        && keys.len() < RUN_MAX
        && parent.is_some()
        && keys.last() == parent.as_ref()
    {
        return keys.push(key);
    }
    told.push(Told::Stored { keys: vec![key], parent, block_tokens: tokens, medium });
}

fn append_removed(told: &mut Vec<Told>, key: Key, medium: &'static str) {
    if let Some(Told::Removed { keys, medium: last }) = told.last_mut()
        && *last == medium
        && keys.len() < RUN_MAX
    {
        return keys.push(key);
    }
    told.push(Told::Removed { keys: vec![key], medium });
}

#[cfg(test)]
mod tests {
    use kvtier_engine::port::RemovalCause;

    use super::*;

    const SPACE: SpaceDigest = SpaceDigest([1; 32]);

    fn key(number: u8) -> Key {
        Key::new(&[number; 32]).expect("32 bytes")
    }

    fn stored(number: u8, parent: Option<u8>, tier: TierKind) -> Event {
        let (block, parent) = (BlockId(number.into()), parent.map(|parent| BlockId(parent.into())));
        Event::Stored { space: SPACE, block, key: key(number), parent, length: 1, tier }
    }

    fn removed(number: u8, tier: TierKind) -> Event {
        Event::Removed { space: SPACE, block: BlockId(number.into()), tier, cause: RemovalCause::Evicted }
    }

    fn translate(narrator: &mut Narrator, events: &[Event]) -> Vec<Told> {
        narrator.translate(events.to_vec(), |_| Some(16))
    }

    fn run(numbers: &[u8], parent: Option<u8>, medium: &'static str) -> Told {
        let keys = numbers.iter().map(|number| key(*number)).collect();
        Told::Stored { keys, parent: parent.map(key), block_tokens: 16, medium }
    }

    #[test]
    fn a_chain_is_one_event_and_each_tier_is_a_medium() {
        let mut narrator = Narrator::new(100, true);
        let (host, nvme) = (TierKind::Host, TierKind::Nvme);
        let events = [
            Event::Reset { epoch: 1, reason: String::new() },
            stored(1, None, host),
            stored(2, Some(1), host),
            stored(3, Some(2), host),
            stored(9, None, host),
            stored(2, Some(1), nvme),
            stored(2, Some(1), nvme),
            Event::SnapshotEnd,
        ];
        let expected =
            [Told::Cleared, run(&[1, 2, 3], None, "CPU"), run(&[9], None, "CPU"), run(&[2], Some(1), "STORAGE")];
        assert_eq!(translate(&mut narrator, &events), expected);
        let events = [removed(2, host), removed(3, host), removed(2, nvme), removed(2, nvme), removed(77, nvme)];
        let expected = [
            Told::Removed { keys: vec![key(2), key(3)], medium: "CPU" },
            Told::Removed { keys: vec![key(2)], medium: "STORAGE" },
        ];
        assert_eq!(translate(&mut narrator, &events), expected);
        assert_eq!(narrator.known.len(), 2, "what is nowhere is not remembered");
    }

    #[test]
    fn what_exceeds_the_bound_is_not_told_of_in_either_direction() {
        let mut narrator = Narrator::new(1, true);
        let host = TierKind::Host;
        let told = translate(&mut narrator, &[stored(1, None, host), stored(2, Some(1), host), removed(2, host)]);
        assert_eq!(told, [run(&[1], None, "CPU")]);
        assert_eq!(translate(&mut narrator, &[Event::Reset { epoch: 2, reason: String::new() }]), [Told::Cleared]);
        assert_eq!(translate(&mut narrator, &[stored(2, Some(1), host)]), [run(&[2], None, "CPU")]);
    }

    #[test]
    fn a_batch_reads_as_what_vllm_publishes() {
        use crate::engine_events::read_batch_for_tests as read;
        let told = [run(&[1, 2], Some(7), "CPU"), Told::Removed { keys: vec![key(1)], medium: "CPU" }, Told::Cleared];
        assert_eq!(read(&encode(&told, 1_500, false)), ["stored 32", "stored 32", "removed 32", "cleared"]);
        assert_eq!(read(&encode(&told, 1_500, true)), ["stored 8", "stored 8", "removed 8", "cleared"]);
    }
}
