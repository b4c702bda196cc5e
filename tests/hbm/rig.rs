//! A tier on a simulated GPU, driven by hand: what happens next follows from the seed (INV-9).

use std::future::Future;
use std::sync::Arc;

use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::Memory;
use kvtier_hbm::conformance::{Dice, Ground, Shuttle};
use kvtier_hbm::gpu::{Gpu, HostArena, HostMemory, Place};
use kvtier_hbm::simulated::{Machine, Simulated};
use kvtier_hbm::{Drive, HbmSettings, HbmTier, PoolSize};
use kvtier_nvme::conformance::World;
use kvtier_nvme::fake::{HandClock, HeapMemory, Tasks};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) struct Rig {
    pub(crate) machine: Arc<Machine>,
    pub(crate) gpus: Vec<Arc<Simulated>>,
    pub(crate) memory: Arc<HeapMemory>,
    pub(crate) tier: HbmTier,
    pub(crate) clock: HandClock,
    pub(crate) seed: u64,
    pub(crate) tasks: Tasks,
}

pub(crate) fn settings(pool_bytes: u64) -> HbmSettings {
    HbmSettings { pool: PoolSize::Bytes(pool_bytes), extent_bytes: 256 << 10, ..HbmSettings::default() }
}

/// Host memory as it is registered. The simulated device reads no address.
pub(crate) fn arena(memory: &Arc<HeapMemory>) -> HostMemory {
    let bytes = memory.geometry()[0].bytes;
    let access = Arc::new(HostArena::new(memory.clone(), 0));
    HostMemory { address: 0, bytes, access, keep: Arc::new(()) }
}

impl Rig {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, 1, settings(16 * MIB))
    }

    pub(crate) fn with(seed: u64, gpu_count: u64, settings: HbmSettings) -> Self {
        let machine = Machine::new();
        let gpu = |number| Arc::new(Simulated::new(&machine, seed + number, 256 * MIB));
        let gpus: Vec<_> = (0..gpu_count).map(gpu).collect();
        let memory = Arc::new(HeapMemory::of_bytes(16 * MIB));
        let ports = gpus.iter().map(|gpu| Arc::clone(gpu) as Arc<dyn Gpu>).collect();
        let arenas = [arena(&memory)];
        let tier = HbmTier::open(&settings, ports, memory.clone(), &arenas, Drive::ByHand).expect("a simulated tier");
        let clock = HandClock::default();
        let tasks = Tasks::new(seed, clock.clone());
        Self { machine, gpus, memory, tier, clock, seed, tasks }
    }

    pub(crate) fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let mut dice = Dice::new(self.seed);
        self.tasks.run_with(future, || self.tier.step(dice.below(1 << 20)))
    }

    /// Lets everything that was begun come to its end.
    pub(crate) fn settle(&self) {
        let mut dice = Dice::new(self.seed + 1);
        self.tasks.run_ready();
        while self.tier.step(dice.below(1 << 20)) {
            self.tasks.run_ready();
        }
    }

    pub(crate) fn ground(&self) -> Ground {
        let gpu = Arc::clone(&self.gpus[0]) as Arc<dyn Gpu>;
        Ground { gpu, tier: self.tier.clone(), memory: self.memory.clone(), seed: self.seed }
    }

    pub(crate) fn world(&self) -> World {
        let (tier, gpus) = (self.tier.clone(), self.gpus.clone());
        let damage = move |slot: Slot, at: u32| {
            let gpu = Arc::clone(&gpus[usize::from(slot.device)]) as Arc<dyn Gpu>;
            let memory = tier.pool_memory(slot.device).expect("the GPU has a pool");
            let place = Place { memory, offset: slot.offset + u64::from(at) };
            Shuttle::new(&gpu).and_then(|shuttle| shuttle.damage(place)).expect("damage is done");
        };
        World { tier: Arc::new(self.tier.clone()), memory: self.memory.clone(), damage: Box::new(damage) }
    }

    pub(crate) fn assert_nothing_was_touched_after_its_release(&self) {
        for gpu in &self.gpus {
            assert_eq!(gpu.released_in_use(), 0, "INV-8, seed {}", self.seed);
        }
    }
}

/// The `number`th host slot for payloads of one length.
pub(crate) fn slot(number: u64, length: u32) -> Slot {
    Slot { device: 0, offset: number * u64::from(slot_bytes(length)), bytes: slot_bytes(length) }
}
