//! The pools in GPU memory and the rest of the node: what is deleted goes from there at once, what is there is told of in the
//! node's events, and what is only there of the fast tiers is brought back from there.

use kvtier_client::local::LoadChain;
use kvtier_proto::v1::{self, Durability, Tier};
use kvtier_tests::block::{keys, payload};
use kvtier_tests::follower::Follower;
use kvtier_tests::{Block, World};
use v1::subscribe_request::From;

use super::hot::{BYTES, POOL, load, plain, press, warm};
use super::lent::{Gate, Kv, gpu_world, nhd, tier, wait_for_gpu};
use super::{acquire, damage, digest, expect, reader, store, wait_until_free, writer};

fn kv() -> Kv {
    let (layout, sizes) = nhd(4);
    Kv::new(layout, sizes, 1)
}

async fn status(world: &mut World) -> v1::StatusResponse {
    world.wire.status_until("a status", |_| true).await
}

#[tokio::test]
async fn a_deleted_block_is_gone_from_gpu_memory_behind_the_load_that_reads_it() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let (mine, other, gate) = (kv(), kv(), Gate::new());
    let (lent, gated) = (mine.lend(&client), other.lend_gated(&client, &gate));
    let (chain, left) = (Block::chain("deleted", 3, BYTES), Block::chain("left", 2, BYTES));
    store(&client, digest(&world), &chain);
    store(&client, digest(&world), &left);
    warm(&mine, &lent, &mut world, &left, 2).await;
    warm(&mine, &lent, &mut world, &chain, 5).await;
    let slot_bytes = tier(&status(&mut world).await).used_bytes / 5;
    let loading = gated.load(&LoadChain::new(digest(&world), &keys(&chain), &[0, 1, 2])).expect("answered");
    assert_eq!(loading.from_pool, 3);
    let request = v1::DeleteRequest { space: world.space.clone(), keys: plain(&chain) };
    assert_eq!(world.wire.client.delete(request).await.expect("deleted").into_inner().deleted, 3);
    // Nobody looks for it: it has to be told.
    let gone = status(&mut world).await;
    assert_eq!(tier(&gone).blocks, 2, "at once, and nothing else");
    assert_eq!(tier(&gone).used_bytes, 5 * slot_bytes, "the GPU reads them still (INV-8)");
    gate.open();
    assert_eq!(loading.finish().expect("answered"), Ok(()));
    assert!((0..3).all(|number| other.block(number) == chain[number as usize].payload), "as it was when it began");
    world.wire.status_until("their slots to be free", |status| tier(status).used_bytes == 2 * slot_bytes).await;
    assert_eq!(load(&mine, &lent, &world, &left), 2);
    drop((lent, gated, client));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_dropped_space_leaves_nothing_in_gpu_memory() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("dropped", 4, BYTES));
    let lent = kv.lend(&client);
    store(&client, digest(&world), &chain);
    warm(&kv, &lent, &mut world, &chain, 4).await;
    assert_eq!(tier(&status(&mut world).await).blocks, 4);
    let request = v1::DropSpaceRequest { space: world.space.clone() };
    world.wire.client.drop_space(request).await.expect("dropped");
    let status = status(&mut world).await;
    assert_eq!((tier(&status).blocks, tier(&status).used_bytes), (0, 0));
}

