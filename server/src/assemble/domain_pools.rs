//! Each security domain's pool of hot blocks: a part of every GPU's pool, in the proportion of its host memory.

use std::sync::Arc;

use kvtier_engine::catalog::plan::TierCount;
use kvtier_engine::policy::PolicyKind;
use kvtier_engine::port::{Clock, Spawn, Tier};
use kvtier_hbm::pool::{Listener, shares};
use kvtier_hbm::{HbmTier, HotPool};

/// A domain, and who hears of its pool.
pub(super) struct DomainShare {
    pub(super) name: String,
    /// Bytes of its arena.
    pub(super) host_bytes: u64,
    pub(super) listener: Listener,
}

/// How blocks are kept in the pools.
pub(super) struct HotRules {
    pub(super) policy: PolicyKind,
    pub(super) pin_bytes_max: u64,
}

/// The pools, in the order of the domains' arenas.
pub(super) struct DomainPools(Vec<Option<Arc<HotPool>>>);

impl DomainPools {
    /// Empty pools; a domain whose part is smaller than an extent has none.
    pub(super) fn new(
        tier: &HbmTier,
        domains: Vec<DomainShare>,
        rules: &HotRules,
        clock: &Arc<dyn Clock>,
        spawn: &Arc<dyn Spawn>,
    ) -> Self {
        let whole = tier.geometry();
        let weights: Vec<u64> = domains.iter().map(|domain| domain.host_bytes).collect();
        let has_room = whole.iter().any(|pool| pool.bytes > 0);
        let pool = |(domain, share): (DomainShare, Vec<_>)| {
            let (clock, spawn) = (Arc::clone(clock), Arc::clone(spawn));
            let listener = domain.listener;
            let pool = HotPool::new(tier.clone(), share, clock, spawn, rules.policy, rules.pin_bytes_max, listener);
            if pool.is_none() && has_room {
                tracing::warn!(
                    domain = domain.name,
                    "no blocks of this domain are kept in GPU memory: its part of hbm.bytes is smaller than \
                     hbm.extent_bytes: make the one larger or the other smaller"
                );
            }
            pool
        };
        Self(domains.into_iter().zip(shares(&whole, &weights)).map(pool).collect())
    }

    /// The pool of a domain.
    pub(super) fn of(&self, domain: u16) -> Option<&Arc<HotPool>> {
        self.0.get(usize::from(domain))?.as_ref()
    }

    /// All there are.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<HotPool>> {
        self.0.iter().flatten()
    }

    /// What each domain has.
    pub(super) fn counts(&self) -> Vec<TierCount> {
        self.0.iter().map(|pool| pool.as_ref().map(|pool| pool.count()).unwrap_or_default()).collect()
    }

    /// Blocks found, and blocks taken in, so far.
    pub(super) fn counters(&self) -> (u64, u64) {
        self.all().map(|pool| pool.counters()).fold((0, 0), |sum, (hits, stores)| (sum.0 + hits, sum.1 + stores))
    }
}
