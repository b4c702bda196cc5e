//! Blocks that a worker saves, on their way into the pool: their checksums are not known yet.
//!
//! ```text
//! reserve ─► Room: a slot ─► a save gathers into it, and copies on to host memory ─► fill: header written, found by `hold`
//!              └─ dropped: given back
//! ```
//!
//! A room is only dropped when no device writes to it any more (INV-8): whoever moves bytes keeps it with the move.

use std::sync::{Arc, Mutex};

use kvtier_engine::catalog::plan::{PartClaim, Reserve};
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{BoxFuture, Clock};
use kvtier_identity::{BlockId, Key};

use super::{GENERATION, HotPool, Kept, Piece, lock};
use crate::chain::CHECKED_BLOCKS_MAX;

/// A block that is about to come.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The block.
    pub block: BlockId,
    /// Its space's number.
    pub space: u32,
    /// The engine's key.
    pub key: Key,
    /// The block before it in its chain.
    pub parent: Option<BlockId>,
    /// Bytes of its payload.
    pub length: u32,
}

/// A slot of the pool for one block. Dropped, it is free again.
pub struct Room {
    // Not the pool: a job that has rooms must not be the last to let go of its own GPU's threads.
    kept: Arc<Mutex<Kept>>,
    clock: Arc<dyn Clock>,
    gpu: u8,
    claim: Option<PartClaim>,
    /// Where.
    pub slot: Slot,
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            lock(&self.kept).give_up(self.clock.now(), &claim);
        }
    }
}

impl HotPool {
    /// Room in a GPU's pool for the beginning of a chain, as far as there is some: a block goes there behind its parent
    /// only, and not twice.
    pub fn reserve(self: &Arc<Self>, gpu: u8, chain: impl IntoIterator<Item = Fresh>) -> Vec<Room> {
        let claimed = chain.into_iter().take(CHECKED_BLOCKS_MAX).map_while(|fresh| {
            match self.claim(Piece::whole(gpu, fresh.length), &fresh) {
                Reserve::Write(claim) => {
                    let (kept, clock) = (Arc::clone(&self.kept), Arc::clone(&self.clock));
                    Some(Room { kept, clock, gpu, slot: claim.slot, claim: Some(claim) })
                }
                _ => None,
            }
        });
        let rooms = claimed.collect();
        self.teller.tell();
        rooms
    }

    /// Writes the headers of blocks whose payloads have arrived, and lets them be found: how many, of the beginning. Goes on
    /// when the future is dropped. All on one GPU, parents first.
    pub fn fill(self: &Arc<Self>, filled: Vec<(Room, SlotHeader)>) -> BoxFuture<usize> {
        let seals =
            filled.iter().map(|(room, header)| (room.slot, SlotHeader { generation: GENERATION, ..header.clone() }));
        let sealed = self.tier.seal(seals.collect());
        let pool = Arc::clone(self);
        self.run("hbm fill", async move {
            let sealed = sealed.await;
            let mut found = 0;
            for ((mut room, header), sealed) in filled.into_iter().zip(sealed) {
                let Some(claim) = room.claim.take_if(|_| sealed) else { break };
                if !pool.settle(room.gpu, &claim, header.block, Some((header.crc, (header.length, header.crc)))) {
                    break;
                }
                found += 1;
            }
            found
        })
    }
}
