//! The pool of hot blocks: promotion, demotion, eviction, pins.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtier_engine::catalog::plan::Decline;
use kvtier_engine::header::SlotHeader;
use kvtier_engine::policy::PolicyKind;
use kvtier_engine::port::{BoxFuture, DeviceGeometry, LoadOutcome, Memory, Tier};
use kvtier_hbm::HotPool;
use kvtier_hbm::conformance::Dice;
use kvtier_hbm::pool::{Piece, PoolNews, Promotion, shares};
use kvtier_hbm::simulated::Faults;
use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::rig::{MIB, Rig, settings, slot};

/// Five of them fill an extent of 256 KiB.
pub(crate) const LENGTH: u32 = 45_000;
/// All of a block, on the only GPU.
const WHOLE: Piece = Piece { gpu: 0, offset: 0, bytes: LENGTH };
const TTL: Duration = Duration::from_secs(30);

pub(crate) struct Hot {
    pub(crate) rig: Rc<Rig>,
    pub(crate) pool: Arc<HotPool>,
    news: Arc<Mutex<Vec<PoolNews>>>,
}

impl Hot {
    /// Room for 20 blocks.
    pub(crate) fn new() -> Self {
        Self::of(&[1]).remove(0)
    }

    /// Pools of domains with these weights, on one GPU with room for 20 blocks.
    fn of(weights: &[u64]) -> Vec<Self> {
        let rig = Rc::new(Rig::with(1, 1, settings(MIB)));
        let shares = shares(&rig.tier.geometry(), weights);
        shares.into_iter().map(|share| Self::in_share(Rc::clone(&rig), share).expect("it has room")).collect()
    }

    /// On so many GPUs with room for 20 blocks each.
    pub(crate) fn on_gpus(count: u64) -> Self {
        let rig = Rc::new(Rig::with(1, count, settings(MIB)));
        let all = rig.tier.geometry();
        Self::in_share(rig, all).expect("they have pools")
    }

    fn in_share(rig: Rc<Rig>, share: Vec<DeviceGeometry>) -> Option<Self> {
        let spawn = Arc::new(rig.tasks.clone());
        let clock = Arc::new(rig.clock.clone());
        let news: Arc<Mutex<Vec<PoolNews>>> = Arc::default();
        let own = Arc::clone(&news);
        let listener = Box::new(move |told| own.lock().expect("a list").extend(told));
        let pool = HotPool::new(rig.tier.clone(), share, clock, spawn, PolicyKind::LeafLru, MIB, listener)?;
        Some(Self { rig, pool, news })
    }

    /// What was told since it was asked last.
    pub(crate) fn told(&self) -> Vec<PoolNews> {
        std::mem::take(&mut self.news.lock().expect("a list"))
    }

    /// Which blocks are in the pool, by what was told from the beginning.
    fn told_of(&self, there: &mut BTreeSet<u128>) {
        for news in self.told() {
            match news {
                PoolNews::Stored { block, .. } => assert!(there.insert(block.0), "told twice"),
                PoolNews::Removed { block, .. } => assert!(there.remove(&block.0), "never told of"),
                PoolNews::Lost { .. } => there.clear(),
            }
        }
    }

    pub(crate) fn bytes(number: u64) -> Vec<u8> {
        Dice::new(number + 1).bytes(LENGTH as usize)
    }

    pub(crate) fn known(number: u64) -> (BlockId, u32, u32) {
        (BlockId(number.into()), LENGTH, crc32fast::hash(&Self::bytes(number)))
    }

    fn promote_below(&self, number: u64, parent: Option<u64>) -> Promotion {
        self.rig.run(self.begin(WHOLE, number, parent))
    }

    /// Begins to promote a piece of a block.
    pub(crate) fn begin(&self, piece: Piece, number: u64, parent: Option<u64>) -> BoxFuture<Promotion> {
        let (block, length, crc) = Self::known(number);
        let from = slot(0, LENGTH);
        self.rig.memory.write(from, 0, &Self::bytes(number));
        let key = Key::new(&number.to_le_bytes()).expect("eight bytes are a key");
        let parent = parent.map(|parent| BlockId(parent.into()));
        let header = SlotHeader { block, space: SpaceDigest([1; 32]), key, parent, length, crc, generation: 9 };
        self.pool.promote(piece, header, 1, from, Box::new(()))
    }

    pub(crate) fn promote(&self, number: u64) -> Promotion {
        self.promote_below(number, None)
    }

