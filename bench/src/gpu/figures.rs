//! The figures, each against a limit measured in the same run.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{Load, LoadOutcome, Moment, Store, StoreOutcome, Tier};
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove};
use kvtier_hbm::gpu::{Lane, MemoryId, Place, Run};
use kvtier_hbm::layout::{Direction, KvLayout, Surface};
use kvtier_hbm::{CopiedFrom, WorkerMemory};
use kvtier_identity::{BlockId, Key, SpaceDigest};
use tokio::runtime::Runtime;

use super::ground::Site;
use super::report::{Bar, Figure, Report};
use super::{Failure, Options};
use crate::nvme::{Meter, Rig};

/// Blocks per group of the chain that comes from NVMe, as the daemon's flights: while one is uploaded the next is read.
const GROUP_BLOCKS: usize = 4;
/// Calls in flight where one is shorter than what it takes to hear of its end.
const CALLS_AT_ONCE: u64 = 12;
/// The way that has to meet the bars.
const CHOSEN: &str = "the way the tier has chosen";
const GB: f64 = 1e9;

/// A layer-separate layout: an allocation per layer, blocks of 64 KiB each.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// K and V of a block side by side: one run per layer.
    Fused,
    /// All K before all V.
    Planes,
    /// Heads before tokens, as HND.
    Heads,
    /// As fused, and so small that moving its bytes costs nothing beside the call: 512 bytes a layer.
    Small,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fused => "NHD, K and V side by side (64 KiB runs)",
            Self::Planes => "NHD, K and V in planes (32 KiB runs)",
            Self::Heads => "HND, K and V in planes (256 byte runs)",
            Self::Small => "NHD, 512 bytes a layer",
        }
    }

    fn layout(self, site: &Site) -> (KvLayout, Vec<u64>) {
        let (blocks, layers) = (site.sizes.blocks, site.sizes.layers);
        let (heads, head_elements) = if matches!(self, Self::Small) { (1, 8) } else { (8, 128) };
        let head = u64::from(head_elements) * 2;
        let page = 16 * u64::from(heads) * head;
        let (block_stride, plane_stride) = match self {
            Self::Fused | Self::Small => (2 * page, page),
            Self::Planes | Self::Heads => (page, blocks * page),
        };
        let (token_stride, head_stride) = match self {
            Self::Fused | Self::Planes | Self::Small => (u64::from(heads) * head, head),
            Self::Heads => (head, 16 * head),
        };
        let layout = KvLayout {
            surfaces: (0..layers).map(|memory| Surface { memory, offset: 0 }).collect(),
            surfaces_per_layer: 1,
            planes: 2,
            tokens: 16,
            heads,
            head_elements,
            element_bytes: 2,
            block_count: blocks,
            block_stride,
            plane_stride,
            token_stride,
            head_stride,
        };
        (layout, vec![2 * blocks * page; layers as usize])
    }
}

pub(super) fn run(site: &Site, options: &Options, runtime: &Runtime, report: &mut Report) -> Result<(), Failure> {
    let measure = Measure { site, runtime, rounds: options.rounds.max(1) };
    let (up, down) = measure.pinned_peaks(report)?;
    let begun = Instant::now();
    site.ground.tier.measure_ways(&|| Moment(begun.elapsed()));
    report.chose(site.ground.tier.copied_from(0).ok_or("the tier has no GPU")?);
    let device = measure.device_peak(report)?;
    for kind in [Kind::Fused, Kind::Planes, Kind::Heads] {
        measure.host_moves(kind, (up, down), report)?;
        measure.pool_moves(kind, device, report)?;
    }
    measure.calls(report)?;
    measure.beside_kernels(report)?;
    if let Ok(rig) = &site.nvme {
        measure.nvme_to_worker(rig, up, report)?;
    }
    Ok(())
}

pub(super) struct Measure<'a> {
    pub(super) site: &'a Site,
    runtime: &'a Runtime,
    rounds: usize,
}

