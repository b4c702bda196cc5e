//! Putting a block: reserve a host slot, fill it, commit it.
//!
//! ```text
//!   reserve ── slot of the arena belongs to the PartWriter ──► write ... write ──► finish
//!      │                                                          │                  │
//!   Declined / Duplicate                              dropped: the part is     checksum fixed,
//!                                                     given up, slot freed     StoredHost, visible
//! ```
//!
//! A crash before `finish` loses the slot's content with the arena; nothing was journaled. A crash after it loses the
//! volatile copy; the epoch's Reset says so. The durable copy is `flow/store.rs`.

use std::sync::Arc;
use std::time::Duration;

use kvtier_identity::BlockId;

use super::ask::{Durability, DurableWait, Put, PutPart, Reserved};
use super::error::EngineError;
use super::spaces::Space;
use super::{Core, Engine, Shared};
use crate::catalog::plan::{Decline, PartClaim, PartOutcome, PutPlan, Reserve};
use crate::place::PAGE_BYTES;
use crate::port::{AppendRefused, Record};

/// How long a put or a load waits for room that write-back is about to make.
pub(crate) const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// The right to fill one part of a block, and the bytes written so far. Dropping it gives the part up.
pub struct PartWriter {
    shared: Arc<Shared>,
    claim: Option<PartClaim>,
    durability: Durability,
    written: u32,
    crc: u32,
}

/// Where a part belongs in host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlace {
    /// Offset of its first byte in the arena of its space's domain.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// Generation of its slot.
    pub generation: u64,
}

impl std::fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartWriter").field("claim", &self.claim).field("written", &self.written).finish()
    }
}

impl Engine {
    /// Asks for room for one part of a block. While the host tier is full of blocks on their way to NVMe, it waits for
    /// them, and a durable put just after the start waits for the index, at most [`ROOM_PATIENCE`].
    pub async fn reserve(&self, put: &PutPart) -> Result<Reserved, EngineError> {
        let deadline = self.shared.now().after(ROOM_PATIENCE);
        loop {
            let reserved = self.reserve_now(put).await?;
            let again = match &reserved {
                Reserved::Declined(Decline::HostFull | Decline::Busy) => self.shared.room(deadline).await,
                Reserved::Declined(Decline::Recovering) => self.shared.filled_before(deadline).await,
                _ => false,
            };
            if !again {
                return Ok(reserved);
            }
        }
    }

    async fn reserve_now(&self, put: &PutPart) -> Result<Reserved, EngineError> {
        let (block, parent) = {
            let core = self.shared.lock();
            let space = core.spaces.find(&put.space)?;
            check_part(space, put)?;
            (space.block_id(&put.key), put.parent.as_ref().map(|key| space.block_id(key)))
        };
        let wanted: Vec<_> = parent.into_iter().chain([block]).collect();
        self.fault_in(&wanted).await?;
        let mut core = self.shared.lock();
        let space = core.spaces.find(&put.space)?;
        let plan = PutPlan {
            block,
            space: space.record.number,
            domain: space.domain,
            key: put.key.clone(),
            parent,
            part_bytes: part_bytes(space, put),
            part: u16::try_from(put.part).expect("checked against the space's parts"),
            deadline: self.shared.now().after(self.shared.settings.part_deadline),
        };
        if let Some(decline) = self.shared.refusal(&core, put.durability) {
            return Ok(Reserved::Declined(self.shared.declined(&mut core, block, decline)));
        }
        self.reserve_planned(&mut core, plan, put)
    }

