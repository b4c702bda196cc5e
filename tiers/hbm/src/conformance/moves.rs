//! The checks.

use std::sync::Arc;

use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};

use super::{Dice, Ground, Shuttle, gather, random_layout, scatter};
use crate::chain::{BlockPlace, ChainBlock, ChainMove, MoveError, MoveProgress, WorkerMemory};
use crate::checksum::{SPANS_MAX, Span, finish};
use crate::gpu::{GpuError, Lane, Place, Run};
use crate::layout::{Direction, KvLayout};

const LAYOUTS: u64 = 20;
const BLOCKS: u64 = 3;

impl Ground {
    fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }

    fn shuttle(&self) -> Shuttle {
        Shuttle::new(&self.gpu).expect("pinned memory")
    }

    fn host_slot(number: u64, length: u32) -> Slot {
        Slot { device: 0, offset: number * u64::from(slot_bytes(length)), bytes: slot_bytes(length) }
    }

    fn seen(&self, number: u64, length: u32) -> Vec<u8> {
        self.memory.view(Self::host_slot(number, length), 0, length, Box::new(())).to_vec()
    }

    /// A worker's memory with these bytes in it.
    fn worker(&self, layout: &KvLayout, memories: &[Vec<u8>]) -> Arc<WorkerMemory> {
        let bytes: Vec<_> = memories.iter().map(|memory| memory.len() as u64).collect();
        let worker = WorkerMemory::of_own(&self.tier, 0, &bytes, layout.clone()).expect("the layout is valid");
        let shuttle = self.shuttle();
        for (memory, bytes) in worker.memories().iter().zip(memories) {
            shuttle.upload(Place { memory: *memory, offset: 0 }, bytes).expect("upload");
        }
        worker
    }

    fn bytes_of(&self, worker: &WorkerMemory, sizes: &[u64]) -> Vec<Vec<u8>> {
        let shuttle = self.shuttle();
        let read = |(memory, bytes): (_, &u64)| shuttle.download(Place { memory, offset: 0 }, *bytes as usize);
        worker.memories().iter().copied().zip(sizes).map(|pair| read(pair).expect("download")).collect()
    }

    /// Begins a move of blocks `numbers` of a worker to or from slots 0, 1, ….
    fn begin(&self, worker: &Arc<WorkerMemory>, direction: Direction, chain: &[ChainBlock]) -> MoveProgress {
        let (blocks, layers) = (chain.to_vec(), Vec::new());
        worker
            .begin(&self.tier, ChainMove { layers, ..ChainMove::new(direction, blocks, Box::new(())) })
            .expect("the move begins")
    }
}

fn chain(numbers: &[u64], length: u32, in_pool: bool, crcs: Option<&[u32]>) -> Vec<ChainBlock> {
    let block = |(at, number): (usize, &u64)| {
        let slot = Ground::host_slot(at as u64, length);
        let place = if in_pool { BlockPlace::Pool(slot) } else { BlockPlace::Host(slot) };
        ChainBlock { number: *number, place, expect_crc: crcs.map(|crcs| crcs[at]) }
    };
    numbers.iter().enumerate().map(block).collect()
}

/// Distinct block numbers in any order.
fn numbers(dice: &mut Dice, layout: &KvLayout) -> Vec<u64> {
    let mut all: Vec<u64> = (0..layout.block_count).collect();
    (0..BLOCKS.min(layout.block_count)).map(|_| all.swap_remove(dice.below(all.len() as u64) as usize)).collect()
}

pub(super) async fn copies_are_exact(ground: Ground) {
    let (mut dice, shuttle) = (ground.dice(), ground.shuttle());
    let device = ground.gpu.allocate(1 << 20).expect("device memory");
    for (offset, length) in [(0, 1), (0, 1 << 20), (4096, 5000), (1 << 19, 70_001), (12_345, 999)] {
        let bytes = dice.bytes(length);
        let at = Place { memory: device, offset };
        shuttle.upload(at, &bytes).expect("upload");
        assert!(shuttle.download(at, length).expect("download") == bytes, "{length} bytes at {offset}");
    }
    let outside = Run {
        from: Place { memory: device, offset: (1 << 20) - 10 },
        to: Place { memory: device, offset: 0 },
        bytes: 11,
    };
    let refused = ground.gpu.copy(Lane::LoadIn, &[outside]);
    assert!(matches!(refused, Err(GpuError::Invalid(_))), "a copy past the end: {refused:?}");
    ground.gpu.release(device).expect("release");
}

