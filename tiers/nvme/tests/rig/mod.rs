//! A tier over heap disks, and everything around it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test file uses its own part")]

use std::sync::{Arc, Mutex};

use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{Load, LoadOutcome, Memory, Store, StoreOutcome, Tier, TierError, Verify};
use kvtier_identity::{BlockId, Key, SpaceDigest};
use kvtier_nvme::fake::{HandClock, HeapDisk, HeapMemory, Tasks};
use kvtier_nvme::{
    DeviceSource, NodeId, NvmeSettings, NvmeTier, OpenError, Ports, Presence, layout::FIRST_EXTENT_OFFSET,
    scratch_bytes,
};

pub const NODE: NodeId = NodeId([7; 16]);
pub const MIB: u64 = 1 << 20;
pub const EXTENT: u64 = 256 << 10;

/// A presence that a test switches off.
#[derive(Default)]
pub struct Switch(Mutex<(Option<String>, usize)>);

impl Switch {
    pub fn lose(&self, cause: &str) {
        self.0.lock().unwrap().0 = Some(cause.into());
    }

    pub fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Presence for Switch {
    fn check(&self) -> Result<(), String> {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        state.0.clone().map_or(Ok(()), Err)
    }
}

pub struct Rig {
    pub tasks: Tasks,
    pub clock: HandClock,
    pub memory: Arc<HeapMemory>,
    pub disks: Vec<Arc<HeapDisk>>,
    pub presence: Arc<Switch>,
    pub tier: NvmeTier,
}

/// Files of `mib` MiB with small extents.
pub fn settings(disks: usize, mib: u64) -> NvmeSettings {
    NvmeSettings {
        paths: (0..disks).map(|at| format!("nvme-{at}.blocks").into()).collect(),
        bytes: mib * MIB,
        extent_bytes: EXTENT,
        ..NvmeSettings::default()
    }
}

pub fn open(
    tasks: &Tasks,
    clock: &HandClock,
    disks: &[Arc<HeapDisk>],
    memory: &Arc<HeapMemory>,
    presence: &Arc<Switch>,
    settings: &NvmeSettings,
    node: NodeId,
) -> Result<NvmeTier, OpenError> {
    let sources = disks.iter().zip(&settings.paths).map(|(disk, path)| DeviceSource {
        path: path.clone(),
        disk: disk.clone(),
        presence: presence.clone(),
    });
    let sources: Vec<_> = sources.collect();
    let ports = Ports {
        memory: memory.clone(),
        scratch: Arc::new(HeapMemory::of_bytes(scratch_bytes(disks.len()))),
        clock: Arc::new(clock.clone()),
        spawn: Arc::new(tasks.clone()),
    };
    let settings = settings.clone();
    tasks.run(async move { NvmeTier::open(&settings, node, sources, ports).await })
}

impl Rig {
    pub fn new() -> Self {
        Self::with(1, settings(1, 8))
    }

    pub fn with(seed: u64, settings: NvmeSettings) -> Self {
        let clock = HandClock::default();
        let tasks = Tasks::new(seed, clock.clone());
        let disks: Vec<_> = settings.paths.iter().map(|_| Arc::new(HeapDisk::of_bytes(settings.bytes))).collect();
        let memory = Arc::new(HeapMemory::of_bytes(8 * MIB));
        let presence = Arc::new(Switch::default());
        let tier = open(&tasks, &clock, &disks, &memory, &presence, &settings, NODE).unwrap();
        disks.iter().for_each(|disk| drop(disk.take_submitted()));
        Self { tasks, clock, memory, disks, presence, tier }
    }

    pub fn disk(&self) -> &HeapDisk {
        &self.disks[0]
    }

    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.tasks.run(future)
    }

    pub fn host(&self, number: u64, length: u32) -> Slot {
        let bytes = slot_bytes(length);
        Slot { device: 0, offset: number * u64::from(bytes), bytes }
    }

    pub fn slot(&self, number: u64, length: u32) -> Slot {
        let bytes = slot_bytes(length);
        let extent_bytes = self.tier.geometry()[0].extent_bytes;
        let per_extent = extent_bytes / u64::from(bytes);
        let (extent, number) = (number / per_extent, number % per_extent);
        Slot { device: 0, offset: FIRST_EXTENT_OFFSET + extent * extent_bytes + number * u64::from(bytes), bytes }
    }

    pub fn plan(&self, seed: u64, generation: u64, length: u32, from: Slot, to: Slot) -> Store {
        let bytes = payload(seed, length);
        self.memory.write(from, 0, &bytes);
        Store { from, to, header: header(seed, generation, &bytes) }
    }

    /// Stores block `seed` to the slot of the same number.
    pub fn put(&self, seed: u64, generation: u64, length: u32) -> (Slot, Expect) {
        let to = self.slot(seed, length);
        let store = self.plan(seed, generation, length, self.host(0, length), to);
        let expect = expect(&store.header);
        assert_eq!(self.run(self.tier.store(vec![store])), [StoreOutcome::Written]);
        (to, expect)
    }

    pub fn load(&self, from: Slot, expect: Expect) -> LoadOutcome {
        let into = self.host(1, from.payload_bytes_max());
        self.run(self.tier.load(vec![Load { from, into, expect }])).pop().unwrap()
    }

    pub fn verify(&self, at: Slot, expect: Expect) -> LoadOutcome {
        self.run(self.tier.verify(vec![Verify { at, expect }])).pop().unwrap()
    }

    pub fn sync(&self) -> Result<(), TierError> {
        self.run(self.tier.sync(vec![0]))
    }
}

pub fn payload(seed: u64, length: u32) -> Vec<u8> {
    (0..u64::from(length)).map(|at| ((at + 1).wrapping_mul(seed * 2 + 0x9e37_79b9) >> 13) as u8).collect()
}

pub fn header(seed: u64, generation: u64, payload: &[u8]) -> SlotHeader {
    SlotHeader {
        block: BlockId(u128::from(seed) + 1000),
        space: SpaceDigest([3; 32]),
        key: Key::new(&seed.to_be_bytes()).unwrap(),
        parent: None,
        length: payload.len() as u32,
        crc: crc32fast::hash(payload),
        generation,
    }
}

pub fn expect(header: &SlotHeader) -> Expect {
    Expect { block: header.block, length: header.length, crc: header.crc, generation: header.generation }
}