    fn reserve_planned(&self, core: &mut Core, plan: PutPlan, put: &PutPart) -> Result<Reserved, EngineError> {
        let block = plan.block;
        match core.catalog.reserve(self.shared.now(), plan) {
            Reserve::Write(mut claim) => {
                self.shared.journal(core, std::mem::take(&mut claim.records));
                Ok(Reserved::Write(PartWriter {
                    shared: Arc::clone(&self.shared),
                    claim: Some(claim),
                    durability: put.durability,
                    written: 0,
                    crc: 0,
                }))
            }
            Reserve::Duplicate if put.durability == Durability::Volatile => {
                self.shared.meter.duplicates.add(1);
                Ok(Reserved::Duplicate(None))
            }
            Reserve::Duplicate => {
                self.shared.meter.duplicates.add(1);
                Ok(Reserved::Duplicate(Some(self.shared.make_durable(core, block))))
            }
            Reserve::PartTaken => Err(EngineError::invalid("part", put.part, "each part of a block is put once")),
            Reserve::Disagrees(what) => Err(EngineError::invalid(
                what,
                &put.key,
                "another put of this block, still incomplete, declared something else: finish it or wait for its deadline",
            )),
            Reserve::Declined(decline) => {
                // What is in the way may have been wanted on NVMe just now.
                self.shared.write_back_admitted(core);
                Ok(Reserved::Declined(self.shared.declined(core, block, decline)))
            }
        }
    }
}

impl PartWriter {
    /// Where the part belongs, for a writer who shares the memory and writes it himself.
    pub fn place(&self) -> PartPlace {
        let claim = self.claim.as_ref().expect("only finish takes the claim");
        PartPlace {
            offset: claim.slot.offset + PAGE_BYTES + u64::from(claim.offset),
            length: claim.length,
            generation: self.shared.ports.memory.generation(claim.slot),
        }
    }

    /// Commits a part that was written in place: its checksum is computed from the memory, now. `crc` is what the writer says
    /// its bytes sum to.
    pub fn finish_in_place(mut self, crc: Option<u32>) -> Result<Put, EngineError> {
        let claim = self.claim.as_ref().expect("only finish takes the claim");
        self.crc = self.shared.ports.memory.checksum(claim.slot, claim.offset, claim.length);
        self.written = claim.length;
        self.shared.meter.put_in_place_bytes.add(u64::from(claim.length));
        self.finish(crc)
    }

    /// Bytes still to come.
    pub fn missing_bytes(&self) -> u32 {
        self.claim.as_ref().map_or(0, |claim| claim.length) - self.written
    }

    /// Copies the next bytes of the part into the slot.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let claim = self.claim.as_ref().expect("only finish takes the claim");
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= claim.length - self.written);
        let Some(length) = length else {
            return Err(EngineError::invalid(
                "length",
                format!("{} announced, {} or more sent", claim.length, u64::from(self.written) + bytes.len() as u64),
                "announce the part's exact length",
            ));
        };
        let crc = self.shared.ports.memory.write(claim.slot, claim.offset + self.written, bytes);
        self.shared.meter.put_copied_bytes.add(u64::from(length));
        self.crc = self.shared.ports.memory.combine(self.crc, crc, u64::from(length));
        self.written += length;
        Ok(())
    }

    /// Commits the part. `crc` is what the client says its bytes sum to. On any error the part is given up.
    pub fn finish(mut self, crc: Option<u32>) -> Result<Put, EngineError> {
        if self.missing_bytes() > 0 {
            let claim = self.claim.as_ref().expect("only finish takes the claim");
            let value = format!("{} announced, {} sent", claim.length, self.written);
            return Err(EngineError::invalid("length", value, "send every byte that was announced"));
        }
        if let Some(crc) = crc.filter(|crc| *crc != self.crc) {
            self.shared.meter.client_crc_failures.add(1);
            let value = format!("{crc:#010x}");
            let remedy = format!("the bytes that arrived sum to {:#010x}: send them again", self.crc);
            return Err(EngineError::invalid("crc32", value, remedy));
        }
        let claim = self.claim.take().expect("only finish takes the claim");
        let shared = Arc::clone(&self.shared);
        let mut core = shared.lock();
        let memory = &shared.ports.memory;
        let combine = |first, second, length| memory.combine(first, second, length);
        match core.catalog.finish_part(shared.now(), &claim, Some(self.crc), combine) {
            PartOutcome::Incomplete => Ok(Put::PartAccepted),
            PartOutcome::GivenUp => Ok(Put::Declined(Decline::Busy)),
            PartOutcome::Visible { index, record, crc, admit } => {
                // A child that was acknowledged durable before this block was complete is reachable only through it.
                let admit = admit || core.catalog.has_durable_child(index);
                Ok(self.visible(&mut core, &claim, record, crc, admit))
            }
        }
    }

    fn visible(&self, core: &mut Core, claim: &PartClaim, record: Record, crc: u32, admit: bool) -> Put {
        let shared = &self.shared;
        shared.meter.host.stores.add(1);
        shared.journal(core, vec![record]);
        let durable = match self.durability {
            Durability::Durable => Some(shared.make_durable(core, claim.block)),
            Durability::Volatile => {
                if admit {
                    shared.write_back(core, claim.block);
                } else {
                    shared.meter.not_admitted.add(1);
                }
                shared.write_back_admitted(core);
                None
            }
        };
        Put::Stored { crc, durable }
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            let mut core = self.shared.lock();
            let now = self.shared.now();
            core.catalog.finish_part(now, &claim, None, |_, _, _| 0);
        }
    }
}