impl Measure<'_> {
    /// Median throughput in GB/s of something that moves so many bytes; once before, unmeasured.
    pub(super) fn speed(&self, bytes: u64, mut act: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
        act()?;
        let mut speeds = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            let begun = Instant::now();
            act()?;
            speeds.push(bytes as f64 / GB / begun.elapsed().as_secs_f64());
        }
        speeds.sort_by(f64::total_cmp);
        Ok(speeds[speeds.len() / 2])
    }

    fn copy(&self, from: Place, to: Place, bytes: u64) -> Result<(), Failure> {
        let gpu = &self.site.ground.gpu;
        gpu.copy(Lane::SaveOut, &[Run { from, to, bytes }])?;
        Ok(gpu.wait(gpu.mark(Lane::SaveOut)?)?)
    }

    pub(super) fn chain_bytes(&self) -> u64 {
        self.site.sizes.blocks * u64::from(self.site.sizes.layers) * (64 << 10)
    }

    /// One copy of the chain's size between pinned memory and the device, each way.
    fn pinned_peaks(&self, report: &mut Report) -> Result<(f64, f64), Failure> {
        let (gpu, bytes) = (&self.site.ground.gpu, self.chain_bytes());
        let (pinned, device) = (gpu.pin(bytes)?, gpu.allocate(bytes)?);
        let [pinned_at, device_at] = [pinned, device].map(|memory| Place { memory, offset: 0 });
        let up = self.speed(bytes, || self.copy(pinned_at, device_at, bytes))?;
        let down = self.speed(bytes, || self.copy(device_at, pinned_at, bytes))?;
        for (name, value) in [("one pinned copy, host to device", up), ("one pinned copy, device to host", down)] {
            report.figure(Figure { name: name.into(), value, unit: "GB/s", bar: None });
        }
        for memory in [pinned, device] {
            gpu.release(memory)?;
        }
        Ok((up, down))
    }

    /// One copy on the device, of bytes written.
    fn device_peak(&self, report: &mut Report) -> Result<f64, Failure> {
        let (gpu, bytes) = (&self.site.ground.gpu, self.chain_bytes());
        let (from, to) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?);
        let place = |memory: MemoryId| Place { memory, offset: 0 };
        let run = Run { from: place(from), to: place(to), bytes };
        let value = self.speed(bytes * CALLS_AT_ONCE, || {
            (0..CALLS_AT_ONCE).try_for_each(|_| gpu.copy(Lane::SaveOut, &[run]))?;
            Ok(gpu.wait(gpu.mark(Lane::SaveOut)?)?)
        })?;
        let name = format!("plain copies on the device, {CALLS_AT_ONCE} at once");
        report.figure(Figure { name, value, unit: "GB/s", bar: None });
        for memory in [from, to] {
            gpu.release(memory)?;
        }
        Ok(value)
    }

    pub(super) fn worker(&self, kind: Kind) -> Result<Arc<WorkerMemory>, Failure> {
        let (layout, sizes) = kind.layout(self.site);
        Ok(WorkerMemory::of_own(&self.site.ground.tier, 0, &sizes, layout)?)
    }

    pub(super) fn chain(
        &self,
        worker: &WorkerMemory,
        range: Range<u64>,
        place: impl Fn(Slot) -> BlockPlace,
    ) -> Vec<ChainBlock> {
        let numbered = range.clone().zip(self.slots(worker, range));
        numbered.map(|(number, slot)| ChainBlock { number, place: place(slot), expect_crc: None }).collect()
    }

    fn slots(&self, worker: &WorkerMemory, range: Range<u64>) -> impl Iterator<Item = Slot> + use<> {
        let bytes = slot_bytes(worker.layout().block_bytes() as u32);
        range.map(move |number| Slot { device: 0, offset: number * u64::from(bytes), bytes })
    }

    pub(super) fn go(
        &self,
        worker: &Arc<WorkerMemory>,
        direction: Direction,
        blocks: &[ChainBlock],
    ) -> Result<(), Failure> {
        let call = ChainMove::new(direction, blocks.to_vec(), Box::new(()));
        Ok(self.runtime.block_on(worker.begin(&self.site.ground.tier, call)?.wait_end())?)
    }

    /// Host memory to and from a worker, by copy engines and by the kernel; what the tier has chosen by its own measurement
    /// meets the bar or does not.
    fn host_moves(&self, kind: Kind, (up, down): (f64, f64), report: &mut Report) -> Result<(), Failure> {
        let (worker, bytes) = (self.worker(kind)?, self.chain_bytes());
        let blocks = self.chain(&worker, 0..self.site.sizes.blocks, BlockPlace::Host);
        let tier = &self.site.ground.tier;
        let chosen = tier.copied_from(0).ok_or("the tier has no GPU")?;
        let ways =
            [("by copy engines", CopiedFrom::all(0)), ("by the kernel", CopiedFrom::all(u64::MAX)), (CHOSEN, chosen)];
        let directions =
            [("host to worker KV", Direction::Scatter, up), ("worker KV to host", Direction::Gather, down)];
        for (title, direction, peak) in directions {
            for (way, copied_from) in ways {
                if matches!(kind, Kind::Heads) && copied_from == CopiedFrom::all(0) {
                    // Half a million copies.
                    continue;
                }
                tier.set_copied_from(copied_from);
                let value = self.speed(bytes, || self.go(&worker, direction, &blocks))?;
                let name = format!("{title}, {}, {way}", kind.name());
                let bar = (way == CHOSEN).then_some(Bar::Share { of: peak, least: 0.9 });
                report.figure(Figure { name, value, unit: "GB/s", bar });
            }
        }
        self.through_the_pool(kind, &worker, report)
    }

    /// A save that also stays in the pool: gathered there, summed, copied on.
    fn through_the_pool(&self, kind: Kind, worker: &Arc<WorkerMemory>, report: &mut Report) -> Result<(), Failure> {
        let range = || 0..self.site.sizes.blocks;
        let blocks = self.chain(worker, range(), BlockPlace::Pool);
        let onward: Vec<Slot> = self.slots(worker, range()).collect();
        let value = self.speed(self.chain_bytes(), || {
            let call =
                ChainMove { onward: onward.clone(), ..ChainMove::new(Direction::Gather, blocks.clone(), Box::new(())) };
            Ok(self.runtime.block_on(worker.begin(&self.site.ground.tier, call)?.wait_end())?)
        })?;
        let name = format!("worker KV through the pool to host, {}", kind.name());
        report.figure(Figure { name, value, unit: "GB/s", bar: None });
        Ok(())
    }

    /// On the device: several calls at a time, as one is over before a thread has heard of it.
    fn pool_moves(&self, kind: Kind, peak: f64, report: &mut Report) -> Result<(), Failure> {
        let (worker, layers) = (self.worker(kind)?, self.site.sizes.layers);
        let blocks = self.chain(&worker, 0..self.site.sizes.blocks, BlockPlace::Pool);
        // A save of all layers but one moves blocks that are not whole, of which no checksums are asked for.
        let some = layers.saturating_sub(1).max(1);
        let moves = [
            ("pool to worker KV", Direction::Scatter, layers, Some(0.7)),
            ("worker KV to pool, without checksums", Direction::Gather, some, Some(0.7)),
            ("worker KV to pool, with checksums", Direction::Gather, layers, None),
        ];
        for (title, direction, moved, least) in moves {
            let bytes = self.chain_bytes() / u64::from(layers) * u64::from(moved) * CALLS_AT_ONCE;
            let value = self.speed(bytes, || {
                let call = || ChainMove {
                    layers: std::iter::once(0..moved).collect(),
                    ..ChainMove::new(direction, blocks.clone(), Box::new(()))
                };
                let begun = (0..CALLS_AT_ONCE).map(|_| worker.begin(&self.site.ground.tier, call()));
                let begun = begun.collect::<Result<Vec<_>, _>>()?;
                begun.iter().try_for_each(|progress| Ok(self.runtime.block_on(progress.wait_end())?))
            })?;
            let name = format!("{title}, {}, {CALLS_AT_ONCE} calls at once", kind.name());
            let bar = least.map(|least| Bar::Share { of: peak, least });
            report.figure(Figure { name, value, unit: "GB/s", bar });
        }
        Ok(())
    }

    /// CPU of all threads per call, for a chain of one block and for all of it. A simulated device moves the bytes with the
    /// CPU; what the call itself costs shows where there are few.
    fn calls(&self, report: &mut Report) -> Result<(), Failure> {
        let tier = &self.site.ground.tier;
        let chosen = tier.copied_from(0).ok_or("the tier has no GPU")?;
        let ways = [
            ("host, by copy engines", BlockPlace::Host as fn(Slot) -> BlockPlace, CopiedFrom::all(0)),
            ("host, by the kernel", BlockPlace::Host, CopiedFrom::all(u64::MAX)),
            ("host", BlockPlace::Host, chosen),
            ("pool", BlockPlace::Pool, chosen),
        ];
        for (kind, told) in [(Kind::Fused, ""), (Kind::Small, " of 512 bytes a layer")] {
            let worker = self.worker(kind)?;
            for (count, (title, place, copied_from)) in
                [1, self.site.sizes.blocks].into_iter().flat_map(|count| ways.map(|way| (count, way)))
            {
                tier.set_copied_from(copied_from);
                let value = self.cost_of(&worker, &self.chain(&worker, 0..count, place))?;
                let name = format!("CPU per call, {count} blocks{told} from the {title}");
                let bar = (copied_from == chosen).then_some(Bar::AtMost(30.0));
                report.figure(Figure { name, value, unit: "us", bar });
            }
        }
        Ok(())
    }

    /// CPU microseconds of a load.
    fn cost_of(&self, worker: &Arc<WorkerMemory>, blocks: &[ChainBlock]) -> Result<f64, Failure> {
        self.go(worker, Direction::Scatter, blocks)?;
        let meter = Meter::start();
        for _ in 0..self.site.sizes.calls {
            self.go(worker, Direction::Scatter, blocks)?;
        }
        // The meter counts CPU milliseconds per GB; the bytes are the calls.
        Ok(meter.stop(self.site.sizes.calls.into()).cpu_ms_per_gb / 1e6)
    }

    /// A chain from NVMe to a worker, group by group, against the slower of the two links.
    fn nvme_to_worker(&self, rig: &Rig, up: f64, report: &mut Report) -> Result<(), Failure> {
        let worker = self.worker(Kind::Fused)?;
        let length = worker.layout().block_bytes() as u32;
        let blocks = self.chain(&worker, 0..self.site.sizes.blocks, BlockPlace::Host);
        let places = rig.places(slot_bytes(length));
        if places.len() < blocks.len() {
            return Err(format!("{} places on NVMe are too few for the chain", places.len()).into());
        }
        let loads = self.runtime.block_on(self.fill(rig, &blocks, &places, length))?;
        let bytes = self.chain_bytes();
        let alone = self.speed(bytes, || {
            self.runtime.block_on(async {
                let mut groups: FuturesUnordered<_> =
                    loads.chunks(GROUP_BLOCKS).map(|group| rig.tier().load(group.to_vec())).collect();
                while let Some(outcomes) = groups.next().await {
                    all_verified(&outcomes)?;
                }
                Ok(())
            })
        })?;
        report.figure(Figure { name: "NVMe to host alone".into(), value: alone, unit: "GB/s", bar: None });
        let value = self.speed(bytes, || self.runtime.block_on(self.pipeline(rig, &worker, &loads, &blocks)))?;
        let bar = Some(Bar::Share { of: alone.min(up), least: 0.9 });
        report.figure(Figure { name: "NVMe to worker KV, group by group".into(), value, unit: "GB/s", bar });
        Ok(())
    }

    async fn fill(&self, rig: &Rig, blocks: &[ChainBlock], places: &[Slot], length: u32) -> Result<Vec<Load>, Failure> {
        let mut loads = Vec::with_capacity(blocks.len());
        let mut stores = Vec::with_capacity(blocks.len());
        for (block, to) in blocks.iter().zip(places) {
            let BlockPlace::Host(from) = block.place else { continue };
            let crc = self.site.ground.memory.checksum(from, 0, length);
            let name = BlockId(u128::from(block.number) + 1);
            let key = Key::new(&block.number.to_le_bytes())?;
            let header =
                SlotHeader { block: name, space: SpaceDigest([0; 32]), key, parent: None, length, crc, generation: 1 };
            stores.push(Store { from, to: *to, header });
            let expect = Expect { block: name, length, crc, generation: 1 };
            loads.push(Load { from: *to, into: from, expect });
        }
        let outcomes = rig.tier().store(stores).await;
        match outcomes.iter().find(|outcome| **outcome != StoreOutcome::Written) {
            Some(outcome) => Err(format!("NVMe did not take a block: {outcome:?}").into()),
            None => Ok(loads),
        }
    }

    async fn pipeline(
        &self,
        rig: &Rig,
        worker: &Arc<WorkerMemory>,
        loads: &[Load],
        blocks: &[ChainBlock],
    ) -> Result<(), Failure> {
        let mut reading: FuturesUnordered<_> = loads
            .chunks(GROUP_BLOCKS)
            .zip(blocks.chunks(GROUP_BLOCKS))
            .map(|(loads, blocks)| {
                let outcomes = rig.tier().load(loads.to_vec());
                async move { (outcomes.await, blocks.to_vec()) }
            })
            .collect();
        let mut uploading = Vec::new();
        while let Some((outcomes, blocks)) = reading.next().await {
            all_verified(&outcomes)?;
            let call = ChainMove::new(Direction::Scatter, blocks, Box::new(()));
            uploading.push(worker.begin(&self.site.ground.tier, call)?);
        }
        for progress in uploading {
            progress.wait_end().await?;
        }
        Ok(())
    }
}

fn all_verified(outcomes: &[LoadOutcome]) -> Result<(), Failure> {
    match outcomes.iter().find(|outcome| **outcome != LoadOutcome::Verified) {
        Some(outcome) => Err(format!("NVMe answered {outcome:?}").into()),
        None => Ok(()),
    }
}
