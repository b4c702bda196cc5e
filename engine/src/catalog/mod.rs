//! Which blocks are where, who holds them, and what must happen next: the pure core.
//!
//! `&mut self` in, plan out. No clock, I/O, lock or future; the shell keeps the catalog behind one mutex, executes the
//! plans and reports outcomes back.
//!
//! # Structures
//!
//! ```text
//! id -> index        hash table, 8-byte slots, 256 shards       table.rs
//! index -> Entry     64 bytes, one cache line: id, slots,       entry.rs
//!                    length, CRC, generation, holds, state
//! index -> Kin       first child, siblings, children per tier   entry.rs
//! index -> link      eviction order, one per tier               policy/
//! slot -> index      owners and free bits per extent            slots.rs, extent.rs, by domain in shelf.rs
//! index -> key       only for blocks with a host slot           mod.rs
//! ```
//!
//! All by index, in chunked slabs: about 116 bytes per NVMe block, and growing never copies.
//!
//! # Rules
//!
//! - A slot is free, bad, or owned by one entry (INV-2). An entry owns at most one slot per tier.
//! - Every reader, writer, lease, pin, flight and scrub is a *hold*. A held block is neither evicted nor moved (INV-4).
//!   Removing a held block *dooms* it: lookups miss at once, the removal is journaled at once, and its slots come back
//!   with the last hold, so whoever reads them still reads the right bytes (INV-1, INV-8).
//! - *Domains* split the host tier: a block's host slot is in its tenants' arena, and room there is made only by evicting
//!   host copies of that domain. A chain is in one domain. NVMe is shared.
//! - *Leaf first*: a copy may be evicted only if no child has a slot in that tier, and, if it is the block's last copy,
//!   no child has a slot anywhere. So whatever is resident is reachable, except below deleted or corrupt blocks.
//! - Eviction happens only when it is known to succeed: a refused call has evicted nothing.
//! - A cause for removal is journaled when it is decided. A crash after a delete cannot bring the block back.
//!
//! # Crashes
//!
//! Nothing here survives one. Recovery fills NVMe copies from the index (`begin_fill`, `fill`, `finish_fill`); until it
//! is finished no NVMe slot is handed out or evicted, because the catalog cannot know yet which are free.
//!
//! Reading order: [`plan`], `entry`, `blocks`, `slots`, `copies`, `room`, then one file per flow: `put`, `find`, `load`,
//! `store`, `remove`, `lease`, `pin`, `expire`, `recover`, `walk`; `check` says what must always be true.

mod admit;
mod blocks;
mod check;
mod copies;
mod entry;
mod expire;
mod extent;
mod find;
mod history;
mod lease;
mod load;
mod numbers;
mod pin;
pub mod plan;
mod put;
mod recover;
mod remove;
mod room;
mod settings;
mod shelf;
mod slots;
mod store;
mod table;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvtier_identity::{BlockId, Key};

use crate::place::{PAGE_BYTES, Slot};
use crate::policy::{Admission, admission};
use crate::port::Moment;
use blocks::Blocks;
use entry::Level;
use expire::Due;
use history::History;
use lease::Leases;
use numbers::NumberMap;
use pin::Pin;
use plan::{CatalogCount, Decline, TierCount};
use put::Pending;
use recover::Recovery;
pub use settings::{CatalogSettings, HOST_DOMAIN_COUNT_MAX};
use shelf::{Domain, Shelf};
use slots::Slots;

/// The RAM index, slots, leases and pins of a node, and every decision about them.
pub struct Catalog {
    settings: CatalogSettings,
    blocks: Blocks,
    shelves: [Shelf; 2],
    /// Keys of blocks with a host slot; the index has the others.
    keys: NumberMap<u32, Key>,
    key_bytes: u64,
    spaces: BTreeMap<u32, SpaceSum>,
    pending: BTreeMap<u64, Pending>,
    pending_next: u64,
    leases: Leases,
    pins: BTreeMap<(u32, Box<str>), Pin>,
    due: BTreeSet<(Moment, Due)>,
    history: History,
    admission: Box<dyn Admission>,
    /// Host slots that were given back; only if somebody asked to be told.
    given_back: Option<Vec<(u16, u64)>>,
    /// Blocks the admission policy wants on NVMe, parents first.
    wanted: VecDeque<(u32, BlockId)>,
    generation_next: u64,
    tick: Tick,
    held_blocks: u64,
    /// `Some` while the index is being filled.
    recovery: Option<Recovery>,
    /// Scratch of `refresh`.
    path: Vec<u32>,
    /// Scratch of `lookup`.
    run: Vec<u32>,
}

/// What one space has in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SpaceSum {
    blocks: u64,
    bytes: u64,
    pinned_bytes: u64,
}

/// Coarse time for eviction orders: one tick per so many touches. A path touched in the current tick is not touched
/// again, so that putting a chain of n blocks costs n touches, not n².
#[derive(Debug, Default)]
struct Tick {
    now: u32,
    touches: u64,
}

impl Tick {
    /// Begins a new tick if enough has happened, for this many resident blocks.
    fn advance(&mut self, blocks: u64) {
        if self.touches >= (blocks / 64).clamp(1, 16_384) {
            self.now = self.now.wrapping_add(1);
            self.touches = 0;
        }
    }
}