#[tokio::test]
async fn routers_hear_what_is_in_gpu_memory_and_what_is_not_any_more() {
    let mut world = gpu_world(POOL).await;
    let mut router = Follower::new(&mut world, From::Tail(true)).await;
    let client = writer(&world);
    let kv = kv();
    let lent = kv.lend(&client);
    let chain = Block::chain("told", 3, BYTES);
    store(&client, digest(&world), &chain);
    warm(&kv, &lent, &mut world, &chain, 3).await;
    router.read_until("three blocks in GPU memory", |router| router.count_of("kvtierd/gpu0", Tier::Hbm) == 3).await;
    let first = router.held.clone();
    // Room for 51: eviction.
    press(&kv, &lent, &mut world, &client, 0..10).await;
    router.read_until("every block that came", |router| router.stored == 83).await;
    let now = tier(&status(&mut world).await).blocks as usize;
    router.read_until("what was evicted", |router| router.held.len() == now).await;
    assert_eq!(router.count_of("kvtierd/gpu0", Tier::Hbm), now, "all of it in the pool of that GPU");
    assert!(now <= 51 && router.held.is_disjoint(&first), "the oldest have gone");
    let mut late = Follower::new(&mut world, From::Snapshot(true)).await;
    late.read_until("the snapshot", |router| router.listed).await;
    assert_eq!(late.held, router.held, "who comes later hears the same");
    // A worker's memory that is freed takes the GPU with it.
    kv.files.iter().for_each(|file| file.set_len(0).expect("shortened"));
    let loading = lent.load(&LoadChain::new(digest(&world), &keys(&chain), &[0, 1, 2])).expect("answered");
    assert!(loading.finish().expect("answered").is_err());
    router.read_until("the GPU to be lost", |router| !router.resets.is_empty()).await;
    assert!(router.held.is_empty() && tier(&status(&mut world).await).blocks == 0);
    drop((router, late, lent, client));
    world = world.crash_and_restart().await;
    wait_for_gpu(&mut world).await;
    let mut router = Follower::new(&mut world, From::Snapshot(true)).await;
    router.read_until("the snapshot", |router| router.listed).await;
    assert!(router.held.is_empty(), "a restart begins with nothing");
}

/// A chain in GPU memory and on NVMe, and other blocks in all of host memory.
async fn only_hot(world: &mut World, kv: &Kv, chain: &[Block]) {
    world.store(chain, Durability::Durable).await;
    let client = writer(world);
    let lent = kv.lend(&client);
    warm(kv, &lent, world, chain, chain.len() as u64).await;
    let others = (0..24).map(|number: u32| {
        let key = format!("other{number}");
        Block { key: key.clone().into(), parent: None, payload: payload(key.as_bytes(), 1 << 20) }
    });
    world.store(&others.collect::<Vec<_>>(), Durability::Durable).await;
}

fn nvme_reads(status: &v1::StatusResponse) -> u64 {
    status.tiers.iter().find(|tier| tier.tier() == Tier::Nvme).expect("on").bytes_read
}

/// GPU memory and little host memory.
const TIGHT: &[(&str, &str)] = &[("hbm.bytes", "1MiB"), ("hbm.extent_bytes", "1MiB"), ("host.bytes", "16MiB")];

#[tokio::test]
async fn a_chain_that_is_in_gpu_memory_comes_to_the_host_from_there() {
    let mut world = gpu_world(TIGHT).await;
    let (kv, chain) = (kv(), Block::chain("back", 3, BYTES));
    only_hot(&mut world, &kv, &chain).await;
    let before = status(&mut world).await;
    expect(&acquire(&reader(&world), digest(&world), &keys(&chain)), &chain);
    let after = status(&mut world).await;
    assert!(tier(&after).bytes_read >= tier(&before).bytes_read + (3 * BYTES) as u64, "from GPU memory");
    assert_eq!(nvme_reads(&after), nvme_reads(&before), "not from NVMe");
    // It is in host memory now like any other, and over gRPC, too.
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn a_copy_in_gpu_memory_that_has_changed_does_not_come_back() {
    let mut world = gpu_world(TIGHT).await;
    let (kv, chain) = (kv(), Block::chain("bad", 3, BYTES));
    only_hot(&mut world, &kv, &chain).await;
    damage::pool_copy(&world, &chain[1].payload);
    let before = status(&mut world).await;
    expect(&acquire(&reader(&world), digest(&world), &keys(&chain)), &chain);
    let after = status(&mut world).await;
    assert!(nvme_reads(&after) >= nvme_reads(&before) + BYTES as u64, "that one from NVMe");
    // Its child is not found without it.
    assert_eq!(tier(&after).corrupt, 1);
    wait_until_free(&mut world).await;
}
