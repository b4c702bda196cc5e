//! Leases: a client's right to read a prefix until a deadline (INV-4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Catalog;
use super::expire::Due;
use super::plan::{BlockIndex, LeaseError, LeaseId, OwnerId};
use crate::port::{Moment, Record};

#[derive(Debug)]
struct Lease {
    owner: OwnerId,
    deadline: Moment,
    blocks: Box<[BlockIndex]>,
}

/// Open leases, and a bounded memory of ended ones, so that "ended" and "unknown" are different answers.
#[derive(Debug)]
pub(super) struct Leases {
    open: BTreeMap<LeaseId, Lease>,
    by_owner: BTreeSet<(OwnerId, LeaseId)>,
    ended: BTreeMap<LeaseId, OwnerId>,
    /// Ids of `ended`, oldest first.
    ended_order: VecDeque<LeaseId>,
    count_max: usize,
    block_count: u64,
}

impl Leases {
    pub(super) fn new(count_max: u32) -> Self {
        Self {
            open: BTreeMap::new(),
            by_owner: BTreeSet::new(),
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            count_max: count_max as usize,
            block_count: 0,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.open.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        let open = self.open.len() * (size_of::<Lease>() + size_of::<(LeaseId, OwnerId, LeaseId)>()) * 3 / 2;
        let ended = self.ended.len() * size_of::<(LeaseId, OwnerId, LeaseId)>() * 3 / 2;
        self.block_count * 4 + (open + ended) as u64
    }

    /// Every leased block, as often as it is leased.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockIndex> {
        self.open.values().flat_map(|lease| lease.blocks.iter().copied())
    }

    fn find(&self, id: LeaseId, owner: OwnerId) -> Result<&Lease, LeaseError> {
        match (self.open.get(&id), self.ended.get(&id)) {
            (Some(lease), _) if lease.owner == owner => Ok(lease),
            (None, Some(before)) if *before == owner => Err(LeaseError::Ended),
            (None, None) => Err(LeaseError::Unknown),
            _ => Err(LeaseError::Foreign),
        }
    }

    fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.open.remove(&id)?;
        self.by_owner.remove(&(lease.owner, id));
        self.block_count -= lease.blocks.len() as u64;
        self.ended.insert(id, lease.owner);
        self.ended_order.push_back(id);
        if self.ended_order.len() > self.count_max {
            let oldest = self.ended_order.pop_front().expect("it is longer than its bound");
            self.ended.remove(&oldest);
        }
        Some(lease)
    }
}

impl Catalog {
    /// Holds these blocks for a client until `deadline`. `blocks` come from a lookup, and nothing has changed the
    /// catalog since. Ids are random and never reused.
    pub fn lease(
        &mut self,
        _now: Moment,
        id: LeaseId,
        owner: OwnerId,
        blocks: &[BlockIndex],
        deadline: Moment,
    ) -> Result<(), LeaseError> {
        if self.leases.open.len() >= self.leases.count_max {
            return Err(LeaseError::TooMany);
        }
        for block in blocks {
            self.hold(block.0);
        }
        let before = self.leases.open.insert(id, Lease { owner, deadline, blocks: blocks.into() });
        assert!(before.is_none(), "a lease id was drawn twice");
        self.leases.by_owner.insert((owner, id));
        self.leases.block_count += blocks.len() as u64;
        self.due.insert((deadline, Due::Lease(id)));
        Ok(())
    }

    /// The blocks of a lease, in chain order. Each is held, though it may have been removed meanwhile (`begin_load`
    /// says so).
    pub fn leased(&self, now: Moment, id: LeaseId, owner: OwnerId) -> Result<&[BlockIndex], LeaseError> {
        let lease = self.leases.find(id, owner)?;
        if lease.deadline <= now { Err(LeaseError::Ended) } else { Ok(&lease.blocks) }
    }

    /// Ends a lease. The records are to be journaled (see `unhold`).
    pub fn release(&mut self, _now: Moment, id: LeaseId, owner: OwnerId) -> Result<Vec<Record>, LeaseError> {
        self.leases.find(id, owner)?;
        self.end_lease(id);
        Ok(Vec::new())
    }

    /// Ends every lease of a client that has gone away. The records are to be journaled (see `unhold`).
    pub fn release_owner(&mut self, owner: OwnerId) -> Vec<Record> {
        let range = (owner, LeaseId(0))..=(owner, LeaseId(u128::MAX));
        let ids: Vec<LeaseId> = self.leases.by_owner.range(range).map(|(_, id)| *id).collect();
        for id in ids {
            self.end_lease(id);
        }
        Vec::new()
    }

    /// Ends an open lease; head first, so that copies set aside meanwhile come back with descendants the coldest.
    pub(super) fn end_lease(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.end(id) else { return };
        self.due.remove(&(lease.deadline, Due::Lease(id)));
        for block in &lease.blocks {
            self.drop_hold(block.0);
        }
    }
}
