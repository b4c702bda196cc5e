//! The slots of one domain of a tier: which are free, and which block owns the others (INV-2).
//!
//! ```text
//! device    | extent | extent | extent | ...        each serves one size class at a time, or none
//! extent    | slot | slot | slot | ... | rest       all of the class's size
//! slot      free | owned by one block | bad (quarantined, never reused)
//! ```
//!
//! A *class* is a slot size in pages: eight steps per doubling of the payload, plus the exact sizes that were
//! registered. An extent without an owned slot goes back to the free pool and may serve another class. Inside a class the
//! lowest extent and the lowest offset go first, so that blocks stored one after the other are neighbours.
//! A double free or a foreign slot is our own bug and panics.

use std::collections::{BTreeMap, BTreeSet};

use super::extent::{Extent, FREE};
use crate::place::{PAGE_BYTES, Slot};
use crate::port::DeviceGeometry;

/// Consecutive allocations on one device before the next has its turn.
const RUN_SLOTS: u32 = 16;
/// The most exact sizes that can be registered; further ones fall back to the geometric classes.
const REGISTERED_MAX: usize = 4096;

/// Where a slot begins. Devices are numbered within the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: u16,
    pub(super) page: u32,
}

#[derive(Debug)]
struct Device {
    first_page: u32,
    extent_pages: u32,
    /// Number of its first extent among all of the domain.
    first_extent: u32,
    extent_count: u32,
    /// Extents that serve no class.
    pool: BTreeSet<u32>,
}

/// One domain's slots.
#[derive(Debug)]
pub(super) struct Slots {
    /// Number of the first device among all of the tier.
    device_first: u16,
    devices: Vec<Device>,
    extents: Vec<Extent>,
    /// By slot pages: per device, the extents with a free slot.
    classes: BTreeMap<u32, Vec<BTreeSet<u32>>>,
    /// Exact classes, in slot pages.
    registered: BTreeSet<u32>,
    turn: u32,
    used_pages: u64,
    bad_pages: u64,
}

impl Slots {
    pub(super) fn new(device_first: u16, geometry: &[DeviceGeometry]) -> Self {
        let mut slots = Self {
            device_first,
            devices: Vec::new(),
            extents: Vec::new(),
            classes: BTreeMap::new(),
            registered: BTreeSet::new(),
            turn: 0,
            used_pages: 0,
            bad_pages: 0,
        };
        for (device, geometry) in geometry.iter().enumerate() {
            slots.add_device(u16::try_from(device).expect("a tier has fewer than 65,536 devices"), *geometry);
        }
        slots
    }

    fn add_device(&mut self, number: u16, geometry: DeviceGeometry) {
        let DeviceGeometry { bytes, extent_bytes, first_extent_offset } = geometry;
        assert!(extent_bytes >= 2 * PAGE_BYTES, "an extent of {extent_bytes} bytes holds no slot");
        assert!(extent_bytes.is_multiple_of(PAGE_BYTES) && first_extent_offset.is_multiple_of(PAGE_BYTES));
        let pages = |bytes: u64| u32::try_from(bytes / PAGE_BYTES).expect("a device has at most 16 TiB");
        let extent_count = u32::try_from(bytes / extent_bytes).expect("a device has fewer than 2^32 extents");
        let _last_page_fits = pages(first_extent_offset + u64::from(extent_count) * extent_bytes);
        let first_extent = self.extents.len() as u32;
        let device = Device {
            first_page: pages(first_extent_offset),
            extent_pages: pages(extent_bytes),
            first_extent,
            extent_count,
            pool: (first_extent..first_extent + extent_count).collect(),
        };
        for at in 0..extent_count {
            self.extents.push(Extent::new(number, device.first_page + at * device.extent_pages));
        }
        self.devices.push(device);
    }

    /// Makes payloads of exactly `length` bytes a class of their own.
    pub(super) fn register(&mut self, length: u32) {
        if self.registered.len() < REGISTERED_MAX {
            self.registered.insert(slot_pages(length));
        }
    }

    /// The class for a payload: slot pages. `None`: no extent is that large.
    pub(super) fn class(&self, length: u32) -> Option<u32> {
        let largest = self.devices.iter().filter(|device| device.extent_count > 0).map(|device| device.extent_pages);
        let largest = largest.max()?.min(u32::MAX / PAGE_BYTES as u32);
        let exact = slot_pages(length);
        let class = (geometric_pages(exact - 1) + 1).min(largest);
        let class = self.registered.range(exact..).next().map_or(class, |registered| class.min(*registered));
        (exact <= largest).then_some(class)
    }