pub(super) async fn checksums_are_crc32(ground: Ground) {
    let (mut dice, shuttle) = (ground.dice(), ground.shuttle());
    let bytes = dice.bytes(3 << 20);
    let device = ground.gpu.allocate(bytes.len() as u64).expect("device memory");
    let answers = ground.gpu.pin(4 * SPANS_MAX as u64).expect("pinned memory");
    shuttle.upload(Place { memory: device, offset: 0 }, &bytes).expect("upload");
    let edges = [1u32, 15, 16, 17, 511, 512, 513, 16_383, 16_384, 16_385, 131_072, 131_073, 2 << 20, (2 << 20) + 31];
    let random = (0..40).map(|_| (dice.below(4096) * 16, 1 + dice.below(1 << 20) as u32)).collect::<Vec<_>>();
    let all: Vec<(u64, u32)> = edges.into_iter().map(|length| (4096, length)).chain(random).collect();
    let spans: Vec<Span> =
        all.iter().map(|(at, bytes)| Span { at: Place { memory: device, offset: *at }, bytes: *bytes }).collect();
    let into = Place { memory: answers, offset: 0 };
    // Twice: what the first left behind must not matter.
    for _ in 0..2 {
        ground.gpu.checksum(Lane::SaveOut, &spans, into).expect("checksum");
        let mark = ground.gpu.mark(Lane::SaveOut).expect("mark");
        ground.gpu.wait(mark).expect("wait");
        for (number, (at, length)) in all.iter().enumerate() {
            let mut raw = [0; 4];
            ground.gpu.read(into.after(number as u64 * 4), &mut raw).expect("read");
            let right = crc32fast::hash(&bytes[*at as usize..][..*length as usize]);
            assert_eq!(finish(u32::from_le_bytes(raw), *length), right, "{length} bytes at {at}");
        }
    }
    for memory in [device, answers] {
        ground.gpu.release(memory).expect("release");
    }
}

pub(super) async fn lanes_do_not_disturb_each_other(ground: Ground) {
    let (mut dice, shuttle) = (ground.dice(), ground.shuttle());
    let bytes = dice.bytes(1 << 20);
    let device = ground.gpu.allocate(bytes.len() as u64).expect("device memory");
    let answers = ground.gpu.pin(4 * Lane::ALL.len() as u64 * SPANS_MAX as u64).expect("pinned memory");
    shuttle.upload(Place { memory: device, offset: 0 }, &bytes).expect("upload");
    for _ in 0..4 {
        let lanes = Lane::ALL.map(|lane| {
            let spans: Vec<(u64, u32)> =
                (0..16).map(|_| (dice.below(32_768) * 16, 1 + dice.below(1 << 19) as u32)).collect();
            let place = |(at, bytes): &(u64, u32)| Span { at: Place { memory: device, offset: *at }, bytes: *bytes };
            let into = Place { memory: answers, offset: 4 * (lane as usize * SPANS_MAX) as u64 };
            ground.gpu.checksum(lane, &spans.iter().map(place).collect::<Vec<_>>(), into).expect("checksum");
            (spans, into, ground.gpu.mark(lane).expect("mark"))
        });
        for (spans, into, mark) in lanes {
            let lane = mark.lane.name();
            ground.gpu.wait(mark).expect("wait");
            for (number, (at, length)) in spans.iter().enumerate() {
                let mut raw = [0; 4];
                ground.gpu.read(into.after(number as u64 * 4), &mut raw).expect("read");
                let right = crc32fast::hash(&bytes[*at as usize..][..*length as usize]);
                assert_eq!(finish(u32::from_le_bytes(raw), *length), right, "{length} bytes at {at} on lane {lane}");
            }
        }
    }
    for memory in [device, answers] {
        ground.gpu.release(memory).expect("release");
    }
}

pub(super) async fn random_layouts_move(ground: Ground) {
    let mut dice = ground.dice();
    for number in 0..LAYOUTS {
        let (layout, sizes) = random_layout(&mut dice);
        assert_eq!(layout.validate(&sizes), Ok(()), "layout {number}: {layout:?}");
        let what = format!("seed {}, layout {number}: {layout:?}", ground.seed);
        let length = layout.block_bytes() as u32;
        let full: Vec<Vec<u8>> = sizes.iter().map(|bytes| dice.bytes(*bytes as usize)).collect();
        let worker = ground.worker(&layout, &full);
        let saved = numbers(&mut dice, &layout);
        let blocks: Vec<Vec<u8>> = saved.iter().map(|number| gather(&layout, &full, *number)).collect();
        let crcs: Vec<u32> = blocks.iter().map(|block| crc32fast::hash(block)).collect();

        let to_host = ground.begin(&worker, Direction::Gather, &chain(&saved, length, false, None));
        assert_eq!(to_host.wait_end().await, Ok(()), "{what}");
        for (at, block) in blocks.iter().enumerate() {
            assert!(ground.seen(at as u64, length) == *block, "block {at} gathered to the host; {what}");
        }
        let onward: Vec<Slot> = (0..saved.len() as u64).map(|at| Ground::host_slot(BLOCKS + at, length)).collect();
        let call = ChainMove::new(Direction::Gather, chain(&saved, length, true, None), Box::new(()));
        let call = ChainMove { onward, ..call };
        let to_pool = worker.begin(&ground.tier, call).expect("the move begins");
        assert_eq!(to_pool.wait_end().await, Ok(()), "{what}");
        assert_eq!(to_pool.checksums(), crcs, "checksums of the gathered blocks; {what}");
        for (at, block) in blocks.iter().enumerate() {
            assert!(ground.seen(BLOCKS + at as u64, length) == *block, "block {at} copied on to the host; {what}");
        }

        for in_pool in [false, true] {
            let mut expected: Vec<Vec<u8>> = sizes.iter().map(|bytes| vec![0xa5; *bytes as usize]).collect();
            let other = ground.worker(&layout, &expected);
            let loaded = numbers(&mut dice, &layout);
            let back = ground.begin(&other, Direction::Scatter, &chain(&loaded, length, in_pool, Some(&crcs)));
            assert_eq!(back.wait_end().await, Ok(()), "{what}");
            loaded.iter().zip(&blocks).for_each(|(number, block)| scatter(&layout, &mut expected, *number, block));
            assert!(ground.bytes_of(&other, &sizes) == expected, "scattered, from the pool: {in_pool}; {what}");
        }
    }
}

