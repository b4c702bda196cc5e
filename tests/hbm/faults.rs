//! Lost devices, refusing drivers, workers that go away: harm stays where it happens, and memory is let go behind the
//! device, never before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use kvtier_engine::header::SlotHeader;
use kvtier_engine::port::{DeviceState, LoadOutcome, Memory, Store, StoreOutcome, Tier, TierError};
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove, ImportError, MoveError, MoveRefused};
use kvtier_hbm::conformance::{Dice, random_layout};
use kvtier_hbm::gpu::{Gpu, GpuError, IpcHandle};
use kvtier_hbm::layout::{Direction, KvLayout, Surface};
use kvtier_hbm::simulated::{Faults, Simulated};
use kvtier_hbm::{HbmSettings, WorkerMemory};
use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::rig::{MIB, Rig, settings, slot};

const LENGTH: u32 = 50_000;

fn store(rig: &Rig, device: u16, number: u64) -> Store {
    let bytes = Dice::new(number).bytes(LENGTH as usize);
    let from = slot(number, LENGTH);
    rig.memory.write(from, 0, &bytes);
    let header = SlotHeader {
        block: BlockId(number.into()),
        space: SpaceDigest([1; 32]),
        key: Key::new(&number.to_le_bytes()).expect("eight bytes are a key"),
        parent: None,
        length: LENGTH,
        crc: crc32fast::hash(&bytes),
        generation: 1,
    };
    let to = kvtier_engine::place::Slot { device, ..slot(number % 4, LENGTH) };
    Store { from, to, header }
}

/// One layer, one run per block.
pub(crate) fn plain(memory_bytes: u64) -> KvLayout {
    KvLayout {
        surfaces: vec![Surface { memory: 0, offset: 0 }],
        surfaces_per_layer: 1,
        planes: 1,
        tokens: 16,
        heads: 8,
        head_elements: 128,
        element_bytes: 2,
        block_count: memory_bytes / 32_768,
        block_stride: 32_768,
        plane_stride: 0,
        token_stride: 2048,
        head_stride: 256,
    }
}

fn gather(blocks: u64, keep: Box<dyn std::any::Any + Send>) -> ChainMove {
    let block = |number| ChainBlock { number, place: BlockPlace::Host(slot(number, 32_768)), expect_crc: None };
    ChainMove::new(Direction::Gather, (0..blocks).map(block).collect(), keep)
}

#[test]
fn a_lost_gpu_is_poisoned_and_the_other_goes_on() {
    for pieces in 0..12 {
        let rig = Rig::with(pieces, 2, settings(4 * MIB));
        rig.gpus[0].set_faults(Faults { lose_after_pieces: Some(pieces), ..Faults::default() });
        let batch: Vec<_> = (0..8).map(|number| store(&rig, (number % 2) as u16, number)).collect();
        let outcomes = rig.run(rig.tier.store(batch));
        for (number, outcome) in outcomes.iter().enumerate() {
            let lost = matches!(outcome, StoreOutcome::Failed(TierError::Poisoned { device: 0, .. }));
            assert!(
                if number % 2 == 0 { lost || pieces > 8 } else { *outcome == StoreOutcome::Written },
                "{outcomes:?}"
            );
        }
        rig.settle();
        if outcomes[0] != StoreOutcome::Written {
            assert_eq!(rig.tier.health()[0].state, DeviceState::Poisoned);
            assert!(rig.tier.health()[0].detail.contains("restart"), "{:?}", rig.tier.health()[0]);
        }
        assert_eq!(rig.tier.health()[1].state, DeviceState::Up);
        assert_eq!(rig.run(rig.tier.store(vec![store(&rig, 1, 1)])), [StoreOutcome::Written]);
        rig.assert_nothing_was_touched_after_its_release();
    }
}

#[test]
fn a_refused_call_fails_its_batch_and_no_other() {
    let rig = Rig::with(1, 1, settings(4 * MIB));
    rig.gpus[0].set_faults(Faults { refuse_copies: 1, ..Faults::default() });
    let outcomes = rig.run(rig.tier.store((0..4).map(|number| store(&rig, 0, number)).collect()));
    assert!(outcomes.iter().all(|outcome| matches!(outcome, StoreOutcome::Failed(TierError::Io(_)))), "{outcomes:?}");
    assert_eq!(rig.tier.health()[0].state, DeviceState::Up);
    assert_eq!(rig.run(rig.tier.store(vec![store(&rig, 0, 1)])), [StoreOutcome::Written]);
}

