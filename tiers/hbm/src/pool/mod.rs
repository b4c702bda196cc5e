//! The hot blocks of a node: which are in the GPUs' pools, who holds them there, and which goes first.
//!
//! A [`HotPool`] decides with a catalog of its own, of the same kind as the engine's: the GPUs' pools are its domains, or its
//! share of them (see [`shares`]) where tenants are kept apart, each domain with a pool that shares nothing with the others. So
//! size classes, eviction (leaf first, by the engine's policies), pins with a deadline and holds are those of the host
//! tier, and so are their tests. A copy here is *one more* copy: the engine's catalog does not know of it and keeps its own
//! promises without it; what is evicted here is only slower to get.
//!
//! A block may be in several GPUs' pools, whole or in pieces: see [`Piece`].
//!
//! ```text
//! promote   host slot held by the caller ─► room made, slot reserved ─► verified, uploaded ─► found by `hold`
//! reserve   room for blocks that a worker saves ─► gathered by the GPU ─► `fill` with their headers ─► found by `hold`
//! hold      the longest prefix that is here with the bytes the engine expects ─► held until dropped
//! demote    held ─► into a host slot of the caller, verified there
//! pin       held under a name until a deadline, whatever the pressure
//! wish      blocks to be promoted when they are seen next, and pinned then until the deadline
//! ```
//!
//! Whoever made the pool hears of every block that comes and goes, and of a GPU that is lost with all of its.
//!
//! Whoever asks says which length and checksum the engine knows a block by; a copy with others is a miss (INV-1), so a
//! block that was deleted and put again with other bytes is never found here, even before [`HotPool::forget`] is called.
//!
//! Nothing survives a crash. A hold of a block that was forgotten keeps its slot until it is dropped (INV-8).

mod fresh;
mod kept;
mod piece;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use kvtier_engine::catalog::plan::{BlockIndex, Decline, LoadPlan, PartClaim, PutPlan, Reserve, TierCount};
use kvtier_engine::catalog::{Catalog, CatalogSettings, HOST_DOMAIN_COUNT_MAX};
use kvtier_engine::flow::annex::Fetched;
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::Slot;
use kvtier_engine::policy::{AdmissionKind, PolicyKind, Seen};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{
    BoxFuture, Clock, DeviceGeometry, Load, LoadOutcome, Moment, Spawn, Store, StoreOutcome, TierError,
};
use kvtier_identity::BlockId;

pub use kvtier_engine::catalog::plan::PinError;

pub use self::fresh::{Fresh, Room};
use self::kept::{Kept, lock};
pub use self::piece::Piece;
use self::piece::{Origin, Places};
pub use self::share::shares;
pub use crate::chain::Keep;
use crate::news::Teller;
pub use crate::news::{Listener, PoolNews};
use crate::tier::{HbmTier, Upload};

/// Stores never overlap in a slot, and nothing survives a restart: one generation does for all.
const GENERATION: u64 = 1;
/// How long a promotion may take before its slot is given up. A device that is stuck keeps the slot.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(60);
const PROMOTIONS_MAX: u32 = 4096;
const PINS_MAX: u32 = 4096;
/// Blocks that are remembered as seen once, for each GPU.
const SEEN_MAX: usize = 1 << 16;
/// Blocks of all wishes.
const WISHED_MAX: usize = 1 << 20;

/// What became of a promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promotion {
    /// The block is in the pool.
    Stored,
    /// It was there already.
    Duplicate,
    /// There is no room, or the block's parent is not there.
    Declined(Decline),
    /// The host copy does not verify: quarantine it.
    Corrupt(&'static str),
    /// It was forgotten meanwhile.
    GivenUp,
    /// The device did not take it.
    Failed(TierError),
}

/// The blocks in the pools of a tier.
pub struct HotPool {
    tier: HbmTier,
    clock: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    kept: Arc<Mutex<Kept>>,
    pin_bytes_max: u64,
    warmth: Mutex<Warmth>,
    teller: Teller,
    hits: AtomicU64,
    stores: AtomicU64,
}