pub(super) async fn layers_arrive_in_order(ground: Ground) {
    let page = 16 * 8 * 64 * 2;
    let layout = KvLayout {
        surfaces: (0..8).map(|memory| crate::layout::Surface { memory, offset: 0 }).collect(),
        surfaces_per_layer: 1,
        planes: 2,
        tokens: 16,
        heads: 8,
        head_elements: 64,
        element_bytes: 2,
        block_count: 4,
        block_stride: page,
        plane_stride: 4 * page,
        token_stride: 8 * 64 * 2,
        head_stride: 64 * 2,
    };
    let sizes = vec![8 * page; 8];
    let mut dice = ground.dice();
    let full: Vec<Vec<u8>> = sizes.iter().map(|bytes| dice.bytes(*bytes as usize)).collect();
    let worker = ground.worker(&layout, &full);
    let length = layout.block_bytes() as u32;
    let saved = ground.begin(&worker, Direction::Gather, &chain(&[2, 0], length, false, None));
    assert_eq!(saved.wait_end().await, Ok(()));
    let empty: Vec<Vec<u8>> = sizes.iter().map(|bytes| vec![0; *bytes as usize]).collect();
    let other = ground.worker(&layout, &empty);
    let (blocks, layers) = (chain(&[2, 0], length, false, None), vec![0..1, 1..4, 5..8]);
    let call = ChainMove { layers, ..ChainMove::new(Direction::Scatter, blocks, Box::new(())) };
    let progress = other.begin(&ground.tier, call).expect("the move begins");
    for (range, layers) in [0..1, 1..4, 5..8].into_iter().enumerate() {
        assert_eq!(progress.wait(range).await, Ok(()), "range {range}");
        let seen = ground.bytes_of(&other, &sizes);
        for layer in layers {
            for block in [2usize, 0] {
                let k = block * page as usize..(block + 1) * page as usize;
                assert!(seen[layer][k.clone()] == full[layer][k], "layer {layer} of block {block} has arrived");
            }
        }
    }
    assert_eq!(progress.wait_end().await, Ok(()));
    assert_eq!(progress.wait(3).await, Err(MoveError::NoRange(3)));
    assert!(ground.bytes_of(&other, &sizes)[4] == empty[4], "a layer nobody asked for stays as it was");
}

pub(super) async fn corrupt_blocks_are_not_loaded(ground: Ground) {
    let mut dice = ground.dice();
    let (layout, sizes) = random_layout(&mut dice);
    let full: Vec<Vec<u8>> = sizes.iter().map(|bytes| dice.bytes(*bytes as usize)).collect();
    let worker = ground.worker(&layout, &full);
    let length = layout.block_bytes() as u32;
    let crcs: Vec<u32> = [0, 1].iter().map(|number| crc32fast::hash(&gather(&layout, &full, *number))).collect();
    for in_pool in [false, true] {
        let saved = ground.begin(&worker, Direction::Gather, &chain(&[0, 1], length, in_pool, None));
        assert_eq!(saved.wait_end().await, Ok(()));
        let slot = Ground::host_slot(1, length);
        if in_pool {
            let memory = ground.tier.pool_memory(0).expect("the tier has a pool");
            let at = Place { memory, offset: slot.offset + PAGE_BYTES + u64::from(length) - 1 };
            ground.shuttle().damage(at).expect("damage");
        } else {
            let last = ground.seen(1, length)[length as usize - 1];
            ground.memory.write(slot, length - 1, &[last ^ 1]);
        }
        let back = ground.begin(&worker, Direction::Scatter, &chain(&[0, 1], length, in_pool, Some(&crcs)));
        assert_eq!(back.wait_end().await, Err(MoveError::Corrupt { place: 1 }), "in the pool: {in_pool}");
        assert_eq!(back.wait(0).await, Err(MoveError::Corrupt { place: 1 }), "no layer counts as arrived");
    }
}
