//! Blocks that are saved into the pool: found once their headers are written, never before, and with nobody else's bytes.

use std::sync::Arc;

use kvtier_engine::header::{HEADER_BYTES, SlotHeader};
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::{LoadOutcome, Memory};
use kvtier_hbm::WorkerMemory;
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove, MoveRefused};
use kvtier_hbm::conformance::{Dice, Shuttle, gather};
use kvtier_hbm::gpu::{Gpu, Place};
use kvtier_hbm::layout::{Direction, KvLayout, Surface};
use kvtier_hbm::pool::{Fresh, Piece, Promotion, Room};
use kvtier_hbm::simulated::Faults;
use kvtier_identity::{BlockId, Key, SpaceDigest};

use super::pool::Hot;
use super::rig::{MIB, slot};

/// Of a block of the worker: no whole pages.
const BYTES: u32 = 12_600;
const BLOCKS: u64 = 8;
const STALE: u8 = 0xa5;

fn layout() -> KvLayout {
    KvLayout {
        surfaces: vec![Surface { memory: 0, offset: 0 }],
        surfaces_per_layer: 1,
        planes: 1,
        tokens: 21,
        heads: 3,
        head_elements: 100,
        element_bytes: 2,
        block_count: BLOCKS,
        block_stride: u64::from(BYTES),
        plane_stride: 0,
        token_stride: 600,
        head_stride: 200,
    }
}

fn key(number: u64) -> Key {
    Key::new(&number.to_le_bytes()).expect("eight bytes are a key")
}

fn fresh(number: u64, parent: Option<u64>) -> Fresh {
    let parent = parent.map(|parent| BlockId(parent.into()));
    Fresh { block: BlockId(number.into()), space: 1, key: key(number), parent, length: BYTES }
}

/// A chain of blocks 1, 2, ….
fn chain(count: u64) -> Vec<Fresh> {
    (1..=count).map(|number| fresh(number, (number > 1).then(|| number - 1))).collect()
}

fn header(number: u64, crc: u32) -> SlotHeader {
    let Fresh { block, key, parent, length, .. } = fresh(number, (number > 1).then(|| number - 1));
    SlotHeader { block, space: SpaceDigest([1; 32]), key, parent, length, crc, generation: 0 }
}

/// A pool full of somebody's bytes, and a worker.
struct Saving {
    hot: Hot,
    shuttle: Shuttle,
    worker: Arc<WorkerMemory>,
    memory: Vec<u8>,
}

impl Saving {
    fn new() -> Self {
        let hot = Hot::new();
        let gpu = Arc::clone(&hot.rig.gpus[0]) as Arc<dyn Gpu>;
        let shuttle = Shuttle::new(&gpu).expect("pinned memory");
        let pool = hot.rig.tier.pool_memory(0).expect("the GPU has a pool");
        shuttle.upload(Place { memory: pool, offset: 0 }, &vec![STALE; MIB as usize]).expect("upload");
        let memory = Dice::new(5).bytes((u64::from(BYTES) * BLOCKS) as usize);
        let worker = WorkerMemory::of_own(&hot.rig.tier, 0, &[memory.len() as u64], layout()).expect("a good layout");
        shuttle.upload(Place { memory: worker.memories()[0], offset: 0 }, &memory).expect("upload");
        Self { hot, shuttle, worker, memory }
    }

    fn bytes(&self, number: u64) -> Vec<u8> {
        gather(&layout(), std::slice::from_ref(&self.memory), number)
    }

    fn crc(&self, number: u64) -> u32 {
        crc32fast::hash(&self.bytes(number))
    }

    fn reserve(&self, chain: Vec<Fresh>) -> Vec<Room> {
        self.hot.pool.reserve(0, chain)
    }