/// What is worth a place: blocks that were seen lately, and those somebody wishes to keep.
struct Warmth {
    seen: Seen,
    wishes: BTreeMap<(u32, String), Wish>,
}

struct Wish {
    deadline: Moment,
    blocks: BTreeSet<BlockId>,
}

/// A block that stays in its pool until this is dropped.
pub struct Hold {
    kept: Arc<Mutex<Kept>>,
    index: BlockIndex,
    id: BlockId,
    /// Where it is.
    pub slot: Slot,
    /// What its header says: length and checksum of the piece.
    pub expect: Expect,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Volatile tiers have nothing to journal.
        let _ = lock(&self.kept).catalog.unhold(self.index);
    }
}

impl HotPool {
    /// An empty pool in these parts of the GPUs' pools, which nobody else uses; `None` when none has room. `pin_bytes_max`
    /// bounds what a space may pin, for each GPU: a pinned block may be on all of them. `listener` hears of every block that
    /// comes and goes.
    pub fn new(
        tier: HbmTier,
        geometry: Vec<DeviceGeometry>,
        clock: Arc<dyn Clock>,
        spawn: Arc<dyn Spawn>,
        policy: PolicyKind,
        pin_bytes_max: u64,
        listener: Listener,
    ) -> Option<Arc<Self>> {
        if geometry.iter().all(|pool| pool.bytes == 0) || geometry.len() > HOST_DOMAIN_COUNT_MAX {
            return None;
        }
        let settings = CatalogSettings {
            host: geometry,
            nvme: Vec::new(),
            policy,
            admission: AdmissionKind::All,
            generation_first: GENERATION,
            history_count_max: 1024,
            lease_count_max: 1,
            pending_count_max: PROMOTIONS_MAX,
            pin_count_max: PINS_MAX,
        };
        let kept = Kept { catalog: Catalog::new(settings), places: Places::default() };
        let kept = Arc::new(Mutex::new(kept));
        let (gpus, teller) = (tier.device_count() as u16, Teller::new(listener));
        let seen = Seen::new(SEEN_MAX * usize::from(gpus));
        let warmth = Mutex::new(Warmth { seen, wishes: BTreeMap::new() });
        let (hits, stores) = Default::default();
        let pin_bytes_max = pin_bytes_max.saturating_mul(gpus.into());
        let pool = Arc::new(Self { tier, clock, spawn, kept, pin_bytes_max, warmth, teller, hits, stores });
        for gpu in 0..gpus {
            let own = Arc::downgrade(&pool);
            let lose = move |cause: &str| {
                if let (Some(pool), Ok(gpu)) = (own.upgrade(), u8::try_from(gpu)) {
                    pool.lose(gpu, cause);
                }
            };
            pool.tier.on_lost(gpu, Arc::new(lose));
        }
        Some(pool)
    }

    /// Copies a block, or the piece of it, to a GPU's pool, making room by evicting colder ones. `header` is the whole block's.
    /// Goes on when the future is dropped: the slot here, and `keep`, which holds the host slot `from`, belong to the promotion
    /// until the device is done (INV-8).
    pub fn promote(
        self: &Arc<Self>,
        piece: Piece,
        header: SlotHeader,
        space: u32,
        from: Slot,
        keep: Keep,
    ) -> BoxFuture<Promotion> {
        let fresh =
            Fresh { block: header.block, space, key: header.key.clone(), parent: header.parent, length: header.length };
        let reserved = self.claim(piece, &fresh);
        self.teller.tell();
        let refused = match reserved {
            Reserve::Write(claim) => return self.upload(piece, claim, header, from, keep),
            Reserve::Duplicate | Reserve::PartTaken => Promotion::Duplicate,
            Reserve::Declined(why) => Promotion::Declined(why),
            Reserve::Disagrees(_) => Promotion::Declined(Decline::UnderWay),
        };
        Box::pin(ready(refused))
    }