impl Shared {
    /// Why a put cannot be taken right now, whatever it is.
    fn refusal(&self, core: &Core, durability: Durability) -> Option<Decline> {
        if core.draining {
            return Some(Decline::Draining);
        }
        match (self.ports.journal.ready(), durability) {
            (Err(AppendRefused::Busy), _) => return Some(Decline::Busy),
            (Err(_), Durability::Durable) => return Some(Decline::JournalUnavailable),
            _ => {}
        }
        match durability {
            Durability::Volatile => None,
            Durability::Durable if self.ports.nvme.is_none() || core.stores.down => Some(Decline::NvmeUnavailable),
            Durability::Durable if core.filling => Some(Decline::Recovering),
            Durability::Durable => None,
        }
    }

    pub(crate) fn declined(&self, core: &mut Core, block: BlockId, decline: Decline) -> Decline {
        core.catalog.note_declined(self.now(), block, decline);
        self.meter.declined(decline);
        decline
    }

    /// Stores a visible block on NVMe for somebody who waits, and those of its ancestors that are not there: without them
    /// no lookup would reach it after a restart.
    pub(crate) fn make_durable(self: &Arc<Self>, core: &mut Core, block: BlockId) -> DurableWait {
        let mut waiters = Vec::new();
        for wanted in core.catalog.volatile_ancestors(block).into_iter().chain([block]) {
            match self.enqueue_store(core, wanted, true) {
                Ok(waiter) => waiters.extend(waiter),
                Err(decline) => {
                    let decline = self.declined(core, block, decline);
                    return DurableWait(Box::pin(std::future::ready(Err(decline))));
                }
            }
        }
        DurableWait(Box::pin(async move {
            for waiter in waiters {
                // A worker that vanished has stored nothing that anybody could promise.
                waiter.await.unwrap_or(Err(Decline::NvmeUnavailable))?;
            }
            Ok(())
        }))
    }
}

fn check_part(space: &Space, put: &PutPart) -> Result<(), EngineError> {
    let parts = &space.record.description.parts;
    let Some(part) = parts.get(put.part as usize) else {
        let remedy = format!("blocks of this space have {} parts, numbered from 0", parts.len());
        return Err(EngineError::invalid("part", put.part, remedy));
    };
    if put.length == 0 {
        return Err(EngineError::invalid("length", 0, "a part has at least one byte"));
    }
    let bytes = u64::from(part.bytes);
    if parts.len() > 1 && put.length != bytes {
        return Err(EngineError::invalid("length", put.length, format!("part {} has exactly {bytes} bytes", put.part)));
    }
    if put.length > bytes {
        return Err(EngineError::invalid(
            "length",
            put.length,
            format!("a block of this space has at most {bytes} bytes"),
        ));
    }
    Ok(())
}

fn part_bytes(space: &Space, put: &PutPart) -> Vec<u32> {
    let parts = &space.record.description.parts;
    match parts.len() {
        1 => vec![u32::try_from(put.length).expect("checked against the part's maximum")],
        _ => parts.iter().map(|part| part.bytes).collect(),
    }
}
