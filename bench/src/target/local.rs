//! `local` and `host`: a worker on the daemon's machine, blocks written and read in the daemon's own memory.
//!
//! A put reserves slots, copies the payload into them and commits; a get acquires the chain, and the consumer reads it in
//! place. Reading a chain in pieces while its end was on its way was tried: 0.70 to 0.84 of fio instead of 0.93, because on
//! two cores the reader takes the time of those who verify the next piece. Every session is a client of its own.

use bytes::Bytes;
use kvtier_client::local::{AcquireChain, Committed, Committing, Lengths, ReserveChain, Slot};
use kvtier_client::{DeclineReason, Durability, LocalClient, LocalOptions, SpaceDigest, word};

use super::node::{Node, TENANT};
use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};

/// Bytes reserved at a time: enough to hide the round trip, and a chain may be larger than a client may hold.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Bytes committed at a time: few enough that they are still in a cache when the daemon sums them.
const COMMIT_BYTES: usize = 2 << 20;

/// The local path of one daemon.
pub struct Local {
    node: Node,
    name: &'static str,
    durable: bool,
}

impl Local {
    /// Over all tiers.
    pub fn open(setup: &Setup) -> Result<Self, Failure> {
        Ok(Self { node: Node::open(setup, true)?, name: "local", durable: setup.durable })
    }

    /// Everything resident: no NVMe tier, and an arena for all of the data.
    pub fn resident(setup: &Setup) -> Result<Self, Failure> {
        // Slots do not fill extents exactly.
        let memory_bytes = setup.memory_bytes.max(setup.data_bytes / 4 * 5);
        let node = Node::open(&Setup { memory_bytes, ..setup.clone() }, false)?;
        Ok(Self { node, name: "host", durable: false })
    }
}

impl Target for Local {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn guarantees(&self) -> String {
        let durable = if self.durable { "puts wait until synced" } else { "puts are volatile until written back" };
        format!(
            "CRC-32 of every block, kept and checked on every move between tiers; {durable}; LRU-like eviction; tenants"
        )
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.node.facts()
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, Failure> {
        self.node.counters()
    }

    fn session(&self, lane: usize) -> Result<Box<dyn Session>, Failure> {
        let socket = self.node.places().local.as_ref().ok_or("the daemon has no local path; set its local.socket")?;
        let client = LocalClient::connect(socket, LocalOptions::writer(format!("lane {lane}"), TENANT))?;
        let durability = if self.durable { Durability::Durable } else { Durability::Volatile };
        Ok(Box::new(LocalSession { client, space: self.node.space(), durability }))
    }

    fn settle(&self) -> Result<(), Failure> {
        self.node.settle()
    }

    fn chill(&self) -> Result<(), Failure> {
        self.node.chill()
    }
}

struct LocalSession {
    client: LocalClient,
    space: SpaceDigest,
    durability: Durability,
}

impl LocalSession {
    fn put_batch(&self, parent: Option<&Bytes>, blocks: &[Put], tally: &mut PutTally) -> Result<(), Failure> {
        let keys: Vec<&Bytes> = blocks.iter().map(|block| &block.key).collect();
        let lengths: Vec<u32> = blocks.iter().map(|block| block.bytes.len() as u32).collect();
        let wanted = ReserveChain {
            parent: parent.map(AsRef::as_ref),
            lengths: Lengths::Each(&lengths),
            durability: self.durability,
            ..ReserveChain::new(self.space, &keys, 0)
        };
        let (mut written, mut bytes, mut under_way) = (Vec::new(), 0, Vec::new());
        for (slot, block) in self.client.reserve(&wanted)?.into_iter().zip(blocks) {
            match slot {
                Slot::Write(mut reservation) => {
                    reservation.copy_from_slice(&block.bytes);
                    written.push(reservation);
                }
                Slot::Duplicate(_) => tally.duplicate += 1,
                Slot::Declined { reason: DeclineReason::UnderWay, .. } => tally.duplicate += 1,
                Slot::Declined { .. } => tally.declined += 1,
                Slot::Rejected(why) => return Err(format!("a block was rejected: {why}").into()),
            }
            bytes += block.bytes.len();
            if bytes >= COMMIT_BYTES {
                // The daemon sums these while the next ones are written.
                under_way.push(self.client.begin_commit(std::mem::take(&mut written))?);
                bytes = 0;
            }
        }
        under_way.push(self.client.begin_commit(written)?);
        let committed = under_way.into_iter().map(Committing::wait).collect::<Result<Vec<_>, _>>()?;
        for committed in committed.into_iter().flatten() {
            match committed {
                Committed::Stored { .. } | Committed::PartAccepted => tally.stored += 1,
                Committed::Duplicate => tally.duplicate += 1,
                Committed::Declined { .. } => tally.declined += 1,
                Committed::Rejected(why) => return Err(format!("a commit was rejected: {why}").into()),
            }
        }
        Ok(())
    }
}

impl Session for LocalSession {
    fn put(&mut self, parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        let (mut tally, mut parent, mut rest) = (PutTally::default(), parent, blocks);
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|block| {
                bytes += block.bytes.len();
                bytes <= BATCH_BYTES_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            self.put_batch(parent, now, &mut tally)?;
            parent = now.last().map(|block| &block.key);
            rest = later;
        }
        Ok(tally)
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        let wanted = AcquireChain { stage: false, ..AcquireChain::new(self.space, keys) };
        Ok(self.client.acquire(&wanted)?.len())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        let acquired = self.client.acquire(&AcquireChain::new(self.space, keys))?;
        for index in 0..acquired.len() {
            if let Some(bytes) = acquired.bytes(index) {
                consumer.bytes(index, bytes);
            }
        }
        if let Some(miss) = &acquired.miss {
            consumer.missed(word::miss_reason(miss.reason));
        }
        match acquired.all_intact() {
            true => Ok(()),
            false => Err("a lease ended before its blocks were read: the machine was stopped for seconds".into()),
        }
    }
}