#[test]
fn a_full_queue_is_busy_and_a_poisoned_one_says_so() {
    let rig = Rig::with(1, 1, HbmSettings { queue_operations: 4, ..settings(4 * MIB) });
    let first = rig.tier.store((0..4).map(|number| store(&rig, 0, number)).collect());
    let second = rig.run(rig.tier.store(vec![store(&rig, 0, 5)]));
    assert_eq!(second, [StoreOutcome::Failed(TierError::Busy)]);
    assert_eq!(rig.run(first), vec![StoreOutcome::Written; 4]);
    rig.gpus[0].set_faults(Faults { lose_after_pieces: Some(0), ..Faults::default() });
    let lost = rig.run(rig.tier.store(vec![store(&rig, 0, 5)]));
    assert!(matches!(lost[0], StoreOutcome::Failed(TierError::Poisoned { .. })), "{lost:?}");
    let expect = kvtier_engine::port::tier::Expect { block: BlockId(5), length: LENGTH, crc: 0, generation: 1 };
    let load = kvtier_engine::port::Load { from: slot(1, LENGTH), into: slot(9, LENGTH), expect };
    let loaded = rig.run(rig.tier.load(vec![load]));
    assert!(matches!(loaded[0], LoadOutcome::Failed(TierError::Poisoned { .. })), "{loaded:?}");
}

/// Steps of a tier with one GPU: its lanes in their order, then the submitter.
const FINISH_LOAD_OUT: u64 = 1;
const SUBMIT: u64 = 4;

#[test]
fn a_load_overtakes_saves_that_wait() {
    let rig = Rig::with(1, 1, settings(4 * MIB));
    let first = store(&rig, 0, 0);
    let header = first.header.clone();
    let from = first.to;
    assert_eq!(rig.run(rig.tier.store(vec![first])), [StoreOutcome::Written]);
    let saves: Vec<_> = (1..4).map(|number| rig.tier.store(vec![store(&rig, 0, number)])).collect();
    let expect = kvtier_engine::port::tier::Expect {
        block: header.block,
        length: header.length,
        crc: header.crc,
        generation: header.generation,
    };
    let loaded = rig.tier.load(vec![kvtier_engine::port::Load { from, into: slot(9, LENGTH), expect }]);
    assert!(rig.tier.step(SUBMIT) && rig.tier.step(FINISH_LOAD_OUT));
    assert_eq!(loaded.now_or_never(), Some(vec![LoadOutcome::Verified]));
    assert_eq!(rig.tier.health()[0].queued_count, 3, "no save has begun");
    rig.settle();
    assert!(saves.into_iter().all(|save| save.now_or_never() == Some(vec![StoreOutcome::Written])));
}

#[test]
fn a_pool_that_does_not_fit_is_refused_with_its_size() {
    let rig = Rig::new(1);
    let gpu: Arc<dyn Gpu> = Arc::new(Simulated::new(&rig.machine, 1, 8 * MIB));
    let arenas = [super::rig::arena(&rig.memory)];
    let opened = kvtier_hbm::HbmTier::open(
        &settings(16 * MIB),
        vec![gpu],
        rig.memory.clone(),
        &arenas,
        kvtier_hbm::Drive::ByHand,
    );
    let why = opened.unwrap_err();
    let why = std::error::Error::source(&why).unwrap().to_string();
    assert!(why.contains("16777216") && why.contains("8388608"), "{why}");
}

#[test]
fn a_worker_that_dies_during_a_move_harms_nobody() {
    for seed in 0..20 {
        let rig = Rig::new(seed);
        // Another process: its own device of the same machine.
        let worker = Simulated::new(&rig.machine, seed + 100, 64 * MIB);
        let kv = worker.allocate(4 * MIB).unwrap();
        let handle = worker.export(kv).unwrap();
        let imported = WorkerMemory::import(&rig.tier, 0, &[handle], plain(4 * MIB)).unwrap();
        let progress = imported.begin(&rig.tier, gather(16, Box::new(()))).unwrap();
        for step in 0..seed {
            rig.tier.step(step);
        }
        drop(worker);
        drop(imported);
        assert_eq!(rig.run(progress.wait_end()), Ok(()), "seed {seed}");
        rig.settle();
        rig.assert_nothing_was_touched_after_its_release();
        let block = rig.memory.view(slot(15, 32_768), 0, 32_768, Box::new(()));
        assert!(block.iter().all(|byte| *byte == 0xcd), "the bytes the worker had");
    }
}

