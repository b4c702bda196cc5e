//! One extent: a run of pages cut into slots of one class.

use crate::place::PAGE_BYTES;

/// Owner of a free slot.
pub(super) const FREE: u32 = u32::MAX;
/// Owner of a slot that overlaps quarantined pages.
pub(super) const BAD: u32 = u32::MAX - 1;

/// Owners and free slots of one extent. Holds no memory for slots while it serves no class.
#[derive(Debug)]
pub(super) struct Extent {
    first_page: u32,
    /// Slot pages; 0: no class.
    class: u32,
    live_count: u32,
    free_count: u32,
    /// No word of `free` below this one has a bit set.
    hint: u32,
    device: u16,
    /// One bit per slot, set when it is free.
    free: Box<[u64]>,
    owners: Box<[u32]>,
    /// Quarantined runs: first page and pages. Almost always empty, so a thin pointer.
    #[expect(clippy::box_collection, reason = "one word instead of three in ten thousands of extents")]
    bad: Option<Box<Vec<(u32, u32)>>>,
}

impl Extent {
    pub(super) fn new(device: u16, first_page: u32) -> Self {
        Self {
            first_page,
            class: 0,
            live_count: 0,
            free_count: 0,
            hint: 0,
            device,
            free: Box::default(),
            owners: Box::default(),
            bad: None,
        }
    }

    pub(super) fn device(&self) -> u16 {
        self.device
    }

    /// Slot pages, 0 when it serves no class.
    pub(super) fn class(&self) -> u32 {
        self.class
    }

    /// Slots that belong to blocks.
    pub(super) fn live_count(&self) -> u32 {
        self.live_count
    }

    pub(super) fn free_count(&self) -> u32 {
        self.free_count
    }

    /// Slots of a class the extent could hold beside its quarantined pages.
    pub(super) fn usable_slots(&self, extent_pages: u32, class: u32) -> u32 {
        let count = extent_pages / class;
        match &self.bad {
            None => count,
            Some(_) => (0..count).filter(|at| !self.is_bad(self.first_page + at * class, class)).count() as u32,
        }
    }

    /// Cuts the extent into slots of a class.
    pub(super) fn assign(&mut self, extent_pages: u32, class: u32) {
        assert!(self.class == 0 && class > 0, "the extent serves a class already");
        let count = extent_pages / class;
        self.class = class;
        self.hint = 0;
        self.free = vec![0; count.div_ceil(64) as usize].into();
        self.owners = vec![BAD; count as usize].into();
        for at in 0..count {
            if !self.is_bad(self.first_page + at * class, class) {
                self.owners[at as usize] = FREE;
                self.free[at as usize / 64] |= 1 << (at % 64);
                self.free_count += 1;
            }
        }
    }

    /// Back to serving no class.
    pub(super) fn retire(&mut self) {
        assert!(self.live_count == 0, "an extent with live slots cannot be retired");
        self.class = 0;
        self.free_count = 0;
        self.free = Box::default();
        self.owners = Box::default();
    }

    /// Takes the free slot with the lowest offset; returns its first page.
    pub(super) fn take_lowest(&mut self, owner: u32) -> u32 {
        let from = self.hint as usize;
        let word = from + self.free[from..].iter().position(|word| *word != 0).expect("the extent has a free slot");
        self.hint = word as u32;
        let at = word as u32 * 64 + self.free[word].trailing_zeros();
        let page = self.first_page + at * self.class;
        self.take(page, owner);
        page
    }

    /// Takes one particular free slot.
    pub(super) fn take(&mut self, page: u32, owner: u32) {
        let at = self.slot(page);
        assert!(self.owners[at] == FREE && owner < BAD, "slot at page {page} is not free");
        self.owners[at] = owner;
        self.free[at / 64] &= !(1 << (at % 64));
        self.free_count -= 1;
        self.live_count += 1;
    }

