//! Why a block is not here: a bounded memory of removals and refusals, so that a miss can be explained.
//!
//! A direct-mapped table: one entry per bucket, the newest wins. A fingerprint of 64 bits in all (bucket and tag) makes a
//! wrong explanation a matter of 2^-32 per full bucket; it is only an explanation.

use std::time::Duration;

use super::entry::Level;
use super::plan::{Decline, Miss, MissReason};
use crate::place::TierKind;
use crate::port::{Moment, RemovalCause};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Removed(RemovalCause, Level),
    Declined(Decline),
}

#[derive(Debug, Clone, Copy)]
struct Memory {
    fingerprint: u32,
    event: Event,
    ms: u64,
}

const _: () = assert!(size_of::<Option<Memory>>() <= 16, "the settings promise 16 bytes per remembered event");

#[derive(Debug)]
pub(super) struct History {
    table: Box<[Option<Memory>]>,
}

impl History {
    pub(super) fn new(count_max: u32) -> Self {
        Self { table: vec![None; count_max.max(1) as usize].into() }
    }

    pub(super) fn note_removed(&mut self, now: Moment, mark: u64, cause: RemovalCause, level: Level) {
        self.note(now, mark, Event::Removed(cause, level));
    }

    pub(super) fn note_declined(&mut self, now: Moment, mark: u64, why: Decline) {
        self.note(now, mark, Event::Declined(why));
    }

    fn note(&mut self, now: Moment, mark: u64, event: Event) {
        let at = self.bucket(mark);
        let ms = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
        self.table[at] = Some(Memory { fingerprint: (mark >> 32) as u32, event, ms });
    }

    /// Explains a miss.
    pub(super) fn explain(&self, now: Moment, mark: u64) -> Miss {
        let memory = self.table[self.bucket(mark)].filter(|memory| memory.fingerprint == (mark >> 32) as u32);
        let Some(memory) = memory else { return Miss { reason: MissReason::NeverStored, age: None, tier: None } };
        let age = Some(now.since(Moment(Duration::from_millis(memory.ms))));
        match memory.event {
            Event::Removed(cause, level) => {
                let tier = Some(level.tier());
                Miss { reason: MissReason::Removed(cause), age, tier }
            }
            Event::Declined(why) => Miss { reason: MissReason::Declined(why), age, tier: None::<TierKind> },
        }
    }

    fn bucket(&self, mark: u64) -> usize {
        ((mark as u32 as u64 * self.table.len() as u64) >> 32) as usize
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&*self.table) as u64
    }
}
