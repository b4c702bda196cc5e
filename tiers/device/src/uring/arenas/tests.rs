use std::sync::Arc;

use io_uring::IoUring;

use super::*;
use crate::aligned::AlignedBuffer;

const MIB: u64 = 1 << 20;

fn ring() -> Option<IoUring> {
    // Where io_uring is refused there is nothing to test; `probe` has its own test.
    IoUring::new(8).ok()
}

fn register_all(arenas: &mut Arenas, ring: &IoUring) {
    while arenas.is_pending() {
        arenas.register_next(&ring.submitter());
    }
}

fn add(arenas: &mut Arenas, arena: Arena) {
    let bytes = arena.bytes;
    arenas.add(arena, bytes);
}

/// Memory that is mapped but may not be touched: the kernel refuses to pin it.
fn forbidden(bytes: u64) -> Arena {
    // SAFETY: a fresh anonymous mapping; nobody unmaps it.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            bytes as usize,
            rustix::mm::ProtFlags::empty(),
            rustix::mm::MapFlags::PRIVATE,
        )
    };
    let address = start.expect("address space").expose_provenance();
    Arena { address, bytes, keep: Arc::new(()) }
}

#[test]
fn every_transfer_inside_a_registered_arena_has_a_slot() {
    let Some(ring) = ring() else { return };
    let buffer = AlignedBuffer::zeroed(10 * MIB as usize);
    let mut arenas = Arenas::new(&ring.submitter(), 2 * MIB, MIB);
    add(&mut arenas, buffer.arena());
    register_all(&mut arenas, &ring);
    let start = buffer.arena().address;
    for offset in (0..10 * MIB as usize).step_by(4096) {
        for bytes in [4096, 65_536, MIB as usize] {
            let fits = offset + bytes <= buffer.size();
            let slot = arenas.slot_of(start + offset, bytes as u32);
            assert_eq!(slot.is_some(), fits, "{bytes} bytes at {offset}");
            if let Some(slot) = slot {
                let piece_start = u64::from(slot) * 2 * MIB;
                let piece_end = (piece_start + 3 * MIB).min(10 * MIB);
                assert!(piece_start <= offset as u64 && (offset + bytes) as u64 <= piece_end);
            }
        }
    }
}

#[test]
fn memory_outside_has_no_slot() {
    let Some(ring) = ring() else { return };
    let buffer = AlignedBuffer::zeroed(4 * MIB as usize);
    let mut arenas = Arenas::new(&ring.submitter(), MIB, MIB);
    let start = buffer.arena().address;
    add(&mut arenas, Arena { address: start + MIB as usize, bytes: 2 * MIB, keep: buffer.arena().keep });
    register_all(&mut arenas, &ring);
    assert!(arenas.slot_of(start + MIB as usize, 4096).is_some());
    assert!(arenas.slot_of(start, 4096).is_none());
    assert!(arenas.slot_of(start + MIB as usize - 4096, 8192).is_none());
    assert!(arenas.slot_of(start + 3 * MIB as usize, 4096).is_none());
    assert!(arenas.slot_of(start + 3 * MIB as usize - 4096, 8192).is_none());
}

#[test]
fn nothing_has_a_slot_before_its_piece_is_registered() {
    let Some(ring) = ring() else { return };
    let buffer = AlignedBuffer::zeroed(4 * MIB as usize);
    let start = buffer.arena().address;
    let mut arenas = Arenas::new(&ring.submitter(), MIB, 4096);
    add(&mut arenas, buffer.arena());
    assert!(arenas.slot_of(start, 4096).is_none());
    arenas.register_next(&ring.submitter());
    assert!(arenas.slot_of(start, 4096).is_some());
    assert!(arenas.slot_of(start + MIB as usize, 4096).is_none());
    assert_eq!(arenas.describe(), "registered buffers over 1 of 4 MiB");
}

#[test]
fn several_arenas_have_slots_of_their_own() {
    let Some(ring) = ring() else { return };
    let buffers = [AlignedBuffer::zeroed(3 * MIB as usize), AlignedBuffer::zeroed(2 * MIB as usize)];
    let mut arenas = Arenas::new(&ring.submitter(), MIB, MIB);
    buffers.iter().for_each(|buffer| add(&mut arenas, buffer.arena()));
    register_all(&mut arenas, &ring);
    let slots: Vec<_> = buffers.iter().map(|buffer| arenas.slot_of(buffer.arena().address, 4096)).collect();
    assert_eq!(slots, [Some(0), Some(3)]);
}

#[test]
fn a_refused_registration_is_told_and_ends_it() {
    let Some(ring) = ring() else { return };
    let buffer = AlignedBuffer::zeroed(2 * MIB as usize);
    let mut arenas = Arenas::new(&ring.submitter(), MIB, 4096);
    add(&mut arenas, forbidden(4 * MIB));
    add(&mut arenas, buffer.arena());
    register_all(&mut arenas, &ring);
    assert!(arenas.describe().starts_with("plain buffers (registering "), "{}", arenas.describe());
    assert!(arenas.slot_of(buffer.arena().address, 4096).is_none());
    add(&mut arenas, buffer.arena());
    assert!(!arenas.is_pending());
}

#[test]
fn an_arena_larger_than_the_table_gets_larger_pieces() {
    let Some(ring) = ring() else { return };
    let mut arenas = Arenas::new(&ring.submitter(), 64 * MIB, 4 * MIB);
    let giant = |bytes: u64| Arena { address: 1 << 40, bytes, keep: Arc::new(()) };
    // 4 TiB in 16,384 slots of 64 MiB do not fit.
    add(&mut arenas, giant(4 << 40));
    let area = &arenas.areas[0];
    assert!(area.piece_count <= SLOT_COUNT_MAX && area.piece_count * area.chunk_bytes >= 4 << 40);
    assert!(area.chunk_bytes + 4 * MIB <= PIECE_BYTES_MAX);
}

#[test]
fn a_piece_is_registered_once_all_of_it_is_ready() {
    let Some(ring) = ring() else { return };
    let buffer = AlignedBuffer::zeroed(4 * MIB as usize);
    let start = buffer.arena().address;
    let mut arenas = Arenas::new(&ring.submitter(), MIB, 4096);
    let mut registered = |ready_bytes: u64| {
        arenas.add(buffer.arena(), ready_bytes);
        register_all(&mut arenas, &ring);
        let has_slot = |piece: &usize| arenas.slot_of(start + piece * MIB as usize, 4096).is_some();
        (0..4).filter(has_slot).collect::<Vec<_>>()
    };
    assert_eq!(registered(0), []);
    assert_eq!(registered(MIB), [], "its last page lies behind");
    assert_eq!(registered(MIB + 4096), [0]);
    assert_eq!(registered(4096), [0], "readiness is not taken back");
    assert_eq!(registered(4 * MIB - 1), [0, 1, 2]);
    assert_eq!(registered(4 * MIB), [0, 1, 2, 3]);
    assert_eq!(arenas.areas.len(), 1);
    assert_eq!(arenas.used_slot_count, 4);
}