    fn is_here(&self, number: u64) -> bool {
        self.pool.hold(WHOLE, &[Self::known(number)]).len() == 1
    }
}

#[test]
fn a_promoted_block_is_demoted_as_it_was() {
    let hot = Hot::new();
    assert_eq!(hot.promote(1), Promotion::Stored);
    assert_eq!(hot.promote(1), Promotion::Duplicate);
    let held = hot.pool.hold(WHOLE, &[Hot::known(1)]).pop().unwrap();
    let into = slot(3, LENGTH);
    assert_eq!(hot.rig.run(hot.pool.demote(held, into, Box::new(()))), LoadOutcome::Verified);
    assert!(hot.rig.memory.view(into, 0, LENGTH, Box::new(())) == Hot::bytes(1));
}

#[test]
fn a_full_pool_evicts_the_coldest_and_never_a_held_one() {
    let hot = Hot::new();
    (0..20).for_each(|number| assert_eq!(hot.promote(number), Promotion::Stored, "block {number}"));
    let held = hot.pool.hold(WHOLE, &[Hot::known(0)]);
    (20..39).for_each(|number| assert_eq!(hot.promote(number), Promotion::Stored, "block {number}"));
    assert!(hot.is_here(0) && !hot.is_here(1));
    assert_eq!(hot.pool.count().blocks, 20);
    drop(held);
    (40..60).for_each(|number| assert_eq!(hot.promote(number), Promotion::Stored, "block {number}"));
    assert!(!hot.is_here(0));
    let (mut told, here) = (BTreeSet::new(), (0..60).filter(|number| hot.is_here(*number)));
    hot.told_of(&mut told);
    assert_eq!(told, here.map(u128::from).collect(), "every block that came and went was told of");
}

#[test]
fn what_one_domain_keeps_no_other_evicts_finds_or_overwrites() {
    let domains = Hot::of(&[1, 1]);
    let [one, other] = &domains[..] else { panic!("two domains") };
    assert_eq!(one.pool.count().capacity_bytes + other.pool.count().capacity_bytes, MIB);
    (0..10).for_each(|number| assert_eq!(one.promote(number), Promotion::Stored, "block {number}"));
    (10..40).for_each(|number| assert_eq!(other.promote(number), Promotion::Stored, "block {number}"));
    assert_eq!((one.pool.count().evictions, other.pool.count().evictions), (0, 20));
    assert!((0..10).all(|number| !other.is_here(number)) && (10..40).all(|number| !one.is_here(number)));
    for number in 0..10 {
        let held = one.pool.hold(WHOLE, &[Hot::known(number)]).pop().expect("nobody evicted it");
        let demoted = one.rig.run(one.pool.demote(held, slot(3, LENGTH), Box::new(())));
        assert_eq!(demoted, LoadOutcome::Verified, "block {number}");
    }
}

#[test]
fn every_domain_hears_that_a_gpu_is_lost_with_its_blocks() {
    let domains = Hot::of(&[1, 1]);
    domains.iter().for_each(|hot| assert_eq!(hot.promote(1), Promotion::Stored));
    domains[0].rig.gpus[0].set_faults(Faults { lose_after_pieces: Some(0), ..Faults::default() });
    let lost = domains[0].promote(2);
    assert!(matches!(lost, Promotion::Failed(_)), "{lost:?}");
    for hot in &domains {
        assert_eq!(hot.pool.count().blocks, 0);
        let told = hot.told();
        assert!(matches!(&told[..], [PoolNews::Stored { .. }, PoolNews::Lost { gpu: 0, .. }, ..]), "{told:?}");
    }
}

#[test]
fn a_domain_whose_share_is_smaller_than_an_extent_has_no_pool() {
    let rig = Rc::new(Rig::with(1, 1, settings(MIB)));
    let mut shares = shares(&rig.tier.geometry(), &[9, 1]);
    assert!(Hot::in_share(Rc::clone(&rig), shares.remove(1)).is_none());
    assert!(Hot::in_share(rig, shares.remove(0)).is_some());
}

#[test]
fn a_pin_outlives_pressure_until_its_deadline() {
    let hot = Hot::new();
    (0..20).for_each(|number| assert_eq!(hot.promote(number), Promotion::Stored));
    let pinned: Vec<_> = (0..20).map(BlockId).collect();
    assert_eq!(hot.pool.pin(1, "agent", &pinned, TTL), Ok(20 * u64::from(LENGTH)));
    assert_eq!(hot.promote(50), Promotion::Declined(Decline::HostFull), "every slot is pinned");
    assert!((0..20).all(|number| hot.is_here(number)));
    hot.rig.clock.advance(TTL);
    assert_eq!(hot.promote(50), Promotion::Stored);
    assert!(hot.is_here(50));
}

