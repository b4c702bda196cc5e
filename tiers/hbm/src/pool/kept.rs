//! The catalog of a pool and what is known of its copies, which change together, under one lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kvtier_engine::catalog::Catalog;
use kvtier_engine::catalog::plan::{PartClaim, PartOutcome, PutPlan, Reserve};
use kvtier_engine::port::{Moment, Record};
use kvtier_identity::BlockId;

use super::piece::{Origin, Places};
use crate::news::PoolNews;

/// What a pool keeps: slots and blocks, and of which blocks they are copies.
pub(crate) struct Kept {
    pub(crate) catalog: Catalog,
    pub(crate) places: Places,
}

pub(crate) fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    /// A slot for a copy, and what it costs.
    pub(crate) fn reserve(&mut self, now: Moment, plan: PutPlan, origin: Origin) -> (Reserve, Vec<PoolNews>) {
        let id = plan.block;
        let reserved = self.catalog.reserve(now, plan);
        let Reserve::Write(claim) = &reserved else { return (reserved, Vec::new()) };
        let news = self.removed(&claim.records);
        self.places.begin(id, claim.pending, origin);
        (reserved, news)
    }

    /// The copy is there, with this checksum, and the block's own length and checksum. None: it was given up meanwhile.
    pub(crate) fn finish(
        &mut self,
        now: Moment,
        claim: &PartClaim,
        crc: u32,
        whole: (u32, u32),
    ) -> Option<Vec<PoolNews>> {
        let PartOutcome::Visible { record, .. } = self.catalog.finish_part(now, claim, Some(crc), one_part) else {
            self.places.give_up(claim.block, claim.pending);
            return None;
        };
        let Record::StoredHost { block: id, space, key, .. } = record else { return Some(Vec::new()) };
        let first = self.places.arrive(id, whole);
        let told = |Origin { gpu, block, parent }| PoolNews::Stored { gpu, block, space, key, parent };
        Some(first.map(told).into_iter().collect())
    }

    /// The copy does not come: its slot is free, and nobody was told of it.
    pub(crate) fn give_up(&mut self, now: Moment, claim: &PartClaim) {
        self.catalog.finish_part(now, claim, None, one_part);
        self.places.give_up(claim.block, claim.pending);
    }

    /// Takes a copy away, on its way or there.
    pub(crate) fn delete(&mut self, now: Moment, id: BlockId) -> Vec<PoolNews> {
        let records = self.catalog.delete(now, id).unwrap_or_default();
        self.removed(&records)
    }

    /// A copy of this checksum does not verify.
    pub(crate) fn condemn(&mut self, now: Moment, id: BlockId, crc: u32) -> Vec<PoolNews> {
        let records = self.catalog.condemn_host(now, id, crc);
        self.removed(&records)
    }

    /// A GPU is lost with its copies.
    pub(crate) fn lose(&mut self, now: Moment, gpu: u8) {
        for id in self.places.leave_gpu(gpu) {
            let _ = self.catalog.delete(now, id);
        }
    }

    fn removed(&mut self, records: &[Record]) -> Vec<PoolNews> {
        let gone = records.iter().filter_map(|record| match record {
            Record::Removed { block: id, .. } => self.places.leave(*id),
            _ => None,
        });
        gone.map(|Origin { gpu, block, .. }| PoolNews::Removed { gpu, block }).collect()
    }
}

fn one_part(_: u32, _: u32, _: u64) -> u32 {
    unreachable!("a copy here has one part")
}
