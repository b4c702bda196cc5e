//! Memory registered with the ring, so that the kernel need not look its pages up for every transfer.
//!
//! An arena is registered in pieces, one between two rounds of the ring, so that neither the start of the daemon nor
//! the transfers under way wait for gigabytes to be pinned. Each piece reaches over the start of the next by the
//! longest transfer: then every transfer lies whole in some piece.
//!
//! ```text
//!   arena   |--------------------------------------------|
//!   piece 0 |===============~~|
//!   piece 1                 |===============~~|              ~~ longest transfer
//!   piece 2                                 |============|
//! ```
//!
//! Registration pins pages where they are, so whoever still makes huge pages of them says how much of an arena is ready:
//! a piece is registered once all of it is.
//!
//! What is not registered, or not yet, moves through plain operations. The ring holds each arena until it is gone.

use io_uring::Submitter;

use crate::aligned::Arena;

/// Slots of the ring's table; the kernel's bound.
const SLOT_COUNT_MAX: u64 = 16_384;

/// The kernel's bound on one piece.
const PIECE_BYTES_MAX: u64 = 1 << 30;

/// The ring's table of registered memory.
pub(crate) struct Arenas {
    chunk_bytes: u64,
    overlap_bytes: u64,
    used_slot_count: u64,
    /// Why no more is registered.
    refusal: Option<String>,
    areas: Vec<Area>,
}

struct Area {
    arena: Arena,
    chunk_bytes: u64,
    first_slot: u64,
    /// Pieces in all, those that may be registered now, and those registered so far.
    piece_count: u64,
    ready_count: u64,
    registered_count: u64,
}

impl Arenas {
    /// Makes an empty table in the ring, if the kernel can.
    pub(crate) fn new(submitter: &Submitter<'_>, chunk_bytes: u64, overlap_bytes: u64) -> Self {
        let table = submitter.register_buffers_sparse(SLOT_COUNT_MAX as u32);
        let refusal = table.err().map(|error| format!("the ring takes no table: {error}"));
        Self { chunk_bytes, overlap_bytes, used_slot_count: 0, refusal, areas: Vec::new() }
    }

    /// Takes an arena in, or hears that more of it is ready; [`Arenas::register_next`] then registers it piece by piece.
    pub(crate) fn add(&mut self, arena: Arena, ready_bytes: u64) {
        if self.refusal.is_some() || arena.bytes == 0 {
            return;
        }
        let overlap_bytes = self.overlap_bytes;
        let is_known = |area: &&mut Area| area.arena.address == arena.address && area.arena.bytes == arena.bytes;
        if let Some(area) = self.areas.iter_mut().find(is_known) {
            area.prepare(ready_bytes, overlap_bytes);
            return;
        }
        let free = SLOT_COUNT_MAX - self.used_slot_count;
        let longest = (PIECE_BYTES_MAX - self.overlap_bytes) & !((1 << 20) - 1);
        let fitting = arena.bytes.div_ceil(free.max(1)).next_multiple_of(1 << 20);
        let chunk_bytes = self.chunk_bytes.max(fitting).min(longest);
        let piece_count = arena.bytes.div_ceil(chunk_bytes).min(free);
        let first_slot = self.used_slot_count;
        self.used_slot_count += piece_count;
        let mut area = Area { arena, chunk_bytes, first_slot, piece_count, ready_count: 0, registered_count: 0 };
        area.prepare(ready_bytes, overlap_bytes);
        self.areas.push(area);
    }

    /// Something is still to be registered.
    pub(crate) fn is_pending(&self) -> bool {
        self.refusal.is_none() && self.areas.iter().any(Area::is_pending)
    }

    /// Registers one piece. A refusal is remembered and ends registration: plain operations go on.
    pub(crate) fn register_next(&mut self, submitter: &Submitter<'_>) {
        let overlap_bytes = self.overlap_bytes;
        let Some(area) = self.areas.iter_mut().find(|area| area.is_pending()) else { return };
        let start = area.registered_count * area.chunk_bytes;
        let bytes = (area.chunk_bytes + overlap_bytes).min(area.arena.bytes - start);
        let slot = (area.first_slot + area.registered_count) as u32;
        let base = std::ptr::with_exposed_provenance_mut(area.arena.address + start as usize);
        let piece = libc::iovec { iov_base: base, iov_len: bytes as usize };
        // SAFETY: the arena's maker promised that these bytes are mapped while `keep` lives, and `keep` lives in
        // `areas`, which is dropped after the ring.
        let registered = unsafe { submitter.register_buffers_update(slot, &[piece], None) };
        match registered {
            Ok(()) => area.registered_count += 1,
            Err(error) => {
                let remedy = if error.raw_os_error() == Some(libc::ENOMEM) { "; raise the memlock limit" } else { "" };
                let reason = format!("registering {bytes} bytes failed: {error}{remedy}");
                tracing::warn!(%reason, "going on with plain buffers");
                self.refusal = Some(reason);
            }
        }
    }

    /// The table slot that holds all of the range, if one does.
    pub(crate) fn slot_of(&self, address: usize, bytes: u32) -> Option<u16> {
        let area = self.areas.iter().find(|area| area.holds(address, bytes))?;
        let piece = ((address - area.arena.address) as u64 / area.chunk_bytes).min(area.piece_count - 1);
        let piece_end = ((piece * area.chunk_bytes) + area.chunk_bytes + self.overlap_bytes).min(area.arena.bytes);
        let end = (address - area.arena.address) as u64 + u64::from(bytes);
        (piece < area.registered_count && end <= piece_end).then(|| (area.first_slot + piece) as u16)
    }

    /// For [`crate::port::Disk::mode`].
    pub(crate) fn describe(&self) -> String {
        let registered: u64 = self.areas.iter().map(Area::registered_bytes).sum();
        let all: u64 = self.areas.iter().map(|area| area.arena.bytes).sum();
        let mib = |bytes: u64| bytes >> 20;
        match &self.refusal {
            Some(reason) if registered == 0 => format!("plain buffers ({reason})"),
            Some(reason) => format!("registered buffers over {} of {} MiB ({reason})", mib(registered), mib(all)),
            None if all == 0 => "plain buffers (none registered)".to_owned(),
            None => format!("registered buffers over {} of {} MiB", mib(registered), mib(all)),
        }
    }
}

impl Area {
    /// The first `ready_bytes` bytes stay where they are. What was said before is never taken back.
    fn prepare(&mut self, ready_bytes: u64, overlap_bytes: u64) {
        let whole = match ready_bytes >= self.arena.bytes {
            true => self.piece_count,
            false => ready_bytes.saturating_sub(overlap_bytes) / self.chunk_bytes,
        };
        self.ready_count = self.ready_count.max(whole.min(self.piece_count));
    }

    fn is_pending(&self) -> bool {
        self.registered_count < self.ready_count
    }

    fn holds(&self, address: usize, bytes: u32) -> bool {
        let start = self.arena.address;
        address >= start && (address - start) as u64 + u64::from(bytes) <= self.arena.bytes
    }

    fn registered_bytes(&self) -> u64 {
        (self.registered_count * self.chunk_bytes).min(self.arena.bytes)
    }
}

#[cfg(test)]
mod tests;
