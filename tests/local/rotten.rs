//! Copies that change in host memory or in GPU memory: a load says so, delivers nothing of the chain as good, and the copy
//! is not found again.

use kvtier_client::local::{GpuMemory, LoadChain, NotMoved};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::http::get;
use kvtier_tests::{Block, World};

use super::damage;
use super::hot::{BYTES, POOL, load, warm};
use super::lent::{Kv, gpu_world, nhd, tier};
use super::{acquire, digest, expect, reader, store, wait_until_free, writer};

fn kv() -> Kv {
    let (layout, sizes) = nhd(4);
    Kv::new(layout, sizes, 1)
}

/// Loads a chain one of whose blocks does not verify; which one is told.
#[track_caller]
fn corrupt(lent: &GpuMemory, world: &World, chain: &[Block], layer_ends: &[u32]) -> u32 {
    let blocks: Vec<u64> = (0..chain.len() as u64).collect();
    let names = keys(chain);
    let wanted = LoadChain { layer_ends, ..LoadChain::new(digest(world), &names, &blocks) };
    let loading = lent.load(&wanted).expect("answered");
    for range in 0..layer_ends.len() as u32 {
        // The windows of the chain that verify may have arrived.
        assert!(matches!(loading.wait(range).expect("answered"), Err(NotMoved::Corrupt { .. })), "layers {range}");
    }
    match loading.finish().expect("answered") {
        Err(NotMoved::Corrupt { index, .. }) => index,
        other => panic!("{other:?}"),
    }
}

fn host(status: &v1::StatusResponse) -> &v1::TierStatus {
    status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Host).expect("always there")
}

fn nvme(status: &v1::StatusResponse) -> &v1::TierStatus {
    status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Nvme).expect("on")
}

#[tokio::test]
async fn a_host_copy_that_has_changed_is_told_of_and_comes_from_nvme_next() {
    let mut world = gpu_world(&[]).await;
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("rotten", 4, BYTES));
    let lent = kv.lend(&client);
    store(&client, digest(&world), &chain);
    let durable = |status: &v1::StatusResponse| nvme(status).blocks == 4 && status.leased_blocks == 0;
    world.wire.status_until("the chain on NVMe", durable).await;
    damage::host_copy(&world, &chain[2].payload);
    assert_eq!(corrupt(&lent, &world, &chain, &[1, 4]), 2);
    let status = world.wire.status_until("the copy to be dropped", |status| host(status).corrupt == 1).await;
    assert_eq!((host(&status).blocks, nvme(&status).blocks), (3, 4), "the others are unharmed");
    // Loaded, and checked byte by byte.
    load(&kv, &lent, &world, &chain);
    let reading = reader(&world);
    let leased = acquire(&reading, digest(&world), &keys(&chain));
    expect(&leased, &chain);
    // The same while somebody holds it.
    damage::host_copy(&world, &chain[1].payload);
    assert_eq!(corrupt(&lent, &world, &chain, &[]), 1);
    let status = world.wire.status_until("the copy to be dropped", |status| host(status).corrupt == 2).await;
    assert_eq!((host(&status).blocks, nvme(&status).blocks), (3, 4), "the others are unharmed");
    assert!(!leased.is_intact(1) && leased.is_intact(0) && leased.is_intact(2), "who holds it can tell");
    load(&kv, &lent, &world, &chain);
    drop((leased, reading, lent, client));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn the_only_copy_that_has_changed_is_a_miss_from_then_on() {
    let mut world = gpu_world(&[("nvme.enabled", "false")]).await;
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("only", 4, BYTES));
    let lent = kv.lend(&client);
    store(&client, digest(&world), &chain);
    damage::host_copy(&world, &chain[2].payload);
    assert_eq!(corrupt(&lent, &world, &chain, &[]), 2);
    world.wire.status_until("the copy to be dropped", |status| host(status).corrupt == 1).await;
    let blocks = [0, 1, 2, 3];
    let loading = lent.load(&LoadChain::new(digest(&world), &keys(&chain), &blocks)).expect("answered");
    let miss = loading.miss.as_ref().map(v1::Miss::reason);
    assert_eq!((loading.len(), miss), (2, Some(v1::MissReason::Corrupt)));
    assert_eq!(loading.finish().expect("answered"), Ok(()));
    assert!((0..2).all(|number| kv.block(number) == chain[number as usize].payload));
    // It can be put again.
    store(&client, digest(&world), &chain[2..3]);
    load(&kv, &lent, &world, &chain);
}

#[tokio::test]
async fn a_copy_in_gpu_memory_that_has_changed_is_told_of_and_comes_from_the_host_next() {
    let mut world = gpu_world(POOL).await;
    let client = writer(&world);
    let (kv, longer) = (kv(), Block::chain("hot", 6, BYTES));
    let chain = &longer[..5];
    let lent = kv.lend(&client);
    store(&client, digest(&world), &longer);
    warm(&kv, &lent, &mut world, &chain[..3], 3).await;
    damage::pool_copy(&world, &chain[1].payload);
    // The last two come from host memory, in a window of their own.
    assert_eq!(corrupt(&lent, &world, chain, &[]), 1);
    world.wire.status_until("the copy to be dropped", |status| tier(status).corrupt == 1).await;
    let (_, page) = get(world.daemon.endpoints().http.expect("it listens on HTTP"), "/metrics");
    let counted = |line: &str| line.contains("tier_crc_failures") && line.contains("hbm") && line.ends_with(" 1");
    assert!(page.lines().any(counted), "{page}");
    assert_eq!(load(&kv, &lent, &world, chain), 1, "the one before it is still there");
    // Seen for the first time: nothing of it is in GPU memory.
    damage::host_copy(&world, &longer[5].payload);
    assert_eq!(corrupt(&lent, &world, &longer, &[]), 5, "its place in the chain, wherever the blocks before it were");
}