struct Kept(Arc<AtomicBool>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn slots_are_let_go_behind_the_device_whoever_goes_away() {
    for (seed, lost) in (0..16).flat_map(|seed| [(seed, false), (seed, true)]) {
        let rig = Rig::new(seed);
        let free = rig.gpus[0].memory_count();
        let imported = WorkerMemory::of_own(&rig.tier, 0, &[4 * MIB], plain(4 * MIB)).unwrap();
        let let_go = Arc::new(AtomicBool::new(false));
        let progress = imported.begin(&rig.tier, gather(32, Box::new(Kept(Arc::clone(&let_go))))).unwrap();
        if lost {
            rig.gpus[0].set_faults(Faults { lose_after_pieces: Some(seed), ..Faults::default() });
        }
        drop((imported, progress));
        rig.tier.step(4);
        assert!(!let_go.load(Ordering::SeqCst), "the device has only begun");
        rig.settle();
        assert!(let_go.load(Ordering::SeqCst), "seed {seed}, lost: {lost}");
        assert_eq!(rig.gpus[0].memory_count(), free, "the worker's memory is closed");
        rig.assert_nothing_was_touched_after_its_release();
    }
}

#[test]
fn a_move_on_a_lost_gpu_ends_with_the_reason() {
    let rig = Rig::new(3);
    let imported = WorkerMemory::of_own(&rig.tier, 0, &[4 * MIB], plain(4 * MIB)).unwrap();
    rig.gpus[0].set_faults(Faults { lose_after_pieces: Some(1), ..Faults::default() });
    let progress = imported.begin(&rig.tier, gather(32, Box::new(()))).unwrap();
    let ended = rig.run(progress.wait(0));
    assert!(matches!(ended, Err(MoveError::Failed(GpuError::Lost(_)))), "{ended:?}");
    let again = imported.begin(&rig.tier, gather(1, Box::new(())));
    assert!(matches!(again, Err(MoveRefused::Tier(TierError::Poisoned { .. }))));
}

#[test]
fn bad_imports_are_refused_with_what_is_wrong() {
    let rig = Rig::new(1);
    let worker = Simulated::new(&rig.machine, 7, 64 * MIB);
    let handle = worker.export(worker.allocate(MIB).unwrap()).unwrap();
    let free = rig.gpus[0].memory_count();
    let import = |device, handles: &[IpcHandle], layout| {
        WorkerMemory::import(&rig.tier, device, handles, layout).map(drop).unwrap_err()
    };
    assert_eq!(import(3, &[handle], plain(MIB)), ImportError::NoGpu { asked: 3, count: 1 });
    assert_eq!(import(0, &[], plain(MIB)), ImportError::HandleCount(0));
    let strange = import(0, &[handle, IpcHandle([9; 64])], plain(MIB));
    assert!(matches!(strange, ImportError::Handle { number: 1, .. }), "{strange:?}");
    let bad = [
        (KvLayout { block_count: 33, ..plain(MIB) }, "reaches from 0 over 1081344 bytes, memory 0 has 1048576"),
        (KvLayout { surfaces: vec![], ..plain(MIB) }, "there are 0"),
        (
            KvLayout { surfaces: vec![Surface { memory: 1, offset: 0 }], ..plain(MIB) },
            "names memory 1, and 1 were given",
        ),
        (KvLayout { surfaces: vec![Surface { memory: 0, offset: u64::MAX }], ..plain(MIB) }, "reaches from"),
        (KvLayout { token_stride: 2000, ..plain(MIB) }, "steps into bytes of its neighbour; at least 2048"),
        (KvLayout { block_stride: u64::MAX, ..plain(MIB) }, "block_stride"),
        (KvLayout { heads: 0, ..plain(MIB) }, "heads: 0 is not between 1"),
        (KvLayout { element_bytes: 3, ..plain(MIB) }, "none of 1, 2 and 4"),
        (KvLayout { planes: 2, plane_stride: 1, ..plain(MIB) }, "plane_stride"),
        (KvLayout { tokens: 65_536, heads: 65_536, head_elements: 65_536, ..plain(MIB) }, "stride"),
    ];
    for (layout, expected) in bad {
        let why = import(0, &[handle], layout).to_string();
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
    }
    assert_eq!(rig.gpus[0].memory_count(), free, "nothing stays open");
}

#[test]
fn bad_moves_are_refused_with_what_is_wrong() {
    let rig = Rig::new(1);
    let imported = WorkerMemory::of_own(&rig.tier, 0, &[MIB], plain(MIB)).unwrap();
    let at = |number, place| ChainBlock { number, place, expect_crc: None };
    let (host, pool) = (BlockPlace::Host(slot(0, 32_768)), BlockPlace::Pool(slot(0, 32_768)));
    let stray = BlockPlace::Host(kvtier_engine::place::Slot { device: 9, ..slot(0, 32_768) });
    let calls = [
        (vec![], vec![], "a chain of 0 blocks"),
        (vec![at(32, host)], vec![], "number 32 of a worker's memory of 32"),
        (vec![at(0, BlockPlace::Host(slot(0, 4096)))], vec![], "does not fit a slot of 8192"),
        (vec![at(0, host), at(1, pool)], vec![], "1 of 2 blocks are in the pool"),
        (vec![at(0, stray)], vec![], "arena 9 is not known"),
        (vec![at(0, host)], std::iter::once(0..2).collect(), "layers 0..2 are not a range of 0..1"),
        (vec![at(0, BlockPlace::Pool(slot(1_000_000, 32_768)))], vec![], "outside the pool"),
    ];
    for (blocks, layers, expected) in calls {
        let call = ChainMove { layers, ..ChainMove::new(Direction::Gather, blocks, Box::new(())) };
        let why = imported.begin(&rig.tier, call).map(drop).unwrap_err().to_string();
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
    }
}

#[test]
fn no_random_layout_reaches_outside_what_was_checked() {
    let mut dice = Dice::new(77);
    for number in 0..300 {
        let (layout, mut sizes) = random_layout(&mut dice);
        assert_eq!(layout.validate(&sizes), Ok(()), "layout {number}");
        let last = sizes.len() - 1;
        sizes[last] = sizes[last].saturating_sub(1024);
        assert!(layout.validate(&sizes).is_err(), "layout {number} does not fit {sizes:?}: {layout:?}");
    }
}