impl Catalog {
    /// An empty catalog: volatile tiers begin empty, and NVMe copies come back with `begin_fill`.
    pub fn new(settings: CatalogSettings) -> Self {
        let memory = settings.history_count_max;
        assert!((1..=HOST_DOMAIN_COUNT_MAX).contains(&settings.host.len()), "the host tier has 1 to 64 domains");
        let shelf = |level, geometry: &[_]| Shelf::new(level, geometry, settings.policy, memory);
        Self {
            blocks: Blocks::new(),
            shelves: [shelf(Level::Host, &settings.host), shelf(Level::Nvme, &settings.nvme)],
            keys: NumberMap::default(),
            key_bytes: 0,
            spaces: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_next: 1,
            leases: Leases::new(settings.lease_count_max),
            pins: BTreeMap::new(),
            due: BTreeSet::new(),
            history: History::new(memory),
            admission: admission(settings.admission, memory),
            given_back: None,
            wanted: VecDeque::new(),
            generation_next: settings.generation_first,
            tick: Tick { now: 1, touches: 0 },
            held_blocks: 0,
            recovery: None,
            path: Vec::new(),
            run: Vec::new(),
            settings,
        }
    }

    /// Gives blocks of exactly `length` payload bytes a size class of their own in every tier, so that a space whose
    /// blocks are all alike wastes less than a page per block. At most 4,096 sizes; further ones share classes.
    pub fn register_size(&mut self, length: u32) {
        for domain in self.shelves.iter_mut().flat_map(|shelf| &mut shelf.domains) {
            domain.slots.register(length);
        }
    }

    /// From now on remembers which host slots are given back, for [`Catalog::take_given_back`].
    pub fn remember_given_back(&mut self) {
        self.given_back.get_or_insert_default();
    }

    /// Device and offset of the host slots that were given back since the last call. Whoever remembers them must take them before
    /// it lets go of the catalog: a slot may already belong to the next block.
    pub fn take_given_back(&mut self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.given_back.iter_mut().flat_map(|slots| slots.drain(..))
    }

    /// Remembers that a put of this block was refused, to explain a later miss.
    pub fn note_declined(&mut self, now: Moment, block: BlockId, why: Decline) {
        self.history.note_declined(now, block.0 as u64, why);
    }

    /// Counts for `status` and metrics. Cheap enough for every scrape.
    pub fn count(&self) -> CatalogCount {
        CatalogCount {
            blocks: self.spaces.values().map(|space| space.blocks).sum(),
            host: self.shelf(Level::Host).count(),
            nvme: self.shelf(Level::Nvme).count(),
            leases: self.leases.count(),
            held_blocks: self.held_blocks,
            pins: self.pins.len() as u64,
            pinned_bytes: self.pins.values().map(|pin| pin.payload_bytes).sum(),
            pending: self.pending.len() as u64,
            metadata_bytes: self.metadata_bytes(),
        }
    }

    /// What each domain of the host tier holds.
    pub fn count_of_domains(&self) -> Vec<TierCount> {
        self.shelf(Level::Host).domains.iter().map(Domain::count).collect()
    }

    /// Blocks of a space in any tier, and their payload bytes, each block counted once.
    pub fn count_of_space(&self, space: u32) -> (u64, u64) {
        self.spaces.get(&space).map_or((0, 0), |sum| (sum.blocks, sum.bytes))
    }

    fn metadata_bytes(&self) -> u64 {
        let keys = self.keys.allocation_size() as u64 + self.key_bytes;
        let shelves: u64 = self.shelves.iter().map(Shelf::bytes).sum();
        let held: u64 = self.leases.bytes() + self.pins.values().map(Pin::bytes).sum::<u64>();
        let pending: u64 = self.pending.values().map(Pending::bytes).sum();
        let wanted = self.wanted.capacity() * size_of::<(u32, BlockId)>();
        let due = self.due.len() * size_of::<(Moment, Due)>() * 3 / 2;
        let memory = self.history.bytes() + self.admission.bytes();
        self.blocks.bytes() + shelves + keys + held + pending + memory + (wanted + due) as u64
    }

    fn shelf(&self, level: Level) -> &Shelf {
        &self.shelves[level as usize]
    }

    fn shelf_mut(&mut self, level: Level) -> &mut Shelf {
        &mut self.shelves[level as usize]
    }

    /// The slots a block's copy in a tier may have.
    fn slots(&self, index: u32, level: Level) -> &Slots {
        &self.shelf(level).domains[self.blocks.get(index).domain(level)].slots
    }

    /// The slot a block owns in a tier.
    fn slot(&self, index: u32, level: Level) -> Option<Slot> {
        self.blocks.get(index).place(level).map(|place| self.slots(index, level).slot(place))
    }

    /// The domain of a tier that a block's copies belong to.
    fn domain_mut(&mut self, index: u32, level: Level) -> &mut Domain {
        let domain = self.blocks.get(index).domain(level);
        &mut self.shelf_mut(level).domains[domain]
    }

    /// Gives a block's slot in a tier back.
    fn free_slot(&mut self, index: u32, level: Level) {
        let place = self.blocks.vacate(index, level);
        self.domain_mut(index, level).slots.free(place, index);
        if level == Level::Host {
            self.give_back(index, place);
        }
    }

    /// Takes a host slot from a block, and out of use for good.
    fn quarantine_host(&mut self, index: u32) {
        let place = self.blocks.vacate(index, Level::Host);
        self.domain_mut(index, Level::Host).slots.quarantine(place, index);
        self.give_back(index, place);
    }

    /// Whoever reads a host slot without a hold can tell that the block is not there any more.
    fn give_back(&mut self, index: u32, place: slots::Place) {
        let arena = u16::from(self.blocks.get(index).domain);
        if let Some(slots) = &mut self.given_back {
            slots.push((arena, u64::from(place.page) * PAGE_BYTES));
        }
    }

    fn has_nvme(&self) -> bool {
        !self.settings.nvme.is_empty()
    }
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("count", &self.count()).finish_non_exhaustive()
    }
}
