//! A worker that shares the node's memory: it acquires a chain and reads it in place, like a process that has mapped its
//! domain's arena.
//!
//! As long as its lease is open every byte must be the block's (INV-1, INV-4). Once it has ended, other bytes may be
//! there, and then the slot's generation must tell.

use kvtier_engine::catalog::plan::LeaseId;
use kvtier_engine::flow::acquire::{Acquired, PlacedBlock, Wish};
use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_engine::port::Memory;
use kvtier_identity::{KeyRun, SpaceDigest};

use crate::executor::yield_now;
use crate::ledger::Name;
use crate::workload::Client;

/// Bytes of every key of the universe.
const KEY_BYTES: usize = 4;
/// How often a worker that does not wait asks whether its blocks are there.
const POLLS_MAX: usize = 30;
/// How often it looks at its blocks before it lets them go, and after.
const LOOKS: usize = 3;

impl Client {
    /// Acquires a chain, reads it in place, and releases it or lets its lease run out.
    pub(crate) async fn acquire(&self, last: Name, wish: Wish, release: bool) -> Result<(), String> {
        let Some(space) = self.space(last).await else { return Ok(()) };
        let names = last.chain_to();
        let Some((lease, acquired)) = self.acquire_names(&space, &names, wish).await? else { return Ok(()) };
        for _ in 0..LOOKS {
            self.look(lease, &names, &acquired, true)?;
            yield_now().await;
        }
        if release {
            self.engine.release(lease, self.owner).ok();
        }
        for _ in 0..LOOKS {
            self.look(lease, &names, &acquired, !release)?;
            yield_now().await;
        }
        Ok(())
    }

    /// The blocks in place, once they are there. Nothing: they are not resident, or it took too long.
    pub(crate) async fn acquire_names(
        &self,
        space: &SpaceDigest,
        names: &[Name],
        wish: Wish,
    ) -> Result<Option<(LeaseId, Acquired)>, String> {
        let bytes: Vec<u8> = names.iter().flat_map(|name| name.key().as_bytes().to_vec()).collect();
        let keys = KeyRun::even(&bytes, KEY_BYTES).map_err(|error| error.to_string())?;
        // The index cannot tell, or too many leases are open.
        let Ok(mut acquired) = self.engine.acquire(space, &keys, wish, self.owner).await else { return Ok(None) };
        let Some(lease) = acquired.lease else { return Ok(None) };
        for _ in 0..POLLS_MAX {
            if acquired.loading == 0 {
                check_answer(&acquired, names)?;
                self.ledger.borrow_mut().seen.acquired += acquired.blocks.len() as u64;
                return Ok(Some((lease.id, acquired)));
            }
            if wish.wait {
                return Err("an acquisition that waits came back before its blocks had landed".into());
            }
            yield_now().await;
            // The lease may have ended meanwhile.
            let Ok(again) = self.engine.acquired(lease.id, self.owner, false).await else { return Ok(None) };
            acquired = again;
        }
        Ok(None)
    }

    /// Reads the blocks where they are said to be. `held`: this client has not released the lease.
    pub(crate) fn look(&self, lease: LeaseId, names: &[Name], acquired: &Acquired, held: bool) -> Result<(), String> {
        for (name, place) in names.iter().copied().zip(&acquired.blocks) {
            if self.is_there(name, place) {
                continue;
            }
            // Its deadline may have passed, or another client of this owner vanished. If it is open, it was.
            if held && self.engine.get_lease(lease, self.owner, 0, 0).is_ok() {
                return Err(format!("INV-4: {name:?} changed at {place:?} under an open lease"));
            }
            if !self.is_told(name, place) {
                return Err(format!("INV-1: {name:?} changed at {place:?}, and the slot's generation has not"));
            }
            self.ledger.borrow_mut().seen.outlived += 1;
        }
        Ok(())
    }

    /// Whether the block's bytes are where they were placed; nothing is said of one that is not in host memory.
    fn is_there(&self, name: Name, place: &PlacedBlock) -> bool {
        let Some(slot) = self.slot(name, place) else { return true };
        self.memory.view(slot, 0, place.length, Box::new(()))[..] == name.bytes()[..]
    }

    /// Whether the slot's generation says that it was given back since it was placed.
    fn is_told(&self, name: Name, place: &PlacedBlock) -> bool {
        self.slot(name, place).is_none_or(|slot| self.memory.generation(slot) != place.generation)
    }

    fn slot(&self, name: Name, place: &PlacedBlock) -> Option<Slot> {
        let device = u16::from(self.domains[name.tenant]);
        let slot = |offset| Slot { device, offset: offset - PAGE_BYTES, bytes: slot_bytes(place.length) };
        place.offset.map(slot)
    }
}

/// What an answer promises holds together, whatever is in memory.
fn check_answer(acquired: &Acquired, names: &[Name]) -> Result<(), String> {
    if acquired.blocks.len() > names.len() {
        return Err(format!("{} blocks were asked for, {} came", names.len(), acquired.blocks.len()));
    }
    for (name, place) in names.iter().zip(&acquired.blocks).filter(|(_, place)| place.offset.is_some()) {
        let bytes = name.bytes();
        if (place.length as usize, place.crc) != (bytes.len(), crc32fast::hash(&bytes)) {
            return Err(format!("INV-1: {name:?} was placed as another block: {place:?}"));
        }
    }
    Ok(())
}
