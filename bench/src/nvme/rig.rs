//! Our side: the tier as the daemon assembles it, without the daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use kvtier_device::{Arena as DeviceArena, Disk, DiskBuffer, DiskOp, DiskSettings, LocalDisk, Priority, open_disk};
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{BoxFuture, Clock, Load, LoadOutcome, Memory, Moment, Spawn, Store, StoreOutcome, Tier};
use kvtier_host::{Arena, ArenaSettings, Prefault, Wish};
use kvtier_identity::{BlockId, Key, SpaceDigest};
use kvtier_nvme::layout::FIRST_EXTENT_OFFSET;
use kvtier_nvme::{AlwaysPresent, DeviceSource, NodeId, NvmeSettings, NvmeTier, Ports, scratch_bytes};

use super::cost::{Cost, Meter};
use super::{Direction, Failure};

/// Arenas come in whole huge pages.
const ARENA_STEP_BYTES: u64 = 2 << 20;
/// How long registering an arena may take.
const REGISTRATION_MAX: Duration = Duration::from_secs(30);

/// The tier with its disk and memory.
pub(crate) struct Rig {
    memory: Arc<Arena>,
    disk: Arc<LocalDisk>,
    tier: NvmeTier,
}

/// Who moves the blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// The tier: checksums and headers.
    Tier,
    /// The disk below it: the same transfers.
    Disk,
}

/// Blocks of one size and the slots they go through.
#[derive(Clone)]
pub(crate) struct Bench {
    memory: Arc<Arena>,
    disk: Arc<LocalDisk>,
    tier: NvmeTier,
    /// Places on the device, in order.
    places: Arc<Vec<Slot>>,
    /// Slots of host memory, a group for each batch in flight.
    groups: Vec<Vec<Slot>>,
    /// The header of every block: they only differ in place, so that a transfer of either way leaves what both can read.
    header: SlotHeader,
}