    /// A slot for a piece, making room by evicting colder ones. To be told of by the caller, and ended with `settle`. Blocks of
    /// a chain are equally long, or a child does not find its parent and is declined.
    fn claim(&self, piece: Piece, fresh: &Fresh) -> Reserve {
        let now = self.clock.now();
        let plan = PutPlan {
            block: piece.id_in(fresh.block, fresh.length),
            space: fresh.space,
            domain: piece.gpu,
            key: fresh.key.clone(),
            parent: fresh.parent.map(|parent| piece.id_in(parent, fresh.length)),
            part_bytes: vec![piece.bytes],
            part: 0,
            deadline: now.after(PROMOTION_PATIENCE),
        };
        let origin = Origin { gpu: piece.gpu, block: fresh.block, parent: fresh.parent };
        let mut kept = self.kept();
        let (reserved, news) = kept.reserve(now, plan, origin);
        self.teller.note(news);
        reserved
    }

    fn upload(
        self: &Arc<Self>,
        piece: Piece,
        claim: PartClaim,
        header: SlotHeader,
        from: Slot,
        keep: Keep,
    ) -> BoxFuture<Promotion> {
        let header = SlotHeader { generation: GENERATION, ..header };
        let (block, whole) = (header.block, (header.length, header.crc));
        let store = Store { from, to: claim.slot, header };
        let uploaded = self.tier.upload(Upload { store, piece: (piece.offset, piece.bytes) }, keep);
        let pool = Arc::clone(self);
        self.run("hbm promote", async move {
            let (outcome, crc) = uploaded.await.pop().unwrap_or((StoreOutcome::Failed(TierError::Closed), 0));
            let written = outcome == StoreOutcome::Written;
            let visible = pool.settle(piece.gpu, &claim, block, written.then_some((crc, whole)));
            match outcome {
                StoreOutcome::Written if visible => Promotion::Stored,
                StoreOutcome::Written => Promotion::GivenUp,
                StoreOutcome::Corrupt(why) => Promotion::Corrupt(why),
                StoreOutcome::Failed(error) => Promotion::Failed(error),
            }
        })
    }

    /// Ends a claim of a copy of a block: it is found from now on, with its own checksum and the block's length and checksum, or
    /// given up. Whether it is found.
    fn settle(&self, gpu: u8, claim: &PartClaim, block: BlockId, written: Option<(u32, (u32, u32))>) -> bool {
        let now = self.clock.now();
        let visible = {
            let mut kept = self.kept();
            let news = match written {
                Some((crc, whole)) => kept.finish(now, claim, crc, whole),
                None => {
                    kept.give_up(now, claim);
                    None
                }
            };
            let visible = news.is_some();
            self.teller.note(news.into_iter().flatten());
            visible
        };
        self.teller.tell();
        if let Some(cause) = self.tier.lost(gpu.into()) {
            // It may have come behind the others' end.
            self.lose(gpu, &cause);
        }
        if visible {
            self.grant(block, claim.block);
            self.stores.fetch_add(1, Ordering::Relaxed);
        }
        visible
    }

    /// Holds this piece of the longest prefix of `chain` of which it is in the pool, of blocks with the length and checksum the
    /// engine knows.
    pub fn hold(&self, piece: Piece, chain: &[(BlockId, u32, u32)]) -> Vec<Hold> {
        let now = self.clock.now();
        let ids: Vec<BlockId> = chain.iter().map(|(block, length, _)| piece.id_in(*block, *length)).collect();
        let mut kept = self.kept();
        let found = kept.catalog.lookup(&ids, &mut Vec::new());
        let mut held = Vec::with_capacity(found);
        for ((block, length, crc), id) in chain.iter().zip(ids).take(found) {
            let LoadPlan::Resident(copy) = kept.catalog.begin_load_block(now, id) else { break };
            // The catalog itself knows whole blocks.
            let known = match piece.is_whole(*length) {
                true => Some((copy.length, copy.crc)),
                false => kept.places.whole_of(id),
            };
            if known != Some((*length, *crc)) {
                let _ = kept.catalog.unhold(copy.index);
                self.teller.note(kept.delete(now, id));
                break;
            }
            let expect = Expect { block: *block, length: copy.length, crc: copy.crc, generation: GENERATION };
            held.push(Hold { kept: Arc::clone(&self.kept), index: copy.index, id, slot: copy.slot, expect });
        }
        drop(kept);
        self.teller.tell();
        self.hits.fetch_add(held.len() as u64, Ordering::Relaxed);
        held
    }

