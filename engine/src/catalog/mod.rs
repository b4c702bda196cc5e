//! Which blocks are where, who holds them, and what must happen next. Bodies follow.
pub mod plan;
pub mod settings;

use kvtier_identity::{BlockId, Key};
use plan::*;
pub use settings::CatalogSettings;

use crate::place::Slot;
use crate::port::{IndexEntry, LoadOutcome, Moment, Record, Verify};

/// The pure core.
pub struct Catalog {}

#[expect(unused_variables, missing_docs, reason = "signatures first, bodies follow")]
impl Catalog {
    pub fn new(settings: CatalogSettings) -> Self {
        unreachable!("not written yet")
    }
    pub fn register_size(&mut self, length: u32) {
        unreachable!("not written yet")
    }
    pub fn reserve(&mut self, now: Moment, plan: PutPlan) -> Reserve {
        unreachable!("not written yet")
    }
    pub fn finish_part(
        &mut self,
        now: Moment,
        claim: &PartClaim,
        crc: Option<u32>,
        combine: impl Fn(u32, u32, u64) -> u32,
    ) -> PartOutcome {
        unreachable!("not written yet")
    }
    /// Blocks the admission policy wants on NVMe since the last call (second touch, or parent became ready): call `begin_store` for each.
    pub fn take_admitted(&mut self, count_max: usize) -> Vec<(BlockIndex, BlockId)> {
        unreachable!("not written yet")
    }
    pub fn lookup(&mut self, blocks: &[BlockId], out: &mut Vec<Resident>) -> usize {
        unreachable!("not written yet")
    }
    pub fn peek(&self, block: BlockId) -> Option<Resident> {
        unreachable!("not written yet")
    }
    pub fn miss(&self, now: Moment, block: BlockId) -> Miss {
        unreachable!("not written yet")
    }
    pub fn note_declined(&mut self, now: Moment, block: BlockId, why: Decline) {
        unreachable!("not written yet")
    }
    pub fn lease(
        &mut self,
        now: Moment,
        id: LeaseId,
        owner: OwnerId,
        blocks: &[BlockIndex],
        deadline: Moment,
    ) -> Result<(), LeaseError> {
        unreachable!("not written yet")
    }
    pub fn leased(&self, now: Moment, id: LeaseId, owner: OwnerId) -> Result<&[BlockIndex], LeaseError> {
        unreachable!("not written yet")
    }
    pub fn release(&mut self, now: Moment, id: LeaseId, owner: OwnerId) -> Result<Vec<Record>, LeaseError> {
        unreachable!("not written yet")
    }
    pub fn release_owner(&mut self, owner: OwnerId) -> Vec<Record> {
        unreachable!("not written yet")
    }
    pub fn pin(
        &mut self,
        now: Moment,
        space: u32,
        name: &str,
        blocks: &[BlockIndex],
        deadline: Moment,
        bytes_max: u64,
    ) -> Result<u64, PinError> {
        unreachable!("not written yet")
    }
    pub fn unpin(&mut self, space: u32, name: &str) -> Option<Vec<Record>> {
        unreachable!("not written yet")
    }
    pub fn expire(&mut self, now: Moment) -> Expired {
        unreachable!("not written yet")
    }
    pub fn next_deadline(&self) -> Option<Moment> {
        unreachable!("not written yet")
    }
    pub fn begin_load(&mut self, now: Moment, index: BlockIndex) -> LoadPlan {
        unreachable!("not written yet")
    }
    pub fn begin_load_block(&mut self, now: Moment, block: BlockId) -> LoadPlan {
        unreachable!("not written yet")
    }
    pub fn finish_load(&mut self, now: Moment, index: BlockIndex, outcome: &LoadOutcome, key: Option<Key>) -> LoadDone {
        unreachable!("not written yet")
    }
    pub fn unhold(&mut self, index: BlockIndex) -> Vec<Record> {
        unreachable!("not written yet")
    }
    pub fn begin_store(&mut self, now: Moment, index: BlockIndex, block: BlockId) -> StorePlan {
        unreachable!("not written yet")
    }
    pub fn finish_store(&mut self, now: Moment, index: BlockIndex, stored: bool) -> Vec<Record> {
        unreachable!("not written yet")
    }
    /// Whether the block was removed while somebody holds it: ask before journaling `StoredNvme`.
    pub fn is_doomed(&self, index: BlockIndex) -> bool {
        unreachable!("not written yet")
    }
    pub fn delete(&mut self, now: Moment, block: BlockId) -> Option<Vec<Record>> {
        unreachable!("not written yet")
    }
    pub fn quarantine(&mut self, now: Moment, index: BlockIndex) -> Vec<Record> {
        unreachable!("not written yet")
    }
    pub fn drop_space_step(
        &mut self,
        now: Moment,
        space: u32,
        count_max: usize,
        cursor: &mut u32,
    ) -> (Vec<Record>, bool) {
        unreachable!("not written yet")
    }
    pub fn begin_fill(&mut self, quarantined: &[Slot]) {
        unreachable!("not written yet")
    }
    pub fn fill(&mut self, block: BlockId, entry: &IndexEntry) -> Fill {
        unreachable!("not written yet")
    }
    pub fn finish_fill(&mut self) {
        unreachable!("not written yet")
    }
    /// Round done when the answer is empty and the cursor is 0.
    pub fn scrub_next(&mut self, cursor: &mut u32, count_max: usize) -> Vec<(BlockIndex, Verify)> {
        unreachable!("not written yet")
    }
    /// Done when the cursor is `u32::MAX`.
    pub fn snapshot_next(&self, cursor: &mut u32, count_max: usize) -> Vec<SnapshotBlock> {
        unreachable!("not written yet")
    }
    pub fn block_of(&self, index: BlockIndex) -> BlockId {
        unreachable!("not written yet")
    }
    pub fn count(&self) -> CatalogCount {
        unreachable!("not written yet")
    }
    pub fn count_of_space(&self, space: u32) -> (u64, u64) {
        unreachable!("not written yet")
    }
    pub fn check(&self) -> Result<(), String> {
        unreachable!("not written yet")
    }
}
