//! The checks: each ends with a line in the report, and none ends the run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::{DeviceState, Tier};
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove};
use kvtier_hbm::conformance::{CHECKS as GPU_CHECKS, Shuttle, gather, scatter};
use kvtier_hbm::gpu::Place;
use kvtier_hbm::layout::{Direction, KvLayout, Surface};
use kvtier_hbm::{HbmTier, WorkerMemory};
use kvtier_nvme::conformance::{CHECKS as TIER_CHECKS, World};
use tokio::runtime::Runtime;

use super::ground::Site;
use super::report::Report;
use super::worker::{Worker, content};
use super::{Failure, Options};

/// Moves that are under way when the worker is killed.
const MOVES_MID_COPY: usize = 32;

pub(super) fn run(site: &Site, options: &Options, runtime: &Runtime, report: &mut Report) {
    for (name, check) in GPU_CHECKS {
        let ground = site.ground.clone();
        note(report, name, || {
            runtime.block_on(check(ground));
            Ok(())
        });
    }
    for (name, check) in TIER_CHECKS {
        note(report, name, || {
            runtime.block_on(check(world(site)));
            Ok(())
        });
    }
    if !options.checks_only {
        note(report, "a_workers_memory_is_read_and_written_by_ipc", || ipc(site, runtime));
        note(report, "a_worker_killed_mid_copy_harms_nobody", || killed(site, runtime));
    }
    note(report, "the_gpu_is_still_up", || match site.ground.tier.health().first() {
        Some(health) if health.state == DeviceState::Up => Ok(()),
        _ => Err(site.health().into()),
    });
}

/// Runs one check; a panic is its failure.
fn note(report: &mut Report, name: &str, check: impl FnOnce() -> Result<(), Failure>) {
    let begun = Instant::now();
    let result = match catch_unwind(AssertUnwindSafe(check)) {
        Ok(result) => result.map_err(|why| why.to_string()),
        Err(panic) => Err(words_of(&*panic)),
    };
    report.check(name, begun.elapsed(), result);
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

fn world(site: &Site) -> World {
    let (tier, gpu) = (site.ground.tier.clone(), Arc::clone(&site.ground.gpu));
    let damage = move |slot: Slot, at: u32| {
        let memory = tier.pool_memory(slot.device).expect("the tier has a pool");
        let place = Place { memory, offset: slot.offset + u64::from(at) };
        Shuttle::new(&gpu).and_then(|shuttle| shuttle.damage(place)).expect("damage");
    };
    let tier: Arc<dyn Tier> = Arc::new(site.ground.tier.clone());
    World { tier, memory: Arc::clone(&site.ground.memory), damage: Box::new(damage) }
}

/// Layers of 64 KiB in one allocation, K and V in planes apart.
fn layout(layers: u32, blocks: u64) -> KvLayout {
    let page = 32 << 10;
    let layer_bytes = 2 * blocks * page;
    KvLayout {
        surfaces: (0..layers).map(|layer| Surface { memory: 0, offset: u64::from(layer) * layer_bytes }).collect(),
        surfaces_per_layer: 1,
        planes: 2,
        tokens: 16,
        heads: 8,
        head_elements: 128,
        element_bytes: 2,
        block_count: blocks,
        block_stride: page,
        plane_stride: blocks * page,
        token_stride: 2048,
        head_stride: 256,
    }
}

fn chain(layout: &KvLayout, numbers: &[u64]) -> Vec<ChainBlock> {
    let length = layout.block_bytes() as u32;
    let bytes = slot_bytes(length);
    let block = |(at, number): (usize, &u64)| {
        let slot = Slot { device: 0, offset: at as u64 * u64::from(bytes), bytes };
        ChainBlock { number: *number, place: BlockPlace::Host(slot), expect_crc: None }
    };
    numbers.iter().enumerate().map(block).collect()
}

fn go(
    runtime: &Runtime,
    tier: &HbmTier,
    worker: &Arc<WorkerMemory>,
    direction: Direction,
    blocks: Vec<ChainBlock>,
) -> Result<(), Failure> {
    let call = ChainMove::new(direction, blocks, Box::new(()));
    runtime.block_on(worker.begin(tier, call)?.wait_end())?;
    Ok(())
}

fn ipc(site: &Site, runtime: &Runtime) -> Result<(), Failure> {
    let layout = layout(4, 8);
    let bytes = layout.block_bytes() * 8;
    let length = layout.block_bytes() as u32;
    let (tier, memory) = (&site.ground.tier, &site.ground.memory);
    let (mut worker, handle) = Worker::start(site.simulated.as_ref(), bytes, 77)?;
    let imported = WorkerMemory::import(tier, 0, &[handle], layout.clone())?;
    let mut mirror = vec![content(77, bytes)];
    let numbers = [5, 0, 7];
    let blocks = chain(&layout, &numbers);
    go(runtime, tier, &imported, Direction::Gather, blocks.clone())?;
    for (block, number) in blocks.iter().zip(numbers) {
        let BlockPlace::Host(slot) = block.place else { continue };
        let seen = memory.view(slot, 0, length, Box::new(()));
        if *seen != *gather(&layout, &mirror, number) {
            return Err(format!("block {number} of the other process was gathered wrongly").into());
        }
    }
    // The same blocks to other places of the other process.
    let targets = [1, 2, 3];
    for (target, source) in targets.iter().zip(numbers) {
        let block = gather(&layout, &mirror, source);
        scatter(&layout, &mut mirror, *target, &block);
    }
    go(runtime, tier, &imported, Direction::Scatter, chain(&layout, &targets))?;
    let (seen, right) = (worker.checksum()?, crc32fast::hash(&mirror[0]));
    worker.kill()?;
    if seen == right { Ok(()) } else { Err(format!("the other process sees {seen:08x} instead of {right:08x}").into()) }
}

fn killed(site: &Site, runtime: &Runtime) -> Result<(), Failure> {
    let layout = layout(site.sizes.layers, site.sizes.blocks);
    let bytes = layout.block_bytes() * site.sizes.blocks;
    let tier = &site.ground.tier;
    let (worker, handle) = Worker::start(site.simulated.as_ref(), bytes, 78)?;
    let imported = WorkerMemory::import(tier, 0, &[handle], layout.clone())?;
    let room = site.arena.size_bytes() / u64::from(slot_bytes(layout.block_bytes() as u32));
    let numbers: Vec<u64> = (0..site.sizes.blocks.min(room)).collect();
    let mut moves = Vec::new();
    for _ in 0..MOVES_MID_COPY {
        let call = ChainMove::new(Direction::Gather, chain(&layout, &numbers), Box::new(()));
        moves.push(imported.begin(tier, call)?);
    }
    worker.kill()?;
    drop(imported);
    let ends: Vec<_> = moves.iter().map(|progress| runtime.block_on(progress.wait_end())).collect();
    let failed = ends.iter().filter(|end| end.is_err()).count();
    println!("    {failed} of {MOVES_MID_COPY} moves failed after the worker was killed");
    // Whatever became of them: the next worker is served, byte for byte.
    ipc(site, runtime)
}
