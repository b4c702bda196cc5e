//! Blocks that a worker saves into GPU memory: the next load finds them there, and host memory and NVMe have them as always.

use std::ops::Range;

use kvtier_client::local::{Committed, GpuMemory, LoadChain, NotMoved, SaveChain};
use kvtier_client::{Durability, LocalClient};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::hot::{BYTES, POOL, load, press};
use super::lent::{Gate, Kv, gpu_world, nhd, tier, wait_for_gpu};
use super::puppet::Puppet;
use super::{damage, digest, local_until, wait_until_free, writer};

/// A worker's memory, and a chain whose bytes are those of its blocks, in turn.
struct Worker {
    // Its files are open until the memory is given back.
    _kv: Kv,
    lent: GpuMemory,
    chain: Vec<Block>,
    numbers: Vec<u64>,
}

impl Worker {
    fn new(client: &LocalClient, name: &str, count: usize) -> Self {
        let (layout, sizes) = nhd(4);
        let kv = Kv::new(layout, sizes, 1);
        let numbers: Vec<u64> = (0..count as u64).map(|number| number % kv.layout.block_count).collect();
        let filled = |(block, number): (Block, &u64)| Block { payload: kv.block(*number).into(), ..block };
        let chain = Block::chain(name, count, BYTES).into_iter().zip(&numbers).map(filled).collect();
        Self { lent: kv.lend(client), _kv: kv, chain, numbers }
    }

    /// Saves blocks of the chain into GPU memory.
    fn save(&self, world: &World, range: Range<usize>, durability: Durability) -> Vec<Committed> {
        let parent = range.start.checked_sub(1).map(|before| &self.chain[before].key[..]);
        let names = keys(&self.chain[range.clone()]);
        let chain = SaveChain::new(digest(world), &names, &self.numbers[range]);
        let wanted = SaveChain { parent, durability, to_pool: true, ..chain };
        self.lent.save(&wanted).expect("answered").expect("moved")
    }
}

fn stored(chain: &[Block]) -> Vec<Committed> {
    chain.iter().map(|block| Committed::Stored { crc: block.crc() }).collect()
}

/// Loads a chain into memory of its own; how many blocks came from GPU memory.
fn loaded(client: &LocalClient, world: &World, chain: &[Block]) -> u32 {
    let (layout, sizes) = nhd(4);
    let into = Kv::new(layout, sizes, 2);
    load(&into, &into.lend(client), world, chain)
}

#[tokio::test]
async fn a_conversation_saved_into_gpu_memory_is_loaded_from_there_turn_by_turn() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let worker = Worker::new(&client, "turns", 8);
    let chain = worker.chain.clone();
    assert_eq!(worker.save(&world, 0..3, Durability::Volatile), stored(&chain[..3]));
    assert_eq!(loaded(&client, &world, &chain[..3]), 3, "nobody has loaded it before");
    assert_eq!(worker.save(&world, 3..8, Durability::Durable), stored(&chain[3..]));
    assert_eq!(loaded(&client, &world, &chain), 8);
    assert_eq!(worker.save(&world, 0..8, Durability::Volatile), vec![Committed::Duplicate; 8]);
    // In host memory like any other, and on NVMe.
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
    let status = world.wire.status_until("a status", |_| true).await;
    assert_eq!((tier(&status).blocks, tier(&status).stores), (8, 8), "{:?}", tier(&status));
    drop((worker, client));
    wait_until_free(&mut world).await;
    let mut world = world.crash_and_restart().await;
    wait_for_gpu(&mut world).await;
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn what_has_no_room_in_gpu_memory_is_saved_all_the_same() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    // Room for 51.
    let worker = Worker::new(&client, "long", 60);
    assert_eq!(worker.save(&world, 0..60, Durability::Volatile), stored(&worker.chain));
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &worker.chain).await;
    let status = world.wire.status_until("a status", |_| true).await;
    assert_eq!(tier(&status).blocks, 51, "its beginning: {:?}", tier(&status));
    // Its parent is in host memory only.
    let orphan = Worker::new(&client, "orphan", 2);
    super::store(&client, digest(&world), &orphan.chain[..1]);
    assert_eq!(orphan.save(&world, 1..2, Durability::Volatile), stored(&orphan.chain[1..]));
    assert_eq!(loaded(&client, &world, &orphan.chain), 0, "nobody could find it there");
}

#[tokio::test]
async fn a_pin_keeps_what_was_saved_into_gpu_memory_under_pressure() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let worker = Worker::new(&client, "agent", 3);
    worker.save(&world, 0..3, Durability::Volatile);
    let names = worker.chain.iter().map(|block| block.key.to_vec()).collect();
    let (space, name) = (world.space.clone(), "agent".to_owned());
    world.wire.client.pin(v1::PinRequest { space, name, keys: names, ttl_ms: 600_000 }).await.expect("pinned");
    let (layout, sizes) = nhd(4);
    let other = Kv::new(layout, sizes, 3);
    let others = other.lend(&client);
    press(&other, &others, &mut world, &client, 0..10).await;
    assert_eq!(loaded(&client, &world, &worker.chain), 3);
}

#[tokio::test]
async fn a_copy_saved_into_gpu_memory_that_changes_there_is_not_delivered() {
    let world = gpu_world(POOL).await;
    let client = writer(&world);
    let worker = Worker::new(&client, "rotten", 3);
    worker.save(&world, 0..3, Durability::Volatile);
    // Where the simulated GPU has it; the worker's memory is a file.
    damage::pool_copy(&world, &worker.chain[1].payload);
    let names = keys(&worker.chain);
    let wanted = LoadChain::new(digest(&world), &names, &[0, 1, 2]);
    let ended = worker.lent.load(&wanted).expect("answered").finish().expect("answered");
    assert_eq!(ended, Err(NotMoved::Corrupt { index: 1 }));
}

#[tokio::test]
async fn a_worker_killed_while_it_saves_into_gpu_memory_leaves_nothing_there() {
    let mut world = gpu_world(POOL).await;
    let gate = Gate::new();
    let mut puppet = Puppet::start(&world);
    puppet.lend(&gate);
    puppet.tell("save-to-pool half 3");
    local_until(&mut world, "a save under way", |local| local.moves == 1).await;
    puppet.kill();
    let told = world.wire.status_until("the worker to be gone", |status| status.local.expect("on").clients == 0).await;
    assert_eq!(told.pending_puts, 3, "INV-8: the device may still write the host slots");
    assert!(tier(&told).used_bytes > 3 * BYTES as u64, "INV-8: nor are those of the pool free: {:?}", tier(&told));
    assert_eq!(tier(&told).blocks, 0);
    gate.open();
    let free = |status: &v1::StatusResponse| tier(status).used_bytes == 0 && status.pending_puts == 0;
    world.wire.status_until("all slots to be free", free).await;
    let space = world.space.clone();
    assert_eq!(world.wire.resident(&space, &keys(&Block::chain("half", 3, BYTES))).await, 0);
}