    /// Gathers the worker's blocks 1, 2, … into rooms, and on to host slots of these numbers.
    fn save(&self, rooms: &[Room], host: u64) -> Vec<u32> {
        let place = |(room, number)| ChainBlock { number, place: BlockPlace::Pool(room), expect_crc: None };
        let blocks = rooms.iter().map(|room| room.slot).zip(1..).map(place).collect();
        let onward = (host..).take(rooms.len()).map(|number| slot(number, BYTES)).collect();
        let call = ChainMove { onward, ..ChainMove::new(Direction::Gather, blocks, Box::new(())) };
        let progress = self.worker.begin(&self.hot.rig.tier, call).expect("the move begins");
        assert_eq!(self.hot.rig.run(progress.wait_end()), Ok(()));
        progress.checksums()
    }

    fn fill(&self, rooms: Vec<Room>, crcs: &[u32]) -> usize {
        let headers = crcs.iter().zip(1..).map(|(crc, number)| header(number, *crc));
        self.hot.rig.run(self.hot.pool.fill(rooms.into_iter().zip(headers).collect()))
    }

    /// How many blocks of the chain are found.
    fn found(&self, count: u64) -> usize {
        let known = |number: u64| (BlockId(number.into()), BYTES, self.crc(number));
        self.hot.pool.hold(Piece::whole(0, BYTES), &(1..=count).map(known).collect::<Vec<_>>()).len()
    }
}

#[test]
fn a_saved_chain_is_found_when_it_is_filled_and_demoted_as_it_was() {
    let saving = Saving::new();
    let rooms = saving.reserve(chain(3));
    assert_eq!(rooms.len(), 3);
    let crcs = saving.save(&rooms, 4);
    assert_eq!(crcs, [1, 2, 3].map(|number| saving.crc(number)), "summed by the GPU");
    for number in 1..=3 {
        let seen = saving.hot.rig.memory.view(slot(number + 3, BYTES), 0, BYTES, Box::new(()));
        assert!(seen == saving.bytes(number), "block {number} was copied on to the host");
    }
    assert_eq!(saving.found(3), 0, "not before its headers are written");
    assert!(saving.hot.told().is_empty());
    assert_eq!(saving.fill(rooms, &crcs), 3);
    assert_eq!((saving.found(3), saving.hot.told().len()), (3, 3));
    for number in 1..=3 {
        let known = (BlockId(number.into()), BYTES, saving.crc(number));
        let held = saving.hot.pool.hold(Piece::whole(0, BYTES), &[known]).pop().expect("found");
        let into = slot(0, BYTES);
        assert_eq!(saving.hot.rig.run(saving.hot.pool.demote(held, into, Box::new(()))), LoadOutcome::Verified);
        assert!(saving.hot.rig.memory.view(into, 0, BYTES, Box::new(())) == saving.bytes(number));
    }
    saving.hot.rig.assert_nothing_was_touched_after_its_release();
}

#[test]
fn nothing_that_was_in_a_slot_before_travels_with_a_saved_block() {
    let saving = Saving::new();
    let rooms = saving.reserve(chain(2));
    let slots: Vec<_> = rooms.iter().map(|room| room.slot).collect();
    let crcs = saving.save(&rooms, 4);
    assert_eq!(saving.fill(rooms, &crcs), 2);
    let pool = saving.hot.rig.tier.pool_memory(0).expect("the GPU has a pool");
    for (slot, number) in slots.into_iter().zip(1..) {
        let pages = (PAGE_BYTES + u64::from(BYTES)).next_multiple_of(PAGE_BYTES) as usize;
        let seen = saving.shuttle.download(Place { memory: pool, offset: slot.offset }, pages).expect("download");
        let (page, payload) = seen.split_at(PAGE_BYTES as usize);
        assert!(page[HEADER_BYTES..].iter().all(|byte| *byte == 0), "behind the header");
        let (payload, tail) = payload.split_at(BYTES as usize);
        assert!(payload == saving.bytes(number));
        assert!(!tail.is_empty() && tail.iter().all(|byte| *byte == 0), "behind the payload");
    }
}

