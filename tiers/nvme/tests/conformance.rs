//! Every tier of this crate against the port's conformance suite.

mod rig;

use std::sync::Arc;

use kvtier_engine::place::Slot;
use kvtier_nvme::NvmeSettings;
use kvtier_nvme::conformance::{CHECKS, World};
use kvtier_nvme::fake::{HandClock, HeapMemory, MemoryTier, Tasks};
use kvtier_nvme::layout::geometry;
use rig::{MIB, Rig, settings};

fn world_of(rig: &Rig) -> World {
    let disks = rig.disks.clone();
    let damage = move |slot: Slot, at: u32| {
        disks[usize::from(slot.device)].edit(|bytes| bytes[(slot.offset + u64::from(at)) as usize] ^= 1);
    };
    World { tier: Arc::new(rig.tier.clone()), memory: rig.memory.clone(), damage: Box::new(damage) }
}

#[test]
fn the_nvme_tier_conforms_in_any_order_of_its_tasks() {
    for seed in 0..12 {
        for (name, check) in CHECKS {
            let disks = 1 + seed as usize % 3;
            // The suite provokes more errors than a breaker would allow.
            let settings = NvmeSettings { breaker_errors: 10_000, ..settings(disks, 4) };
            let rig = Rig::with(seed, settings);
            println!("seed {seed}, {disks} disks: {name}");
            rig.run(check(world_of(&rig)));
        }
    }
}

#[test]
fn the_nvme_tier_conforms_with_small_bounds() {
    for (name, check) in CHECKS {
        let settings =
            NvmeSettings { breaker_errors: 10_000, queue_ops: 30, scrub_bytes_per_second: 4096, ..settings(2, 4) };
        println!("{name}");
        let rig = Rig::with(3, settings);
        rig.run(check(world_of(&rig)));
    }
}

#[test]
fn the_memory_tier_conforms() {
    for (name, check) in CHECKS {
        println!("{name}");
        let memory = Arc::new(HeapMemory::of_bytes(4 * MIB));
        let tier = Arc::new(MemoryTier::new(memory.clone(), vec![geometry(4 * MIB, 256 << 10); 2]));
        let damaged = tier.clone();
        let damage = Box::new(move |slot, at| damaged.damage(slot, at));
        Tasks::new(1, HandClock::default()).run(check(World { tier, memory, damage }));
    }
}
