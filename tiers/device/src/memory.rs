//! Copying to and from memory that somebody else may be copying at the same moment.
//!
//! A device writes into an arena while another thread of this process may look at it: the bytes read are then
//! meaningless, and the checksum says so, but the program must stay defined. Both sides therefore copy with relaxed
//! atomic loads and stores, which compile to plain moves.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD_BYTES: usize = size_of::<u64>();

/// Copies `into.len()` bytes from `address`.
///
/// # Safety
/// The bytes at `address` are mapped and stay so during the call, and nobody accesses them non-atomically meanwhile
/// from Rust (a device may).
pub(crate) unsafe fn copy_out(address: usize, into: &mut [u8]) {
    let head = head_bytes(address, into.len());
    let (first, rest) = into.split_at_mut(head);
    // SAFETY: a part of the caller's range.
    unsafe { bytes_out(address, first) };
    let mut words = rest.chunks_exact_mut(WORD_BYTES);
    let mut at = address + head;
    for word in &mut words {
        // SAFETY: inside the caller's range, and aligned because `head` made it so.
        let cell = unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(at)) };
        word.copy_from_slice(&cell.load(Ordering::Relaxed).to_ne_bytes());
        at += WORD_BYTES;
    }
    // SAFETY: the rest of the caller's range.
    unsafe { bytes_out(at, words.into_remainder()) };
}

/// Copies `from` to `address`.
///
/// # Safety
/// As for [`copy_out`].
pub(crate) unsafe fn copy_in(address: usize, from: &[u8]) {
    let head = head_bytes(address, from.len());
    let (first, rest) = from.split_at(head);
    // SAFETY: a part of the caller's range.
    unsafe { bytes_in(address, first) };
    let words = rest.chunks_exact(WORD_BYTES);
    let last = words.remainder();
    let mut at = address + head;
    for word in words {
        // SAFETY: inside the caller's range, and aligned because `head` made it so.
        let cell = unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(at)) };
        let word = word.try_into().expect("chunks_exact gives whole words");
        cell.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        at += WORD_BYTES;
    }
    // SAFETY: the rest of the caller's range.
    unsafe { bytes_in(at, last) };
}

/// Bytes before the first aligned word.
fn head_bytes(address: usize, length: usize) -> usize {
    (address.next_multiple_of(WORD_BYTES) - address).min(length)
}

/// # Safety
/// As for [`copy_out`].
unsafe fn bytes_out(address: usize, into: &mut [u8]) {
    for (index, byte) in into.iter_mut().enumerate() {
        // SAFETY: inside the caller's range.
        let cell = unsafe { AtomicU8::from_ptr(std::ptr::with_exposed_provenance_mut(address + index)) };
        *byte = cell.load(Ordering::Relaxed);
    }
}

/// # Safety
/// As for [`copy_out`].
unsafe fn bytes_in(address: usize, from: &[u8]) {
    for (index, byte) in from.iter().enumerate() {
        // SAFETY: inside the caller's range.
        let cell = unsafe { AtomicU8::from_ptr(std::ptr::with_exposed_provenance_mut(address + index)) };
        cell.store(*byte, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_alignment_and_length() {
        for shift in 0..9 {
            for length in 0..40_usize {
                let mut place = vec![0_u8; 64];
                let bytes: Vec<u8> = (0..length).map(|index| index as u8 + 1).collect();
                let address = place.as_mut_ptr().expose_provenance() + shift;
                // SAFETY: `place` holds 64 bytes and nobody else knows it.
                unsafe { copy_in(address, &bytes) };
                let mut back = vec![0_u8; length];
                // SAFETY: as above.
                unsafe { copy_out(address, &mut back) };
                assert_eq!(back, bytes, "shift {shift} length {length}");
                assert!(place[..shift].iter().chain(&place[shift + length..]).all(|byte| *byte == 0));
                assert_eq!(&place[shift..shift + length], &bytes[..]);
            }
        }
    }
}