    /// Frees a slot.
    pub(super) fn give_back(&mut self, page: u32, owner: u32) {
        let at = self.slot(page);
        assert!(self.owners[at] == owner, "slot at page {page} belongs to {}, not to {owner}", self.owners[at]);
        self.owners[at] = FREE;
        self.free[at / 64] |= 1 << (at % 64);
        self.hint = self.hint.min(at as u32 / 64);
        self.free_count += 1;
        self.live_count -= 1;
    }

    /// Quarantines a slot.
    pub(super) fn condemn(&mut self, page: u32, owner: u32) {
        let at = self.slot(page);
        assert!(self.owners[at] == owner, "slot at page {page} belongs to {}, not to {owner}", self.owners[at]);
        self.owners[at] = BAD;
        self.live_count -= 1;
        self.bad.get_or_insert_default().push((page, self.class));
    }

    /// Recovery: quarantines pages that no slot uses; returns how many were not quarantined before.
    pub(super) fn mark_bad(&mut self, page: u32, pages: u32) -> u32 {
        let overlaps = self.is_bad(page, pages);
        let bad = self.bad.get_or_insert_default();
        if !overlaps {
            bad.push((page, pages));
            return pages;
        }
        // Overlapping runs come from different classes over time: page by page, each counted once.
        let fresh: Vec<u32> =
            (page..page + pages).filter(|page| !bad.iter().any(|run| overlap(*run, (*page, 1)))).collect();
        bad.extend(fresh.iter().map(|page| (*page, 1)));
        fresh.len() as u32
    }

    /// Whether any of these pages is quarantined.
    pub(super) fn is_bad(&self, page: u32, pages: u32) -> bool {
        self.bad.as_ref().is_some_and(|bad| bad.iter().any(|run| overlap(*run, (page, pages))))
    }

    pub(super) fn bad_page_count(&self) -> u32 {
        self.bad.as_ref().map_or(0, |bad| bad.iter().map(|run| run.1).sum())
    }

    /// Owner of the slot that begins at `page`, [`FREE`] or [`BAD`].
    pub(super) fn owner(&self, page: u32) -> u32 {
        self.owners[self.slot(page)]
    }

    /// The blocks that own slots, lowest offset first.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u32> {
        self.owners.iter().copied().filter(|owner| *owner < BAD)
    }

    fn slot(&self, page: u32) -> usize {
        let offset = page - self.first_page;
        assert!(self.class > 0 && offset.is_multiple_of(self.class), "no slot begins at page {page}");
        (offset / self.class) as usize
    }

    /// Bytes of RAM.
    pub(super) fn bytes(&self) -> u64 {
        let bad = self.bad.as_ref().map_or(0, |bad| bad.capacity() * 8 + 24);
        (size_of::<Self>() + self.free.len() * 8 + self.owners.len() * 4 + bad) as u64
    }

    pub(super) fn check(&self, extent_pages: u32) -> Result<(), String> {
        let count_of = |wanted: fn(u32) -> bool| self.owners.iter().filter(|owner| wanted(**owner)).count() as u32;
        let (live, free) = (count_of(|owner| owner < BAD), count_of(|owner| owner == FREE));
        let bits: u32 = self.free.iter().map(|word| word.count_ones()).sum();
        if (live, free, bits) != (self.live_count, self.free_count, self.free_count) {
            return Err(format!("extent at page {} counts {live} live and {free} free slots", self.first_page));
        }
        if self.class > 0 && self.owners.len() as u32 != extent_pages / self.class {
            return Err(format!("extent at page {} has the wrong number of slots", self.first_page));
        }
        if u64::from(self.bad_page_count()) > u64::from(extent_pages) * PAGE_BYTES {
            return Err(format!("extent at page {} has more quarantined pages than pages", self.first_page));
        }
        Ok(())
    }
}

fn overlap(one: (u32, u32), other: (u32, u32)) -> bool {
    one.0 < other.0.saturating_add(other.1) && other.0 < one.0.saturating_add(one.1)
}