    /// Whether this piece of a block of that length, which was just used, is worth a place: it was used lately, or the block is
    /// wished for.
    pub fn wants(&self, piece: Piece, block: BlockId, length: u32) -> bool {
        let now = self.clock.now();
        let mut warmth = self.warmth();
        warmth.wishes.retain(|_, wish| wish.deadline > now);
        let again = warmth.seen.note(piece.id_in(block, length).0 as u64);
        again || warmth.wishes.values().any(|wish| wish.blocks.contains(&block))
    }

    /// Blocks to be promoted when they are used next, and pinned until the deadline; those that are here are pinned now. A
    /// wish of that name is replaced. False: there are too many, and nothing is pinned.
    pub fn wish(&self, space: u32, name: &str, blocks: &[BlockId], ttl: Duration) -> bool {
        let now = self.clock.now();
        self.unpin(space, name);
        {
            let mut warmth = self.warmth();
            warmth.wishes.retain(|_, wish| wish.deadline > now);
            let wished: usize = warmth.wishes.values().map(|wish| wish.blocks.len()).sum();
            if warmth.wishes.len() >= PINS_MAX as usize || wished + blocks.len() > WISHED_MAX {
                return false;
            }
            let wish = Wish { deadline: now.after(ttl), blocks: blocks.iter().copied().collect() };
            warmth.wishes.insert((space, name.to_owned()), wish);
        }
        if let Err(why) = self.pin(space, name, blocks, ttl) {
            tracing::debug!(name, ?why, "blocks in GPU memory are not pinned");
        }
        true
    }

    /// Pins a copy that has just come for every wish that names its block.
    fn grant(&self, block: BlockId, id: BlockId) {
        let wishes: Vec<_> = {
            let warmth = self.warmth();
            let named = warmth.wishes.iter().filter(|(_, wish)| wish.blocks.contains(&block));
            named.map(|(name, _)| name.clone()).collect()
        };
        for (space, name) in wishes {
            let mut kept = self.kept();
            let Some(copy) = kept.catalog.peek(id) else { return };
            // A pin that has just ended keeps nothing.
            let pinned = kept.catalog.pin_also(space, &name, copy.index, self.pin_bytes_max);
            if let Err(why) = pinned {
                tracing::debug!(name, ?why, "a block in GPU memory is not pinned");
            }
        }
    }

