//! `nvme`: the NVMe tier in this process, without the daemon: io_uring, headers, checksums, nothing above them.
//!
//! A put copies the payload into a slot of the lane's own and stores it; a get loads into the same slots and the consumer
//! reads them there. So every get comes from the disk, whatever was asked for before. Where a block is stands in a table of
//! this process; slots are given out in order and never reused, so a full file declines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{Load, LoadOutcome, Memory, Store, StoreOutcome, Tier};
use kvtier_identity::{BlockId, Key, SpaceDigest};
use tokio::runtime::Runtime;

use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};
use crate::nvme::Rig;

/// Blocks of one call of the tier, and slots of a lane.
const BATCH_BLOCKS: usize = 8;
/// What a file has besides its slots.
const SPARE_BYTES: u64 = 256 << 20;

/// Where blocks are, and where the next one goes.
#[derive(Debug, Default)]
struct Table {
    blocks: BTreeMap<Bytes, (Slot, SlotHeader)>,
    next: usize,
}

/// The tier and its disk.
pub struct Nvme {
    runtime: Arc<Runtime>,
    rig: Arc<Rig>,
    places: Arc<[Slot]>,
    table: Arc<Mutex<Table>>,
    slot_bytes: u32,
}

impl Nvme {
    /// A fresh file in the run's folder.
    pub fn open(setup: &Setup) -> Result<Self, Failure> {
        if setup.durable || setup.endpoint.is_some() {
            return Err(
                "target=nvme is the tier alone, in this process: it keeps no index, so sync=1 and endpoint mean \
                        nothing; use target=local"
                    .into(),
            );
        }
        let slot_bytes = slot_bytes(setup.block_bytes_max);
        let lanes_bytes = setup.lanes as u64 * BATCH_BLOCKS as u64 * u64::from(slot_bytes);
        let file_bytes = (setup.data_bytes / 8 * 10).next_multiple_of(1 << 20) + SPARE_BYTES;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let rig = runtime.block_on(Rig::open(&setup.folder, file_bytes, lanes_bytes, true));
        let rig = rig.map_err(|error| error.to_string())?;
        let places = rig.places(slot_bytes).into();
        Ok(Self { runtime: Arc::new(runtime), rig: Arc::new(rig), places, table: Arc::default(), slot_bytes })
    }
}

impl Target for Nvme {
    fn name(&self) -> String {
        "nvme".to_owned()
    }

    fn guarantees(&self) -> String {
        "the NVMe tier alone: CRC-32 and a header for every block, checked on every load; no index, no eviction"
            .to_owned()
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("memory".to_owned(), self.rig.memory_detail()), ("disk".to_owned(), self.rig.disk_detail())]
    }

    fn session(&self, lane: usize) -> Result<Box<dyn Session>, Failure> {
        let first = (lane * BATCH_BLOCKS) as u64;
        let slot = |at| Slot { device: 0, offset: (first + at) * u64::from(self.slot_bytes), bytes: self.slot_bytes };
        Ok(Box::new(NvmeSession {
            runtime: Arc::clone(&self.runtime),
            rig: Arc::clone(&self.rig),
            places: Arc::clone(&self.places),
            table: Arc::clone(&self.table),
            slots: (0..BATCH_BLOCKS as u64).map(slot).collect(),
        }))
    }

    /// Nothing is ever in memory.
    fn chill(&self) -> Result<(), Failure> {
        Ok(())
    }
}

struct NvmeSession {
    runtime: Arc<Runtime>,
    rig: Arc<Rig>,
    places: Arc<[Slot]>,
    table: Arc<Mutex<Table>>,
    slots: Vec<Slot>,
}

impl NvmeSession {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().expect("nobody panics with the table")
    }

    fn put_batch(&self, blocks: &[Put], tally: &mut PutTally) -> Result<(), Failure> {
        let memory = self.rig.memory();
        let (mut stores, mut placed) = (Vec::with_capacity(blocks.len()), Vec::with_capacity(blocks.len()));
        for Put { key, bytes } in blocks {
            let to = {
                let mut table = self.table();
                if table.blocks.contains_key(key) {
                    tally.duplicate += 1;
                    continue;
                }
                let Some(to) = self.places.get(table.next).copied() else {
                    tally.declined += 1;
                    continue;
                };
                table.next += 1;
                to
            };
            let from = self.slots[stores.len()];
            memory.write(from, 0, bytes);
            let header = SlotHeader {
                block: BlockId(u128::from_be_bytes(key[..16].try_into()?)),
                space: SpaceDigest([0; 32]),
                key: Key::new(key)?,
                parent: None,
                length: bytes.len() as u32,
                crc: crc32fast::hash(bytes),
                generation: 1,
            };
            placed.push((key.clone(), to, header.clone()));
            stores.push(Store { from, to, header });
        }
        let outcomes = self.runtime.block_on(self.rig.tier().store(stores));
        for ((key, to, header), outcome) in placed.into_iter().zip(outcomes) {
            if outcome != StoreOutcome::Written {
                return Err(format!("a block was not written: {outcome:?}").into());
            }
            self.table().blocks.insert(key, (to, header));
            tally.stored += 1;
        }
        Ok(())
    }
}

impl Session for NvmeSession {
    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        let mut tally = PutTally::default();
        blocks.chunks(BATCH_BLOCKS).try_for_each(|batch| self.put_batch(batch, &mut tally))?;
        Ok(tally)
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        let table = self.table();
        Ok(keys.iter().take_while(|key| table.blocks.contains_key(*key)).count())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        let found: Vec<(Slot, SlotHeader)> = {
            let table = self.table();
            keys.iter().map_while(|key| table.blocks.get(key).cloned()).collect()
        };
        for (place, batch) in found.chunks(BATCH_BLOCKS).enumerate() {
            let loads = batch.iter().zip(&self.slots).map(|((from, header), into)| {
                let SlotHeader { block, length, crc, generation, .. } = *header;
                Load { from: *from, into: *into, expect: Expect { block, length, crc, generation } }
            });
            let outcomes = self.runtime.block_on(self.rig.tier().load(loads.collect()));
            for (at, (outcome, (_, header))) in outcomes.into_iter().zip(batch).enumerate() {
                if outcome != LoadOutcome::Verified {
                    return Err(format!("a block was not loaded: {outcome:?}").into());
                }
                let view = self.rig.memory().view(self.slots[at], 0, header.length, Box::new(()));
                consumer.bytes(place * BATCH_BLOCKS + at, &view);
            }
        }
        Ok(())
    }
}