#[test]
fn a_pin_is_bounded_and_can_be_taken_back() {
    let hot = Hot::new();
    (0..20).for_each(|number| assert_eq!(hot.promote(number), Promotion::Stored));
    let some: Vec<_> = (0..19).map(BlockId).collect();
    hot.pool.pin(1, "one", &some, TTL).unwrap();
    let more = hot.pool.pin(1, "two", &some, TTL).unwrap_err().to_string();
    assert!(more.contains("exceeds the quota"), "{more}");
    assert!(hot.pool.unpin(1, "one") && !hot.pool.unpin(1, "one"));
    assert_eq!(hot.promote(50), Promotion::Stored);
}

#[test]
fn a_chain_is_held_as_far_as_it_is_here_and_as_the_engine_knows_it() {
    let hot = Hot::new();
    assert_eq!(hot.promote(1), Promotion::Stored);
    assert_eq!(hot.promote_below(2, Some(1)), Promotion::Stored);
    assert_eq!(hot.promote_below(4, Some(3)), Promotion::Declined(Decline::ParentUnknown));
    let chain = [Hot::known(1), Hot::known(2), Hot::known(4)];
    assert_eq!(hot.pool.hold(WHOLE, &chain).len(), 2);
    let (block, length, crc) = Hot::known(2);
    let put_again = [Hot::known(1), (block, length, !crc)];
    assert_eq!(hot.pool.hold(WHOLE, &put_again).len(), 1, "other bytes under the same key are a miss");
    assert_eq!(hot.pool.hold(WHOLE, &chain).len(), 1, "and the copy that is here is forgotten");
}

#[test]
fn a_forgotten_block_keeps_its_slot_until_its_last_hold_is_dropped() {
    let hot = Hot::new();
    (0..20).for_each(|number| assert_eq!(hot.promote(number), Promotion::Stored));
    let pins: Vec<_> = (1..20).map(BlockId).collect();
    hot.pool.pin(1, "others", &pins, TTL).unwrap();
    let held = hot.pool.hold(WHOLE, &[Hot::known(0)]);
    hot.told();
    hot.pool.forget(BlockId(0));
    assert_eq!(hot.told(), [PoolNews::Removed { gpu: 0, block: BlockId(0) }], "told of at once");
    assert!(!hot.is_here(0));
    assert_eq!(hot.promote(50), Promotion::Declined(Decline::HostFull));
    drop(held);
    assert_eq!(hot.promote(50), Promotion::Stored);
}

#[test]
fn a_changed_host_copy_is_not_promoted_and_a_changed_pool_copy_not_demoted() {
    let hot = Hot::new();
    let (block, length, crc) = Hot::known(1);
    let from = slot(0, LENGTH);
    hot.rig.memory.write(from, 0, &Hot::bytes(2));
    let key = Key::new(b"k").unwrap();
    let header = SlotHeader { block, space: SpaceDigest([1; 32]), key, parent: None, length, crc, generation: 1 };
    let promoted = hot.rig.run(hot.pool.promote(WHOLE, header, 1, from, Box::new(())));
    assert!(matches!(promoted, Promotion::Corrupt(_)), "{promoted:?}");
    assert_eq!(hot.pool.count().blocks, 0);
    assert_eq!(hot.promote(1), Promotion::Stored);
    let held = hot.pool.hold(WHOLE, &[Hot::known(1)]).pop().unwrap();
    (hot.rig.world().damage)(held.slot, 4096 + 77);
    let demoted = hot.rig.run(hot.pool.demote(held, slot(3, LENGTH), Box::new(())));
    assert!(matches!(demoted, LoadOutcome::Corrupt(_)), "{demoted:?}");
    assert!(!hot.is_here(1));
}

#[test]
fn a_promotion_whose_future_is_dropped_still_finishes() {
    let hot = Hot::new();
    let (block, length, crc) = Hot::known(1);
    hot.rig.memory.write(slot(0, LENGTH), 0, &Hot::bytes(1));
    let key = Key::new(b"k").unwrap();
    let header = SlotHeader { block, space: SpaceDigest([1; 32]), key, parent: None, length, crc, generation: 1 };
    drop(hot.pool.promote(WHOLE, header, 1, slot(0, LENGTH), Box::new(())));
    hot.rig.settle();
    assert!(hot.is_here(1));
}
