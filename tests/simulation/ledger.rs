//! What the outside world knows: which bytes belong to which key, and what was promised.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use kvtier_engine::flow::ask::Got;
use kvtier_identity::{Key, SpaceDescription};

/// Chains of the key universe, and blocks in each.
pub(crate) const CHAINS: usize = 4;
pub(crate) const DEPTH: usize = 6;
/// Two tenants that use the same keys.
pub(crate) const TENANTS: [&str; 2] = ["acme", "zorro"];

/// Names one block of the universe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) tenant: usize,
    pub(crate) chain: usize,
    pub(crate) depth: usize,
}

/// Promises made by the node.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged durable and never deleted since.
    pub(crate) durable: BTreeSet<Name>,
    /// Deletions begun, and those under way: a put that overlaps one promises nothing.
    deletions: BTreeMap<Name, (u64, u32)>,
    /// What was seen, so that a run in which nothing happens is noticed.
    pub(crate) seen: Seen,
}

/// How often things happened.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) stored: u64,
    pub(crate) durable: u64,
    pub(crate) declined: u64,
    pub(crate) hits_host: u64,
    pub(crate) hits_nvme: u64,
    pub(crate) misses: u64,
    pub(crate) cancelled: u64,
    pub(crate) crashes: u64,
    pub(crate) survivors: u64,
    pub(crate) repairs: u64,
    pub(crate) refusals: u64,
    /// Blocks acquired in place, and those found overwritten once their lease had ended.
    pub(crate) acquired: u64,
    pub(crate) outlived: u64,
    /// Steps in which one tenant worked alone and another's domain was watched.
    pub(crate) watched: u64,
}

impl Name {
    pub(crate) fn key(self) -> Key {
        Key::new(format!("c{}d{}", self.chain, self.depth).as_bytes()).expect("a few bytes")
    }

    pub(crate) fn parent(self) -> Option<Self> {
        (self.depth > 0).then(|| Self { depth: self.depth - 1, ..self })
    }

    /// The one content this block can have: other tenants and other keys have other bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let number = (self.tenant * CHAINS + self.chain) * DEPTH + self.depth + 1;
        let length = 700 + (number * 2311) % 11_000;
        (0..length).map(|at| ((at.wrapping_mul(number * 2 + 1) >> 3) ^ (number * 37)) as u8).collect()
    }

    /// The block and its ancestors, first to last.
    pub(crate) fn chain_to(self) -> Vec<Self> {
        (0..=self.depth).map(|depth| Self { depth, ..self }).collect()
    }
}

pub(crate) fn all_names() -> impl Iterator<Item = Name> {
    (0..TENANTS.len() * CHAINS * DEPTH).map(|at| Name {
        tenant: at / (CHAINS * DEPTH),
        chain: at / DEPTH % CHAINS,
        depth: at % DEPTH,
    })
}

pub(crate) fn description(tenant: usize) -> SpaceDescription {
    SpaceDescription::single_part(TENANTS[tenant], "model", 16, 12 << 10)
}

/// A deletion under way. It may take effect at any moment until it is dropped.
pub(crate) struct Deletion {
    ledger: Rc<RefCell<Ledger>>,
    name: Name,
}

impl Deletion {
    pub(crate) fn begin(ledger: &Rc<RefCell<Ledger>>, name: Name) -> Self {
        let mut book = ledger.borrow_mut();
        book.forget(name);
        let (begun, under_way) = book.deletions.entry(name).or_default();
        *begun += 1;
        *under_way += 1;
        Self { ledger: Rc::clone(ledger), name }
    }
}

impl Drop for Deletion {
    fn drop(&mut self) {
        let mut book = self.ledger.borrow_mut();
        book.forget(self.name);
        book.deletions.entry(self.name).or_default().1 -= 1;
    }
}

impl Ledger {
    /// Deletions of the block and of its ancestors, begun and under way. Taken before a put begins.
    pub(crate) fn deletions_of(&self, name: Name) -> (u64, u32) {
        let deletions = name.chain_to().into_iter().filter_map(|name| self.deletions.get(&name));
        deletions.fold((0, 0), |sum, deletion| (sum.0 + deletion.0, sum.1 + deletion.1))
    }

    /// A deleted block is not promised any more, nor is what can only be reached through it.
    fn forget(&mut self, deleted: Name) {
        self.durable.retain(|name| !name.chain_to().contains(&deleted));
    }

    /// The node acknowledged a put as durable. It stays promised unless a deletion overlapped the put.
    pub(crate) fn promise(&mut self, name: Name, before: (u64, u32)) {
        self.seen.durable += 1;
        if before.1 == 0 && self.deletions_of(name) == before {
            self.durable.insert(name);
        }
    }

    /// INV-1: right bytes or a miss.
    pub(crate) fn check_got(&mut self, name: Name, got: &Got) -> Result<(), String> {
        match got {
            Got::Block { bytes, crc, tier } => {
                if bytes[..] != name.bytes()[..] || *crc != crc32fast::hash(bytes) {
                    return Err(format!("INV-1: a get of {name:?} returned other bytes"));
                }
                match tier {
                    kvtier_engine::place::TierKind::Nvme => self.seen.hits_nvme += 1,
                    _ => self.seen.hits_host += 1,
                }
            }
            Got::Miss(_) => self.seen.misses += 1,
        }
        Ok(())
    }
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.durable += other.durable;
        self.declined += other.declined;
        self.hits_host += other.hits_host;
        self.hits_nvme += other.hits_nvme;
        self.misses += other.misses;
        self.cancelled += other.cancelled;
        self.crashes += other.crashes;
        self.survivors += other.survivors;
        self.repairs += other.repairs;
        self.refusals += other.refusals;
        self.acquired += other.acquired;
        self.outlived += other.outlived;
        self.watched += other.watched;
    }

    /// Everything the simulation is for has happened.
    pub(crate) fn is_lively(&self) -> bool {
        [
            self.stored,
            self.durable,
            self.declined,
            self.hits_host,
            self.hits_nvme,
            self.misses,
            self.cancelled,
            self.crashes,
            self.survivors,
            self.acquired,
            self.outlived,
            self.watched,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}