    /// Takes a free slot of a class, from the free pool of extents if need be.
    pub(super) fn allocate(&mut self, class: u32, owner: u32) -> Option<Place> {
        let count = self.devices.len();
        let turn = (self.turn / RUN_SLOTS) as usize;
        let (extent, device) = (0..count).find_map(|step| {
            let device = (turn + step) % count;
            self.open_extent(device, class).map(|extent| (extent, device))
        })?;
        self.turn = self.turn.wrapping_add(1);
        let page = self.extents[extent as usize].take_lowest(owner);
        if self.extents[extent as usize].free_count() == 0 {
            self.partial(class, device).remove(&extent);
        }
        self.used_pages += u64::from(class);
        Some(Place { device: device as u16, page })
    }

    /// The lowest extent of the class with a free slot on one device.
    fn open_extent(&mut self, device: usize, class: u32) -> Option<u32> {
        if let Some(extent) = self.classes.get(&class).and_then(|devices| devices[device].first()) {
            return Some(*extent);
        }
        let Device { extent_pages, pool, .. } = &self.devices[device];
        let extent =
            *pool.iter().find(|extent| self.extents[**extent as usize].usable_slots(*extent_pages, class) > 0)?;
        self.assign(extent, class);
        Some(extent)
    }

    fn assign(&mut self, extent: u32, class: u32) {
        let device = usize::from(self.extents[extent as usize].device());
        self.devices[device].pool.remove(&extent);
        self.extents[extent as usize].assign(self.devices[device].extent_pages, class);
        self.partial(class, device).insert(extent);
    }

    fn partial(&mut self, class: u32, device: usize) -> &mut BTreeSet<u32> {
        let count = self.devices.len();
        &mut self.classes.entry(class).or_insert_with(|| vec![BTreeSet::new(); count])[device]
    }

    /// Gives a slot back.
    pub(super) fn free(&mut self, place: Place, owner: u32) {
        let (number, class) = self.release(place);
        let extent = &mut self.extents[number as usize];
        let was_full = extent.free_count() == 0;
        extent.give_back(place.page, owner);
        if extent.live_count() == 0 {
            self.retire(number);
        } else if was_full {
            self.partial(class, usize::from(place.device)).insert(number);
        }
    }

    /// Takes a block's slot out of use for good.
    pub(super) fn quarantine(&mut self, place: Place, owner: u32) {
        let (number, class) = self.release(place);
        self.extents[number as usize].condemn(place.page, owner);
        self.bad_pages += u64::from(class);
        if self.extents[number as usize].live_count() == 0 {
            self.retire(number);
        }
    }

    fn release(&mut self, place: Place) -> (u32, u32) {
        let number = self.extent_of(place);
        let class = self.extents[number as usize].class();
        assert!(class > 0, "{place:?} lies in an extent that serves no class");
        self.used_pages -= u64::from(class);
        (number, class)
    }

    fn retire(&mut self, number: u32) {
        let extent = &mut self.extents[number as usize];
        let (class, device) = (extent.class(), usize::from(extent.device()));
        extent.retire();
        self.partial(class, device).remove(&number);
        self.devices[device].pool.insert(number);
    }

    /// Recovery: marks what an earlier run quarantined. What lies outside the devices is ignored.
    pub(super) fn mark_bad(&mut self, slot: Slot) {
        let Some((place, number)) = self.locate(slot) else { return };
        let device = &self.devices[usize::from(place.device)];
        let end = device.first_page + (number - device.first_extent + 1) * device.extent_pages;
        let pages = slot.bytes.div_ceil(PAGE_BYTES as u32).min(end - place.page);
        let extent = &mut self.extents[number as usize];
        assert!(extent.class() == 0, "quarantined slots are marked before any slot is taken");
        self.bad_pages += u64::from(extent.mark_bad(place.page, pages));
    }