impl Rig {
    /// A fresh data file in `folder`, and an arena of `slots_bytes` bytes, prefaulted and registered.
    pub(crate) async fn open(folder: &Path, bytes: u64, slots_bytes: u64, huge: bool) -> Result<Self, Failure> {
        let huge_pages = if huge { Wish::Auto } else { Wish::Off };
        let memory = arena(slots_bytes, huge_pages)?;
        while memory.prefault_step().state == Prefault::Working {}
        let path = folder.join("kvtier.data");
        let disk = Arc::new(open_disk(&DiskSettings { bytes: Some(bytes), ..DiskSettings::new(&path) })?);
        let (address, arena_bytes, keep) = (memory.address(), memory.size_bytes(), memory.keep());
        disk.register_arena(DeviceArena { address, bytes: arena_bytes, keep });
        let begin = Instant::now();
        let all = format!("buffers over {0} of {0} MiB", arena_bytes >> 20);
        while disk.mode().contains("registered file") && !disk.mode().contains(&all) {
            if begin.elapsed() > REGISTRATION_MAX {
                return Err(format!("the arena is not registered: {}", disk.mode()).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let settings = NvmeSettings { paths: vec![path.clone()], bytes, ..NvmeSettings::default() };
        let source = DeviceSource { path, disk: disk.clone(), presence: Arc::new(AlwaysPresent) };
        let ports = Ports {
            memory: memory.clone(),
            scratch: arena(scratch_bytes(1), Wish::Off)?,
            clock: Arc::new(SinceStart(Instant::now())),
            spawn: Arc::new(OnTokio(tokio::runtime::Handle::current())),
        };
        let tier = NvmeTier::open(&settings, NodeId([9; 16]), vec![source], ports).await?;
        Ok(Self { memory, disk, tier })
    }

    /// Blocks of `length` bytes that fill the file.
    pub(crate) fn bench(&self, length: u32, in_flight: usize, batch: usize) -> Result<Bench, Failure> {
        let bytes = slot_bytes(length);
        let places = self.places(bytes);
        if places.is_empty() {
            return Err(format!("a block of {length} bytes fits no extent of the file").into());
        }
        let payload: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let slots = (0..in_flight as u64).map(|at| Slot { device: 0, offset: at * u64::from(bytes), bytes });
        let slots: Vec<Slot> = slots.inspect(|slot| _ = self.memory.write(*slot, 0, &payload)).collect();
        let header = SlotHeader {
            block: BlockId(1),
            space: SpaceDigest([0; 32]),
            key: Key::new(b"block")?,
            parent: None,
            length,
            crc: crc32fast::hash(&payload),
            generation: 1,
        };
        Ok(Bench {
            memory: self.memory.clone(),
            disk: self.disk.clone(),
            tier: self.tier.clone(),
            places: Arc::new(places),
            groups: slots.chunks(batch).map(<[Slot]>::to_vec).collect(),
            header,
        })
    }

    /// Slots of this size that fill the file, in order.
    pub(crate) fn places(&self, bytes: u32) -> Vec<Slot> {
        let geometry = self.tier.geometry()[0];
        let in_extent = |extent: u64| {
            let first = FIRST_EXTENT_OFFSET + extent * geometry.extent_bytes;
            let count = geometry.extent_bytes / u64::from(bytes);
            (0..count).map(move |at| Slot { device: 0, offset: first + at * u64::from(bytes), bytes })
        };
        let extent_count = (geometry.bytes - FIRST_EXTENT_OFFSET) / geometry.extent_bytes;
        (0..extent_count).flat_map(in_extent).collect()
    }

    /// The memory blocks pass through.
    pub(crate) fn memory(&self) -> &Arena {
        &self.memory
    }

    /// The same, for others who register it.
    pub(crate) fn shared_memory(&self) -> Arc<Arena> {
        Arc::clone(&self.memory)
    }

    /// The tier.
    pub(crate) fn tier(&self) -> &NvmeTier {
        &self.tier
    }

    /// How the arena was made.
    pub(crate) fn memory_detail(&self) -> String {
        self.memory.describe()
    }

    /// How the disk is driven.
    pub(crate) fn disk_detail(&self) -> String {
        self.disk.mode()
    }
}

impl Bench {
    /// Payload bytes that one run moves.
    pub(crate) fn moved_bytes(&self) -> u64 {
        self.places.len() as u64 * u64::from(self.header.length)
    }

    /// Moves every block once.
    pub(crate) async fn run(self, way: Way, direction: Direction) -> Result<Cost, RunFailure> {
        let meter = Meter::start();
        let mut batches = self.places.chunks(self.groups[0].len());
        let mut idle: Vec<usize> = (0..self.groups.len()).collect();
        let mut flying = FuturesUnordered::new();
        loop {
            while let Some(group) = idle.pop() {
                let Some(places) = batches.next() else { break };
                let moved = self.start(way, direction, places, &self.groups[group]);
                flying.push(async move { (group, moved.await) });
            }
            let Some((group, moved)) = flying.next().await else { break };
            moved?;
            idle.push(group);
        }
        Ok(meter.stop(self.moved_bytes()))
    }

    /// Sums every slot as often as a run would.
    pub(crate) fn checksum(&self) -> Result<Cost, Failure> {
        let meter = Meter::start();
        let slots = self.groups.iter().flatten().cycle().take(self.places.len());
        for slot in slots {
            if self.memory.checksum(*slot, 0, self.header.length) != self.header.crc {
                return Err("a slot holds other bytes than were read into it".into());
            }
        }
        Ok(meter.stop(self.moved_bytes()))
    }

    fn start(
        &self,
        way: Way,
        direction: Direction,
        places: &[Slot],
        slots: &[Slot],
    ) -> BoxFuture<Result<(), RunFailure>> {
        let pairs = || slots.iter().copied().zip(places.iter().copied());
        match (way, direction) {
            (Way::Tier, Direction::Write) => {
                let stores = pairs().map(|(from, to)| Store { from, to, header: self.header.clone() });
                let outcomes = self.tier.store(stores.collect());
                Box::pin(async move { all(outcomes.await, |outcome| *outcome == StoreOutcome::Written) })
            }
            (Way::Tier, Direction::Read) => {
                let SlotHeader { block, length, crc, generation, .. } = self.header;
                let expect = Expect { block, length, crc, generation };
                let outcomes = self.tier.load(pairs().map(|(into, from)| Load { from, into, expect }).collect());
                Box::pin(async move { all(outcomes.await, |outcome| *outcome == LoadOutcome::Verified) })
            }
            (Way::Disk, Direction::Write) => {
                let ops = pairs().map(|(from, to)| DiskOp::Write { offset: to.offset, from: self.buffer(from) });
                let results = self.disk.submit(ops.collect(), Priority::Store);
                Box::pin(async move { all(results.await, Result::is_ok) })
            }
            (Way::Disk, Direction::Read) => {
                let ops = pairs().map(|(into, from)| DiskOp::Read { offset: from.offset, into: self.buffer(into) });
                let results = self.disk.submit(ops.collect(), Priority::Load);
                Box::pin(async move { all(results.await, Result::is_ok) })
            }
        }
    }

    fn buffer(&self, slot: Slot) -> DiskBuffer {
        let region = self.memory.region(slot);
        let (address, keep, arena_offset) = (region.address, region.keep, Some(region.arena_offset));
        DiskBuffer { address, bytes: slot.bytes, arena_offset, keep }
    }
}

/// An error that may leave its thread.
type RunFailure = Box<dyn std::error::Error + Send + Sync>;

fn all<T: std::fmt::Debug>(outcomes: Vec<T>, is_good: impl Fn(&T) -> bool) -> Result<(), RunFailure> {
    match outcomes.iter().find(|outcome| !is_good(outcome)) {
        Some(outcome) => Err(format!("a block was answered {outcome:?}").into()),
        None => Ok(()),
    }
}

fn arena(bytes: u64, huge_pages: Wish) -> Result<Arc<Arena>, Failure> {
    let bytes = bytes.next_multiple_of(ARENA_STEP_BYTES);
    let settings = ArenaSettings { bytes, extent_bytes: ARENA_STEP_BYTES, huge_pages, ..ArenaSettings::default() };
    Ok(Arc::new(Arena::create(&settings)?))
}

struct OnTokio(tokio::runtime::Handle);

impl Spawn for OnTokio {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        self.0.spawn(task);
    }
}

struct SinceStart(Instant);

impl Clock for SinceStart {
    fn now(&self) -> Moment {
        Moment(self.0.elapsed())
    }

    fn unix_ms(&self) -> u64 {
        0
    }

    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(pause))
    }
}
