//! Blocks that are kept in GPU memory: used twice or pinned, found again, evicted, and never other bytes.

use kvtier_client::SpaceDigest;
use kvtier_client::local::{GpuMemory, LoadChain};
use kvtier_proto::v1;
use kvtier_tests::block::{keys, payload};
use kvtier_tests::{Block, World};

use super::lent::{Kv, gpu_world, nhd, nhd_of, tier};
use super::{digest, store, wait_until_free, writer};

pub const BYTES: usize = 16_384;
/// One extent: 51 slots of blocks of 16 KiB with their headers.
pub const POOL: &[(&str, &str)] = &[("hbm.bytes", "1MiB"), ("hbm.extent_bytes", "1MiB")];

/// Longer than any test.
const TTL_MS: u64 = 600_000;

pub fn plain(chain: &[Block]) -> Vec<Vec<u8>> {
    chain.iter().map(|block| block.key.to_vec()).collect()
}

/// Loads a chain into the first blocks; how many came from GPU memory. The bytes must be right.
#[track_caller]
pub fn load(kv: &Kv, lent: &GpuMemory, world: &World, chain: &[Block]) -> u32 {
    load_of(digest(world), kv, lent, chain)
}

/// The same from any space.
#[track_caller]
pub fn load_of(space: SpaceDigest, kv: &Kv, lent: &GpuMemory, chain: &[Block]) -> u32 {
    let blocks: Vec<u64> = (0..chain.len() as u64).collect();
    let loading = lent.load(&LoadChain::new(space, &keys(chain), &blocks)).expect("answered");
    assert_eq!(loading.len(), chain.len(), "{:?}", loading.miss);
    let from_pool = loading.from_pool;
    assert_eq!(loading.finish().expect("answered"), Ok(()));
    for (number, block) in blocks.iter().zip(chain) {
        assert!(kv.block(*number) == block.payload, "wrong bytes for {:?}", block.key);
    }
    from_pool
}

/// Loads it twice and waits until so many blocks have been taken in since the start.
pub async fn warm(kv: &Kv, lent: &GpuMemory, world: &mut World, chain: &[Block], stores: u64) {
    load(kv, lent, world, chain);
    load(kv, lent, world, chain);
    world.wire.status_until("the chain in GPU memory", |status| tier(status).stores >= stores).await;
}

#[tokio::test]
async fn a_chain_loaded_twice_is_loaded_from_gpu_memory_and_never_with_old_bytes() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let (layout, sizes) = nhd(4);
    let kv = Kv::new(layout, sizes, 1);
    let lent = kv.lend(&client);
    let chain = Block::chain("twice", 3, BYTES);
    store(&client, digest(&world), &chain);
    assert_eq!(load(&kv, &lent, &world, &chain), 0, "nobody knows yet that it will be used again");
    warm(&kv, &lent, &mut world, &chain, 3).await;
    assert_eq!(load(&kv, &lent, &world, &chain), 3);
    let status = world.wire.status_until("the pool", |status| tier(status).blocks == 3).await;
    assert!(tier(&status).used_bytes > 3 * BYTES as u64 && tier(&status).hits >= 3, "{:?}", tier(&status));
    // A longer chain: its beginning is there.
    let longer = Block::chain("twice", 5, BYTES);
    store(&client, digest(&world), &longer[3..]);
    assert_eq!(load(&kv, &lent, &world, &longer), 3);
    // Other bytes under the same keys.
    let (space, keys) = (world.space.clone(), plain(&chain));
    world.wire.client.delete(v1::DeleteRequest { space, keys }).await.expect("deleted");
    let other = |block: &Block| Block { payload: payload(b"other", BYTES), ..block.clone() };
    let others: Vec<Block> = chain.iter().map(other).collect();
    store(&client, digest(&world), &others);
    assert_eq!(load(&kv, &lent, &world, &others), 0, "what is in GPU memory is not what was put");
    drop((lent, client));
    wait_until_free(&mut world).await;
}

