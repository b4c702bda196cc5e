//! What every implementation of the engine's [`Memory`] port must do. Adapters and fakes run all of [`CHECKS`].
//!
//! A check panics with what was wrong. It needs a memory of at least 16 pages that nobody else uses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::Memory;

/// A named check.
pub type Check = (&'static str, fn(Arc<dyn Memory>));

/// All checks. Each may be given a memory of its own, or the same one after the other.
pub const CHECKS: &[Check] = &[
    ("written_bytes_are_the_bytes_seen", written_bytes_are_the_bytes_seen),
    ("a_write_touches_nothing_else", a_write_touches_nothing_else),
    ("checksums_agree_and_combine", checksums_agree_and_combine),
    ("a_header_leaves_no_old_bytes_in_its_page", a_header_leaves_no_old_bytes_in_its_page),
    ("a_header_and_a_payload_do_not_disturb_each_other", a_header_and_a_payload_do_not_disturb_each_other),
    ("a_view_keeps_its_pin_until_its_last_clone_is_gone", a_view_keeps_its_pin_until_its_last_clone_is_gone),
    ("a_view_and_a_region_outlive_the_memory", a_view_and_a_region_outlive_the_memory),
    ("a_region_is_where_the_slot_is", a_region_is_where_the_slot_is),
    ("nothing_outside_a_slot_can_be_touched", nothing_outside_a_slot_can_be_touched),
    ("arenas_share_nothing", arenas_share_nothing),
];

const SLOT_BYTES: u32 = 3 * PAGE_BYTES as u32;
const ROOM: u32 = SLOT_BYTES - PAGE_BYTES as u32;

fn slot(memory: &dyn Memory, number: u64) -> Slot {
    let offset = memory.geometry()[0].first_extent_offset + number * u64::from(SLOT_BYTES);
    Slot { device: 0, offset, bytes: SLOT_BYTES }
}

fn pattern(seed: u8, bytes: u32) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

fn seen(memory: &dyn Memory, slot: Slot, offset: u32, length: u32) -> Vec<u8> {
    memory.view(slot, offset, length, Box::new(())).to_vec()
}

fn written_bytes_are_the_bytes_seen(memory: Arc<dyn Memory>) {
    let slot = slot(&*memory, 1);
    for (offset, length) in [(0, ROOM), (0, 1), (1, 4095), (4095, 2), (ROOM - 1, 1), (7, 0)] {
        let bytes = pattern(offset as u8, length);
        let crc = memory.write(slot, offset, &bytes);
        assert_eq!(seen(&*memory, slot, offset, length), bytes, "offset {offset}, length {length}");
        assert_eq!(crc, memory.checksum(slot, offset, length), "offset {offset}, length {length}");
    }
}

fn a_write_touches_nothing_else(memory: Arc<dyn Memory>) {
    let slots = [slot(&*memory, 0), slot(&*memory, 1), slot(&*memory, 2)];
    for (seed, &slot) in slots.iter().enumerate() {
        memory.write_header(slot, &pattern(seed as u8, 256));
        memory.write(slot, 0, &pattern(seed as u8, ROOM));
    }
    memory.write(slots[1], 100, &[0xff; 50]);
    memory.write_header(slots[1], &[0xee; 256]);
    let mut changed = pattern(1, ROOM);
    changed[100..150].fill(0xff);
    for (seed, &slot) in slots.iter().enumerate() {
        let expected = if seed == 1 { changed.clone() } else { pattern(seed as u8, ROOM) };
        assert_eq!(seen(&*memory, slot, 0, ROOM), expected, "payload of slot {seed}");
        let mut header = [0; 256];
        memory.read_header(slot, &mut header);
        let expected = if seed == 1 { vec![0xee; 256] } else { pattern(seed as u8, 256) };
        assert_eq!(header[..], expected[..], "header of slot {seed}");
    }
}

fn checksums_agree_and_combine(memory: Arc<dyn Memory>) {
    let slot = slot(&*memory, 1);
    let bytes = pattern(9, ROOM);
    let whole = memory.write(slot, 0, &bytes);
    assert_eq!(whole, crc32fast::hash(&bytes));
    for cut in [0, 1, 4096, 5000, ROOM] {
        let (first, second) = (memory.checksum(slot, 0, cut), memory.checksum(slot, cut, ROOM - cut));
        assert_eq!(memory.combine(first, second, u64::from(ROOM - cut)), whole, "cut at {cut}");
    }
    memory.write(slot, 4000, &[bytes[4000] ^ 1]);
    assert_ne!(memory.checksum(slot, 0, ROOM), whole, "a flipped bit changes the checksum");
}

fn a_header_leaves_no_old_bytes_in_its_page(memory: Arc<dyn Memory>) {
    let slot = slot(&*memory, 1);
    memory.write_header(slot, &[0xaa; PAGE_BYTES as usize]);
    memory.write_header(slot, b"short");
    let mut page = [0xff; PAGE_BYTES as usize];
    memory.read_header(slot, &mut page);
    assert_eq!(&page[..5], b"short");
    assert!(page[5..].iter().all(|&byte| byte == 0), "the rest of the header page is zero");
}

fn a_header_and_a_payload_do_not_disturb_each_other(memory: Arc<dyn Memory>) {
    let slot = slot(&*memory, 1);
    let payload = pattern(3, ROOM);
    memory.write(slot, 0, &payload);
    memory.write_header(slot, &[7; PAGE_BYTES as usize]);
    assert_eq!(seen(&*memory, slot, 0, ROOM), payload);
    memory.write(slot, 0, &pattern(4, ROOM));
    let mut page = [0; PAGE_BYTES as usize];
    memory.read_header(slot, &mut page);
    assert_eq!(page, [7; PAGE_BYTES as usize]);
}

/// Counts how often it is dropped.
struct Pin(Arc<AtomicUsize>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_view_keeps_its_pin_until_its_last_clone_is_gone(memory: Arc<dyn Memory>) {
    let slot = slot(&*memory, 1);
    memory.write(slot, 0, b"pinned");
    let dropped = Arc::new(AtomicUsize::new(0));
    let view = memory.view(slot, 0, 6, Box::new(Pin(dropped.clone())));
    let part = view.slice(2..4);
    drop(view);
    assert_eq!(&part[..], b"nn");
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "a clone is still there");
    drop(part);
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "the pin is dropped exactly once");
    drop(memory.view(slot, 0, 0, Box::new(Pin(dropped.clone()))));
    assert_eq!(dropped.load(Ordering::SeqCst), 2, "an empty view drops its pin too");
}

