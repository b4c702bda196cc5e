//! What the catalog knows of one block, in one cache line, and its place in the tree of chains.

use kvtier_identity::BlockId;

use super::slots::Place;
use crate::place::TierKind;
use crate::port::RemovalCause;

/// No block, no page.
pub(super) const NONE: u32 = u32::MAX;

/// The tiers whose slots the catalog hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Host,
    Nvme,
}

impl Level {
    pub(super) const ALL: [Self; 2] = [Self::Host, Self::Nvme];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Host => Self::Nvme,
            Self::Nvme => Self::Host,
        }
    }

    pub(super) fn tier(self) -> TierKind {
        match self {
            Self::Host => TierKind::Host,
            Self::Nvme => TierKind::Nvme,
        }
    }
}

/// Life of an entry:
///
/// ```text
/// Free -> Shadow -> Pending -> Visible -> Shadow -> Free
///           |          |          |
///           |          +----------+--> Doomed --> Shadow     removed while held; slots go with the last hold
///           +--> Visible (recovery)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not in use.
    Free,
    /// No copy anywhere; kept while children name it as their parent.
    Shadow,
    /// Parts are being written to its host slot.
    Pending,
    /// At least one readable copy.
    Visible,
    /// Gone for everybody who asks, but somebody still holds it.
    Doomed,
}

/// A flight brings the copy of this level.
pub(super) const FLIGHT: [u8; 2] = [0b0001, 0b0010];
/// It waits in the queue of blocks the admission policy wants on NVMe.
pub(super) const QUEUED: u8 = 0b0100;
/// Not the entry the id leads to: a newer put has taken the id over from this doomed one.
pub(super) const DETACHED: u8 = 0b1000;
/// The admission policy wants it on NVMe, but its parent is not on its way there.
pub(super) const WISHED: u8 = 0b1_0000;

/// One block. The chain links that a lookup does not need are in [`Kin`].
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Entry {
    /// The block id as two words, so that the entry needs no 16-byte alignment inside.
    id: [u64; 2],
    /// Generation of the NVMe copy; the number of the pending put while parts are written.
    pub(super) generation: u64,
    page: [u32; 2],
    nvme_device: u16,
    pub(super) state: State,
    pub(super) flags: u8,
    pub(super) parent: u32,
    pub(super) space: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
    pub(super) holds: u32,
    /// Tick of the last refresh of its place in the eviction orders.
    pub(super) stamp: u32,
    /// Why it is doomed.
    pub(super) cause: RemovalCause,
    /// Whose host memory it uses. All blocks of a chain are in one domain, for as long as they are known.
    pub(super) domain: u8,
}

const _: () = assert!(size_of::<Entry>() == 64, "an entry is one cache line");

impl Entry {
    pub(super) const BLANK: Self = Self {
        id: [0; 2],
        generation: 0,
        page: [NONE; 2],
        nvme_device: 0,
        state: State::Free,
        flags: 0,
        parent: NONE,
        space: 0,
        length: 0,
        crc: 0,
        holds: 0,
        stamp: 0,
        cause: RemovalCause::Evicted,
        domain: 0,
    };

    pub(super) fn new(block: BlockId, domain: u8) -> Self {
        Self { id: split(block), state: State::Shadow, domain, ..Self::BLANK }
    }

    pub(super) fn block(&self) -> BlockId {
        BlockId(u128::from(self.id[1]) << 64 | u128::from(self.id[0]))
    }

    #[inline]
    pub(super) fn is(&self, id: [u64; 2]) -> bool {
        self.id == id
    }

    /// The half of the id that tables and policies use as a fingerprint.
    #[inline]
    pub(super) fn mark(&self) -> u64 {
        self.id[0]
    }

    /// Number of the domain of a tier that its copies belong to.
    #[inline]
    pub(super) fn domain(&self, level: Level) -> usize {
        match level {
            Level::Host => usize::from(self.domain),
            Level::Nvme => 0,
        }
    }

    /// The slot it owns in a tier, readable or not.
    #[inline]
    pub(super) fn place(&self, level: Level) -> Option<Place> {
        let page = self.page[level as usize];
        let device = if level == Level::Nvme { self.nvme_device } else { 0 };
        (page != NONE).then_some(Place { device, page })
    }

    pub(super) fn set_place(&mut self, level: Level, place: Option<Place>) {
        self.page[level as usize] = place.map_or(NONE, |place| place.page);
        if level == Level::Nvme {
            self.nvme_device = place.map_or(0, |place| place.device);
        }
    }

    /// Whether a flight is bringing the copy.
    #[inline]
    pub(super) fn in_flight(&self, level: Level) -> bool {
        self.flags & FLIGHT[level as usize] != 0
    }

    /// Whether there is a readable copy in a tier.
    #[inline]
    pub(super) fn has(&self, level: Level) -> bool {
        self.state == State::Visible && self.page[level as usize] != NONE && !self.in_flight(level)
    }

    /// Whether its copies count as children of its parent.
    pub(super) fn counts(&self) -> bool {
        matches!(self.state, State::Pending | State::Visible)
    }
}

/// A block's relatives. Children are a doubly linked list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kin {
    pub(super) first_child: u32,
    pub(super) next: u32,
    pub(super) prev: u32,
    /// Children that own a slot of each tier (doomed ones excluded): they keep this block's copy from being evicted.
    pub(super) children: [u32; 2],
}

impl Kin {
    pub(super) const BLANK: Self = Self { first_child: NONE, next: NONE, prev: NONE, children: [0; 2] };
}

pub(super) fn split(block: BlockId) -> [u64; 2] {
    [block.0 as u64, (block.0 >> 64) as u64]
}
