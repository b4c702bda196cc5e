//! What the fake keeps, and how it is told to misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use kvtier_client::{SpaceDescription, wire};
use tokio::sync::watch;
use tonic::Status;

pub type Address = (Vec<u8>, Vec<u8>);

/// The client a lease belongs to, and its blocks.
pub type Leased = (String, Vec<Address>);

/// One way to misbehave, until another is set.
#[derive(Clone, Default)]
pub enum Fault {
    #[default]
    None,
    /// Gets flip a bit of the block at this position.
    FlipBit(u32),
    /// Gets end after half of the first block.
    Truncate,
    /// Gets announce one byte less than they send.
    WrongLength,
    /// Gets answer the second block first.
    WrongOrder,
    /// Gets send the first answer and then nothing.
    StallAfterFirst,
    /// No call is answered.
    NeverAnswer,
    /// Every call is refused.
    Refuse(fn() -> Status),
    /// Puts read everything and report nothing.
    SwallowOutcomes,
    /// Puts are declined.
    Decline(wire::DeclineReason),
    /// Gets send another block's bytes, with the right checksum for them.
    Substitute,
}

/// Everything the fake knows.
pub struct Store {
    pub fault: Mutex<Fault>,
    pub frame_bytes: Mutex<usize>,
    pub spaces: Mutex<BTreeMap<String, SpaceDescription>>,
    pub blocks: Mutex<BTreeMap<Address, Bytes>>,
    pub parts: Mutex<BTreeMap<Address, BTreeMap<u32, Bytes>>>,
    pub leases: Mutex<BTreeMap<Vec<u8>, Leased>>,
    pub pins: Mutex<BTreeMap<(Vec<u8>, String), u32>>,
    pub notes: Mutex<Vec<(String, wire::RequestNote)>>,
    /// Names of the clients that called, in order, without repeats in a row.
    pub callers: Mutex<Vec<String>>,
    /// Where calls came from: one address per connection.
    pub peers: Mutex<BTreeSet<SocketAddr>>,
    /// The event log: position n is event n - 1.
    pub events: watch::Sender<Vec<wire::Event>>,
    pub epoch: Mutex<u64>,
    pub leases_granted: std::sync::atomic::AtomicUsize,
    pub open_gets: std::sync::atomic::AtomicUsize,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            fault: Mutex::default(),
            frame_bytes: Mutex::new(4 << 20),
            spaces: Mutex::default(),
            blocks: Mutex::default(),
            parts: Mutex::default(),
            leases: Mutex::default(),
            pins: Mutex::default(),
            notes: Mutex::default(),
            callers: Mutex::default(),
            peers: Mutex::default(),
            events: watch::channel(Vec::new()).0,
            epoch: Mutex::new(1),
            leases_granted: Default::default(),
            open_gets: Default::default(),
        }
    }
}

impl Store {
    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn fault(&self) -> Fault {
        self.fault.lock().unwrap().clone()
    }

    pub fn block(&self, address: &Address) -> Option<Bytes> {
        self.blocks.lock().unwrap().get(address).cloned()
    }

    pub fn publish(&self, kind: wire::event::Kind) {
        self.events.send_modify(|events| events.push(wire::Event { kind: Some(kind) }));
    }

    /// The sizes of the parts of a space, `None` when it is not open.
    pub fn part_bytes(&self, space: &[u8]) -> Option<Vec<u32>> {
        let spaces = self.spaces.lock().unwrap();
        let description = spaces.values().find(|known| known.digest().unwrap().0 == space)?;
        Some(description.parts.iter().map(|part| part.bytes).collect())
    }

    /// Takes one complete part and says what became of it.
    pub fn accept(&self, begin: wire::PutBegin, bytes: Bytes) -> wire::put_response::Outcome {
        use wire::put_response::Outcome;
        let reject = |field: &str, value: String, remedy: &str| {
            Outcome::Rejected(wire::PutRejected { field: field.into(), value, remedy: remedy.into() })
        };
        let decline = |reason: wire::DeclineReason, detail: &str| {
            Outcome::Declined(wire::Declined { reason: reason as i32, detail: detail.into() })
        };
        let Some(part_bytes) = self.part_bytes(&begin.space) else {
            return reject("space", format!("{:02x?}", &begin.space), "open it first");
        };
        if let Fault::Decline(reason) = self.fault() {
            return decline(reason, "told to");
        }
        if begin.crc32.is_some_and(|crc32| crc32 != crc32fast::hash(&bytes)) {
            return reject("crc32", format!("{:08x}", begin.crc32.unwrap()), "send what was summed");
        }
        let address = (begin.space.clone(), begin.key.clone());
        if self.block(&address).is_some() {
            return Outcome::Duplicate(wire::Duplicate {});
        }
        if begin.parent.as_ref().is_some_and(|parent| self.block(&(begin.space.clone(), parent.clone())).is_none()) {
            return decline(wire::DeclineReason::ParentUnknown, "its parent is not here");
        }
        let mut parts = self.parts.lock().unwrap();
        let have = parts.entry(address.clone()).or_default();
        have.insert(begin.part, bytes);
        if have.len() < part_bytes.len() {
            return Outcome::PartAccepted(wire::PartAccepted {});
        }
        let whole: Bytes = parts.remove(&address).unwrap().into_values().flatten().collect::<Vec<u8>>().into();
        let crc32 = crc32fast::hash(&whole);
        let (block, length) = (crc32fast::hash(&begin.key).to_le_bytes().repeat(4), whole.len() as u32);
        self.blocks.lock().unwrap().insert(address, whole);
        self.publish(wire::event::Kind::Stored(wire::BlockStored {
            space: begin.space,
            block,
            key: begin.key,
            parent_block: None,
            length,
            tier: wire::Tier::Host as i32,
            engine: String::new(),
        }));
        Outcome::Stored(wire::Stored { crc32, durability: begin.durability })
    }
}
