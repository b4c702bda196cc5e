//! Reading: a leased prefix in the daemon's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use super::attach::Attachment;
use super::client::Shared;
use crate::{ClientError, wire};

/// The longest resident prefix of a chain, in place. Released when dropped.
///
/// The bytes are the blocks' as long as the lease lasts. A reader that may be late (stopped, swapped out, a slow copy to a
/// device) asks [`Acquired::is_intact`] *after* it has used them: false means that the lease had ended and the slot was
/// given back, so the bytes may have been another block's and what was made of them must be thrown away.
#[derive(Debug)]
pub struct Acquired {
    blocks: Vec<Place>,
    /// Blocks still on their way (poll only); then there are none to read yet.
    pub loading: u32,
    /// Why the block after the last one is missing; absent when the whole chain is here.
    pub miss: Option<wire::Miss>,
    /// When the lease ends by itself, in milliseconds since 1970 by the daemon's clock.
    pub deadline_unix_ms: u64,
    lease: Vec<u8>,
    /// The lease was ended before this value was dropped.
    released: AtomicBool,
    attachment: Arc<Attachment>,
    shared: Arc<Shared>,
}

/// Where a block is.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// 0: not in host memory.
    offset: u64,
    length: u32,
    crc: u32,
    generation: u64,
}

impl Acquired {
    /// Reads an answer to Acquire or Poll for a chain of at most `count_max` blocks.
    pub(super) fn read(
        response: wire::AcquireResponse,
        count_max: usize,
        attachment: &Arc<Attachment>,
        shared: &Arc<Shared>,
    ) -> Result<Self, ClientError> {
        let wire::AcquireResponse { offsets, length, lengths, crc32, generations, .. } = response;
        // Whatever is wrong below, the lease is released.
        let mut acquired = Self {
            blocks: Vec::with_capacity(offsets.len()),
            loading: response.loading,
            miss: response.miss,
            deadline_unix_ms: response.lease_deadline_unix_ms,
            lease: response.lease,
            released: AtomicBool::new(false),
            attachment: Arc::clone(attachment),
            shared: Arc::clone(shared),
        };
        let count = offsets.len();
        let agree = crc32.len() == count && generations.len() == count && [0, count].contains(&lengths.len());
        if !agree || count > count_max {
            return Err(ClientError::protocol("acquire", format!("lists that disagree, for {count_max} blocks")));
        }
        for (index, offset) in offsets.into_iter().enumerate() {
            let length = lengths.get(index).copied().unwrap_or(length);
            if !attachment.arena.contains(offset, length) {
                return Err(ClientError::protocol("acquire", format!("block {index} lies outside the arena")));
            }
            acquired.blocks.push(Place { offset, length, crc: crc32[index], generation: generations[index] });
        }
        Ok(acquired)
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether nothing of the chain is resident.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// A block's bytes, without a copy. `None`: there is no such block, or it is not in host memory.
    pub fn bytes(&self, index: usize) -> Option<&[u8]> {
        let place = self.blocks.get(index).filter(|place| place.offset != 0)?;
        Some(self.attachment.arena.slice(place.offset, place.length))
    }

    /// A block's offset in the arena, for a device that was given the arena.
    pub fn offset(&self, index: usize) -> Option<u64> {
        self.blocks.get(index).map(|place| place.offset).filter(|offset| *offset != 0)
    }

    /// CRC-32 of a block as the daemon knows it.
    pub fn crc(&self, index: usize) -> Option<u32> {
        self.blocks.get(index).map(|place| place.crc)
    }

    /// Whether everything read of a block so far was that block's. Ask after the bytes were used.
    pub fn is_intact(&self, index: usize) -> bool {
        // What was read before is read before the counter is.
        fence(Ordering::Acquire);
        self.blocks.get(index).is_some_and(|place| {
            place.offset == 0 || self.attachment.generation(place.offset) == Some(place.generation)
        })
    }

    /// The same for all blocks.
    pub fn all_intact(&self) -> bool {
        (0..self.blocks.len()).all(|index| self.is_intact(index))
    }

    /// Reads a block once and compares it with its checksum: what tells of a writer that wrote after its commit.
    pub fn verify(&self, index: usize) -> Result<(), ClientError> {
        let (Some(place), Some(bytes)) = (self.blocks.get(index), self.bytes(index)) else { return Ok(()) };
        let found = crc32fast::hash(bytes);
        match found == place.crc {
            true => Ok(()),
            false => Err(ClientError::Corrupt { index: index as u32, announced: place.crc, found }),
        }
    }

    /// Ends the lease now. The bytes stay mapped for whoever still looks at them, but may become another block's:
    /// [`Acquired::is_intact`] tells.
    pub fn release(&self) {
        if !self.lease.is_empty() && !self.released.swap(true, Ordering::SeqCst) {
            self.shared.release(self.attachment.name, self.lease.clone());
        }
    }

    pub(super) fn lease(&self) -> &[u8] {
        &self.lease
    }

    pub(super) fn attachment(&self) -> &Arc<Attachment> {
        &self.attachment
    }

    /// Hands the lease over to another answer about it.
    pub(super) fn forget_lease(&mut self) {
        self.lease.clear();
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        self.release();
    }
}