    /// Blocks found here, and blocks taken in, so far.
    pub fn counters(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.stores.load(Ordering::Relaxed))
    }

    fn warmth(&self) -> MutexGuard<'_, Warmth> {
        self.warmth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a held block into a host slot of the caller and verifies it there. Goes on when the future is dropped; `keep`
    /// owns the host slot. A copy that does not verify is forgotten.
    pub fn demote(self: &Arc<Self>, held: Hold, into: Slot, keep: Keep) -> BoxFuture<LoadOutcome> {
        let (from, expect, id) = (held.slot, held.expect, held.id);
        let loaded = self.tier.load_keeping(Load { from, into, expect }, Box::new((held, keep)));
        let pool = Arc::clone(self);
        self.run("hbm demote", async move {
            let outcome = loaded.await.pop().unwrap_or(LoadOutcome::Failed(TierError::Closed));
            if matches!(outcome, LoadOutcome::Corrupt(_)) {
                pool.forget_corrupt_copy(id, expect.crc);
            }
            outcome
        })
    }

    /// Copies a block into a host slot, if it is here with these bytes, and verifies it there. Goes on when the future is
    /// dropped.
    pub fn fetch(self: &Arc<Self>, expect: &Expect, into: Slot) -> Option<BoxFuture<Fetched>> {
        let block = [(expect.block, expect.length, expect.crc)];
        let gpus = 0..u8::try_from(self.tier.device_count()).unwrap_or(u8::MAX);
        let held = gpus.into_iter().find_map(|gpu| self.hold(Piece::whole(gpu, expect.length), &block).pop())?;
        let written = Arc::new(());
        let writes = Arc::downgrade(&written);
        let demoted = self.demote(held, into, Box::new(written));
        Some(Box::pin(async move {
            match demoted.await {
                LoadOutcome::Verified => Fetched::Verified,
                _ if writes.strong_count() == 0 => Fetched::Not,
                _ => Fetched::Stuck,
            }
        }))
    }

    /// Runs something to its end, whoever goes away, and tells who is still there.
    fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<T> {
        let (sender, receiver) = oneshot::channel();
        let task = async move {
            // A caller who has gone away does not care.
            sender.send(work.await).ok();
        };
        self.spawn.spawn(name, Box::pin(task));
        Box::pin(async move {
            match receiver.await {
                Ok(outcome) => outcome,
                // The runtime is gone, and everything with it.
                Err(_) => pending().await,
            }
        })
    }

    /// Holds blocks under a name for so long; a pin of that name is replaced. Those that are not here are left out.
    pub fn pin(&self, space: u32, name: &str, blocks: &[BlockId], ttl: Duration) -> Result<u64, PinError> {
        let now = self.clock.now();
        let mut kept = self.kept();
        let copies = blocks.iter().flat_map(|block| kept.places.of(*block));
        let here: Vec<_> = copies.filter_map(|id| Some(kept.catalog.peek(id)?.index)).collect();
        kept.catalog.pin(now, space, name, &here, now.after(ttl), self.pin_bytes_max)
    }

    /// Ends a pin; false: there is none of that name.
    pub fn unpin(&self, space: u32, name: &str) -> bool {
        self.warmth().wishes.remove(&(space, name.to_owned()));
        self.kept().catalog.unpin(space, name).is_some()
    }

    /// The engine has removed the block: nobody finds it here any more, and its slot is free when nobody holds it.
    pub fn forget(&self, block: BlockId) {
        self.forget_all(&[block]);
    }

    /// The same for many.
    pub fn forget_all(&self, blocks: &[BlockId]) {
        let now = self.clock.now();
        let mut kept = self.kept();
        let copies: Vec<_> = blocks.iter().flat_map(|block| kept.places.of(*block)).collect();
        for id in copies {
            self.teller.note(kept.delete(now, id));
        }
        drop(kept);
        self.teller.tell();
    }

    /// This piece of a block of that length and checksum does not verify: nobody finds it any more, and it is counted.
    pub fn forget_corrupt(&self, piece: Piece, block: BlockId, whole: (u32, u32)) {
        let id = piece.id_in(block, whole.0);
        let crc = {
            let kept = self.kept();
            let copy = kept.catalog.peek(id).filter(|_| kept.places.whole_of(id) == Some(whole));
            copy.map(|copy| kept.catalog.crc_of(copy.index))
        };
        if let Some(crc) = crc {
            self.forget_corrupt_copy(id, crc);
        }
    }

    /// A copy that is known by this checksum does not verify.
    fn forget_corrupt_copy(&self, id: BlockId, crc: u32) {
        let now = self.clock.now();
        let mut kept = self.kept();
        self.teller.note(kept.condemn(now, id, crc));
        drop(kept);
        self.teller.tell();
    }

    /// A GPU is lost with its pool.
    fn lose(&self, gpu: u8, cause: &str) {
        let now = self.clock.now();
        let mut kept = self.kept();
        self.teller.note([PoolNews::Lost { gpu, cause: cause.to_owned() }]);
        kept.lose(now, gpu);
        drop(kept);
        self.teller.tell();
    }

    /// What all pools hold.
    pub fn count(&self) -> TierCount {
        self.kept().catalog.count().host
    }

    /// What is kept, with what is past its deadline ended.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        let now = self.clock.now();
        let mut kept = lock(&self.kept);
        while kept.catalog.next_deadline().is_some_and(|deadline| deadline <= now) {
            kept.catalog.expire(now);
        }
        kept
    }
}