/// With one place for each block in the memory of what was used lately, some blocks of so long a chain took each other's, each
/// time, and it ended there for ever.
#[tokio::test]
async fn every_block_of_a_long_chain_is_kept_in_gpu_memory_at_its_second_load() {
    const COUNT: usize = 800;
    let mut world = gpu_world(&[("hbm.bytes", "8MiB"), ("hbm.extent_bytes", "1MiB")]).await;
    let client = writer(&world);
    let (layout, sizes) = nhd_of(1, COUNT as u64);
    let lent = Kv::new(layout, sizes, 1).lend(&client);
    let (space, chain) = (digest(&world), Block::chain("long", COUNT, BYTES / 4));
    store(&client, space, &chain);
    let (keys, blocks): (_, Vec<u64>) = (keys(&chain), (0..COUNT as u64).collect());
    let load = || {
        let loading = lent.load(&LoadChain::new(space, &keys, &blocks)).expect("answered");
        let found = (loading.len(), loading.from_pool as usize);
        assert_eq!(loading.finish().expect("answered"), Ok(()));
        found
    };
    assert_eq!([load(), load()], [(COUNT, 0); 2]);
    world.wire.status_until("all of it in GPU memory", |status| tier(status).blocks == COUNT as u64).await;
    assert_eq!(load(), (COUNT, COUNT));
}

#[tokio::test]
async fn pinned_blocks_stay_in_gpu_memory_under_pressure_until_they_are_unpinned() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let (layout, sizes) = nhd(4);
    let kv = Kv::new(layout, sizes, 1);
    let lent = kv.lend(&client);
    let agent = Block::chain("agent", 3, BYTES);
    store(&client, digest(&world), &agent);
    let (space, name) = (world.space.clone(), "agent".to_owned());
    let pin = v1::PinRequest { space: space.clone(), name: name.clone(), keys: plain(&agent), ttl_ms: TTL_MS };
    world.wire.client.pin(pin).await.expect("pinned");
    assert_eq!(load(&kv, &lent, &world, &agent), 0, "a pinned chain is taken in at its first load");
    world.wire.status_until("the agent in GPU memory", |status| tier(status).stores == 3).await;
    press(&kv, &lent, &mut world, &client, 0..10).await;
    assert_eq!(load(&kv, &lent, &world, &agent), 3, "pinned");
    world.wire.client.unpin(v1::UnpinRequest { space, name }).await.expect("unpinned");
    press(&kv, &lent, &mut world, &client, 10..20).await;
    assert!(load(&kv, &lent, &world, &agent) < 3, "nothing keeps it any more");
}

#[tokio::test]
async fn a_pin_in_gpu_memory_survives_pressure_and_goes_after_its_time() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let (layout, sizes) = nhd(4);
    let kv = Kv::new(layout, sizes, 1);
    let lent = kv.lend(&client);
    let agent = Block::chain("agent", 3, BYTES);
    store(&client, digest(&world), &agent);
    let pin = |world: &World, ttl_ms: u64| v1::PinRequest {
        space: world.space.clone(),
        name: "agent".to_owned(),
        keys: plain(&agent),
        ttl_ms,
    };
    world.wire.client.pin(pin(&world, TTL_MS)).await.expect("pinned");
    assert_eq!(load(&kv, &lent, &world, &agent), 0);
    world.wire.status_until("the agent in GPU memory", |status| tier(status).stores == 3).await;
    press(&kv, &lent, &mut world, &client, 0..10).await;
    assert_eq!(load(&kv, &lent, &world, &agent), 3, "pinned");
    // The same pin with the shortest time there is: it ends by itself, and nobody unpins it.
    world.wire.client.pin(pin(&world, 1)).await.expect("pinned");
    let mut pressed = 10;
    while load(&kv, &lent, &world, &agent) == 3 {
        assert!(pressed < 40, "the pin has not ended");
        press(&kv, &lent, &mut world, &client, pressed..pressed + 10).await;
        pressed += 10;
    }
}

/// More chains than the pool has room for, each used twice.
pub async fn press(
    kv: &Kv,
    lent: &GpuMemory,
    world: &mut World,
    client: &kvtier_client::LocalClient,
    chains: std::ops::Range<usize>,
) {
    for number in chains {
        let chain = Block::chain(&format!("pressure{number}"), 8, BYTES);
        store(client, digest(world), &chain);
        let before = world.wire.status_until("a status", |_| true).await;
        warm(kv, lent, world, &chain, tier(&before).stores + 8).await;
    }
}