#[test]
fn a_room_that_is_dropped_is_free_and_the_block_may_come_again() {
    let saving = Saving::new();
    let rooms = saving.reserve(chain(3));
    assert!(saving.reserve(chain(3)).is_empty(), "it is on its way");
    saving.save(&rooms, 4);
    drop(rooms);
    assert_eq!((saving.found(3), saving.hot.pool.count().slot_bytes), (0, 0));
    // All of the pool can be used.
    (100..120).for_each(|number| assert_eq!(saving.hot.promote(number), Promotion::Stored));
    let rooms = saving.reserve(chain(3));
    let crcs = saving.save(&rooms, 4);
    assert_eq!(saving.fill(rooms, &crcs), 3);
    assert!(saving.reserve(chain(3)).is_empty(), "it is there");
}

#[test]
fn only_what_follows_its_parent_has_room() {
    let saving = Saving::new();
    assert!(saving.reserve(vec![fresh(2, Some(1))]).is_empty(), "its parent is not there");
    let broken = vec![fresh(1, None), fresh(2, Some(1)), fresh(4, Some(3)), fresh(5, Some(4))];
    let rooms = saving.reserve(broken);
    assert_eq!(rooms.len(), 2);
    let crcs = saving.save(&rooms, 4);
    // The first is filled only: the second one's slot is free.
    assert_eq!(saving.fill(rooms, &crcs[..1]), 1);
    assert_eq!((saving.found(3), saving.hot.pool.count().blocks), (1, 1));
}

#[test]
fn a_block_that_is_forgotten_on_its_way_does_not_come() {
    let saving = Saving::new();
    let rooms = saving.reserve(chain(3));
    let crcs = saving.save(&rooms, 4);
    saving.hot.pool.forget(BlockId(2));
    assert_eq!(saving.fill(rooms, &crcs), 1, "nor what comes after it");
    assert_eq!((saving.found(3), saving.hot.told().len()), (1, 1));
}

#[test]
fn a_gpu_that_is_lost_meanwhile_has_nothing_of_it() {
    let saving = Saving::new();
    let rooms = saving.reserve(chain(3));
    let crcs = saving.save(&rooms, 4);
    saving.hot.rig.gpus[0].set_faults(Faults { lose_after_pieces: Some(0), ..Faults::default() });
    assert_eq!(saving.fill(rooms, &crcs), 0);
    assert_eq!((saving.found(3), saving.hot.pool.count().slot_bytes), (0, 0));
}

#[test]
fn slots_to_copy_on_to_that_make_no_sense_are_refused() {
    let saving = Saving::new();
    let rooms = saving.reserve(chain(2));
    let block = |place| ChainBlock { number: 0, place, expect_crc: None };
    let pool = vec![block(BlockPlace::Pool(rooms[0].slot)), block(BlockPlace::Pool(rooms[1].slot))];
    let host = vec![block(BlockPlace::Host(slot(0, BYTES)))];
    for (direction, blocks, onward, expected) in [
        (Direction::Gather, pool.clone(), vec![slot(1, BYTES)], "1 slots to copy on to, for 2 whole blocks"),
        (Direction::Scatter, pool.clone(), vec![slot(1, BYTES); 2], "2 slots to copy on to, for 0 whole blocks"),
        (Direction::Gather, host, vec![slot(1, BYTES)], "1 slots to copy on to, for 0 whole blocks"),
        (Direction::Gather, pool, vec![slot(1, BYTES), slot(2, 100)], "block 1 of 12600 bytes does not fit"),
    ] {
        let call = ChainMove { onward, ..ChainMove::new(direction, blocks, Box::new(())) };
        match saving.worker.begin(&saving.hot.rig.tier, call).map(drop) {
            Err(MoveRefused::Invalid(why)) => assert!(why.contains(expected), "{why:?} does not say {expected:?}"),
            other => panic!("{other:?}"),
        }
    }
}