    /// Recovery: takes exactly this slot for `owner`.
    pub(super) fn claim(&mut self, slot: Slot, length: u32, owner: u32) -> Result<Place, &'static str> {
        let (place, number) = self.locate(slot).ok_or("the slot lies outside the device")?;
        let class = slot.bytes / PAGE_BYTES as u32;
        let device = &self.devices[usize::from(place.device)];
        let extent_first = device.first_page + (number - device.first_extent) * device.extent_pages;
        let at = place.page - extent_first;
        if u64::from(slot.bytes) != u64::from(class) * PAGE_BYTES || class < 2 {
            return Err("the slot is not a whole number of pages");
        }
        if slot_pages(length) > class {
            return Err("the slot is smaller than the block");
        }
        if !at.is_multiple_of(class) || u64::from(at) + u64::from(class) > u64::from(device.extent_pages) {
            return Err("the slot is not aligned in its extent");
        }
        match self.extents[number as usize].class() {
            0 if self.extents[number as usize].is_bad(place.page, class) => return Err("the slot is quarantined"),
            0 => self.assign(number, class),
            other if other != class => return Err("the extent serves another slot size"),
            _ => {}
        }
        let extent = &mut self.extents[number as usize];
        if extent.owner(place.page) != FREE {
            return Err("the slot belongs to another block or is quarantined");
        }
        extent.take(place.page, owner);
        if extent.free_count() == 0 {
            self.partial(class, usize::from(place.device)).remove(&number);
        }
        self.used_pages += u64::from(class);
        Ok(place)
    }

    fn locate(&self, slot: Slot) -> Option<(Place, u32)> {
        let number = slot.device.checked_sub(self.device_first)?;
        let device = self.devices.get(usize::from(number))?;
        let page = u32::try_from(slot.offset / PAGE_BYTES).ok()?;
        let at = page.checked_sub(device.first_page)? / device.extent_pages;
        let aligned = slot.offset.is_multiple_of(PAGE_BYTES);
        (aligned && at < device.extent_count).then_some((Place { device: number, page }, device.first_extent + at))
    }

    /// The slot that begins at an owned place.
    pub(super) fn slot(&self, place: Place) -> Slot {
        let class = self.extents[self.extent_of(place) as usize].class();
        assert!(class > 0, "{place:?} lies in an extent that serves no class");
        let bytes = u32::try_from(u64::from(class) * PAGE_BYTES).expect("a slot is far below 4 GiB");
        Slot { device: self.device_first + place.device, offset: u64::from(place.page) * PAGE_BYTES, bytes }
    }

    /// Which extent a place is in.
    pub(super) fn extent_of(&self, place: Place) -> u32 {
        let device = &self.devices[usize::from(place.device)];
        device.first_extent + (place.page - device.first_page) / device.extent_pages
    }

    /// One extent, by its number in the domain.
    pub(super) fn extent(&self, number: u32) -> &Extent {
        &self.extents[number as usize]
    }

    /// Extents in the domain.
    pub(super) fn extent_count(&self) -> u32 {
        self.extents.len() as u32
    }

    /// Whether the extent, once empty, could hold a slot of the class.
    pub(super) fn could_serve(&self, number: u32, class: u32) -> bool {
        let extent = &self.extents[number as usize];
        extent.usable_slots(self.devices[usize::from(extent.device())].extent_pages, class) > 0
    }

    /// Bytes of owned and of quarantined slots.
    pub(super) fn used_bytes(&self) -> u64 {
        (self.used_pages + self.bad_pages) * PAGE_BYTES
    }

    /// Bytes of quarantined slots.
    pub(super) fn quarantined_bytes(&self) -> u64 {
        self.bad_pages * PAGE_BYTES
    }

    /// Bytes of all extents.
    pub(super) fn capacity_bytes(&self) -> u64 {
        let pages = |device: &Device| u64::from(device.extent_count) * u64::from(device.extent_pages);
        self.devices.iter().map(pages).sum::<u64>() * PAGE_BYTES
    }

    /// Bytes of RAM.
    pub(super) fn bytes(&self) -> u64 {
        let extents: u64 = self.extents.iter().map(Extent::bytes).sum();
        // A B-tree node holds 11 keys and is at least half full: below 10 bytes for one number.
        let pools: usize = self.devices.iter().map(|device| device.pool.len()).sum();
        extents + (pools * 10) as u64
    }

    /// Every count and set agrees with the extents. For tests and the simulator.
    pub(super) fn check(&self) -> Result<(), String> {
        let (mut used, mut bad) = (0, 0);
        for (number, extent) in (0..).zip(&self.extents) {
            let device = usize::from(extent.device());
            extent.check(self.devices[device].extent_pages)?;
            used += u64::from(extent.live_count()) * u64::from(extent.class());
            bad += u64::from(extent.bad_page_count());
            let pooled = self.devices[device].pool.contains(&number);
            let partial = self.classes.get(&extent.class()).is_some_and(|devices| devices[device].contains(&number));
            if pooled != (extent.class() == 0) || partial != (extent.class() > 0 && extent.free_count() > 0) {
                return Err(format!("extent {number} is in the wrong set: {extent:?}"));
            }
        }
        let listed: usize = self.classes.values().flatten().map(BTreeSet::len).sum();
        let partial = self.extents.iter().filter(|extent| extent.class() > 0 && extent.free_count() > 0).count();
        if (used, bad, listed) != (self.used_pages, self.bad_pages, partial) {
            return Err(format!("slot counts disagree: used {used}/{}, bad {bad}/{}", self.used_pages, self.bad_pages));
        }
        if self.used_bytes() > self.capacity_bytes() {
            return Err("more bytes are in use than there are (INV-5)".into());
        }
        Ok(())
    }
}

fn slot_pages(length: u32) -> u32 {
    // A length near 4 GiB must not overflow: count in pages.
    1 + length.div_ceil(PAGE_BYTES as u32)
}

/// Payload pages rounded up to one of eight steps per doubling.
fn geometric_pages(pages: u32) -> u32 {
    if pages <= 8 {
        return pages;
    }
    let step = 1 << ((pages - 1).ilog2() - 3);
    pages.next_multiple_of(step)
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
