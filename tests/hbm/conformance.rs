//! The suite of the engine's `Tier` port, which NVMe runs too, and that of the GPU port.

use std::sync::Arc;

use kvtier_hbm::conformance::CHECKS as GPU_CHECKS;
use kvtier_hbm::gpu::Gpu;
use kvtier_hbm::simulated::{Machine, Simulated};
use kvtier_hbm::{Drive, HbmTier};
use kvtier_nvme::conformance::{CHECKS, World};
use kvtier_nvme::fake::HeapMemory;

use super::rig::{MIB, Rig, arena, settings};

#[test]
fn the_hbm_tier_conforms_in_any_order_of_events() {
    for seed in 0..8 {
        for (name, check) in CHECKS {
            println!("seed {seed}: {name}");
            let rig = Rig::with(seed, 1 + seed % 3, settings(4 * MIB));
            rig.run(check(rig.world()));
            rig.settle();
            rig.assert_nothing_was_touched_after_its_release();
        }
    }
}

#[test]
fn the_simulated_gpu_conforms() {
    for seed in 0..3 {
        for (name, check) in GPU_CHECKS {
            println!("seed {seed}: {name}");
            let rig = Rig::new(seed);
            rig.run(check(rig.ground()));
            rig.assert_nothing_was_touched_after_its_release();
        }
    }
}

#[test]
fn the_hbm_tier_conforms_with_threads_of_its_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (name, check) in CHECKS {
        println!("{name}");
        let gpu = Arc::new(Simulated::new(&Machine::new(), 1, 64 * MIB));
        let memory = Arc::new(HeapMemory::of_bytes(16 * MIB));
        let ports = vec![Arc::clone(&gpu) as Arc<dyn Gpu>];
        let tier = HbmTier::open(&settings(4 * MIB), ports, memory.clone(), &[arena(&memory)], Drive::Threads).unwrap();
        let (damaged, held) = (Arc::clone(&gpu), tier.clone());
        let damage = Box::new(move |slot: kvtier_engine::place::Slot, at: u32| {
            let memory = held.pool_memory(slot.device).unwrap();
            let place = kvtier_hbm::gpu::Place { memory, offset: slot.offset + u64::from(at) };
            let gpu = Arc::clone(&damaged) as Arc<dyn Gpu>;
            kvtier_hbm::conformance::Shuttle::new(&gpu).unwrap().damage(place).unwrap();
        });
        runtime.block_on(check(World { tier: Arc::new(tier), memory, damage }));
        assert_eq!(gpu.released_in_use(), 0);
        assert_eq!(gpu.memory_count(), 0, "everything was given back");
    }
}

#[test]
fn a_tier_without_a_gpu_has_no_room_and_answers() {
    let memory = Arc::new(HeapMemory::of_bytes(2 * MIB));
    let tier = HbmTier::open(&settings(4 * MIB), vec![], memory.clone(), &[arena(&memory)], Drive::Threads).unwrap();
    let tier: Arc<dyn kvtier_engine::port::Tier> = Arc::new(tier);
    assert_eq!((tier.geometry(), tier.health()), (vec![], vec![]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(tier.sync(vec![0])).is_err());
    assert_eq!(runtime.block_on(tier.load(vec![])), vec![]);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let rig = Rig::new(seed);
        let (_, check) = GPU_CHECKS[2];
        rig.run(check(rig.ground()));
        rig.gpus[0].piece_count()
    };
    assert_eq!(history(5), history(5));
}