fn a_view_and_a_region_outlive_the_memory(memory: Arc<dyn Memory>) {
    let slot = slot(&*memory, 1);
    memory.write(slot, 0, b"still here");
    let (view, region) = (memory.view(slot, 0, 10, Box::new(())), memory.region(slot));
    drop(memory);
    assert_eq!(&view[..], b"still here");
    drop(view);
    drop(region);
}

fn a_region_is_where_the_slot_is(memory: Arc<dyn Memory>) {
    let geometry = memory.geometry()[0];
    let (first, second) = (memory.region(slot(&*memory, 0)), memory.region(slot(&*memory, 3)));
    assert!(geometry.bytes.is_multiple_of(geometry.extent_bytes), "{geometry:?} is whole extents");
    assert_eq!(first.bytes, SLOT_BYTES);
    assert!(first.address.is_multiple_of(PAGE_BYTES as usize), "a device wants pages");
    let apart = 3 * u64::from(SLOT_BYTES);
    assert_eq!((second.address - first.address) as u64, apart);
    assert_eq!(second.arena_offset - first.arena_offset, apart);
    assert_eq!(first.arena_offset, geometry.first_extent_offset, "offsets are the arena's");
}

fn nothing_outside_a_slot_can_be_touched(memory: Arc<dyn Memory>) {
    let geometry = memory.geometry()[0];
    let good = slot(&*memory, 1);
    let end = geometry.first_extent_offset + geometry.bytes;
    let beyond = Slot { offset: end - PAGE_BYTES, ..good };
    let wrapping = Slot { offset: u64::MAX - PAGE_BYTES + 1, ..good };
    let refuses = |what: &str, act: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(act)).is_err(), "{what} must panic");
    };
    let nowhere = Slot { device: memory.geometry().len() as u16, ..good };
    for slot in [beyond, wrapping, nowhere] {
        refuses("a region outside", &|| drop(memory.region(slot)));
        refuses("a write outside", &|| _ = memory.write(slot, 0, &[1]));
        refuses("a header outside", &|| memory.write_header(slot, &[1]));
    }
    refuses("a write over the end", &|| _ = memory.write(good, ROOM, &[1]));
    refuses("a view over the end", &|| drop(memory.view(good, 1, ROOM, Box::new(()))));
    refuses("a checksum with a wrapping offset", &|| _ = memory.checksum(good, u32::MAX, 2));
    refuses("a header larger than its page", &|| memory.write_header(good, &[0; PAGE_BYTES as usize + 1]));
}

fn arenas_share_nothing(memory: Arc<dyn Memory>) {
    let count = memory.geometry().len() as u16;
    let slots: Vec<Slot> = (0..count).map(|device| Slot { device, ..slot(&*memory, 2) }).collect();
    let before: Vec<u64> = slots.iter().map(|slot| memory.generation(*slot)).collect();
    for slot in &slots {
        memory.write(*slot, 0, &pattern(slot.device as u8, ROOM));
        memory.write_header(*slot, &[slot.device as u8 + 1]);
    }
    for slot in &slots {
        assert_eq!(seen(&*memory, *slot, 0, ROOM), pattern(slot.device as u8, ROOM), "another arena's bytes");
        let mut header = [0];
        memory.read_header(*slot, &mut header);
        assert_eq!(header, [slot.device as u8 + 1], "another arena's header");
    }
    let addresses: std::collections::BTreeSet<usize> = slots.iter().map(|slot| memory.region(*slot).address).collect();
    assert_eq!(addresses.len(), slots.len(), "two arenas are the same memory");
    memory.renew(count - 1, slots[0].offset);
    for (slot, before) in slots.iter().zip(before).take(usize::from(count) - 1) {
        assert_eq!(memory.generation(*slot), before, "a slot given back in one arena counts in another");
    }
}
