//! Rot on the device is found, quarantined and explained; it is never delivered.

use std::os::unix::fs::FileExt;

use kvtier_proto::v1::{self, Durability, MissReason};
use kvtier_tests::wire::{Got, within};
use kvtier_tests::{Block, World, block};

/// Flips one bit in the stored payload of each of these blocks, in the data file itself.
fn rot(world: &World, blocks: &[Block]) {
    let path = world.daemon.data().join("nvme-0.kv");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("the data file is there");
    let bytes = std::fs::read(&path).expect("the data file can be read");
    for block in blocks {
        let needle = &block.payload[..64];
        let at = bytes.windows(64).step_by(1).position(|window| window == needle).expect("the payload is on disk");
        let target = at as u64 + block.payload.len() as u64 / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, target).expect("a byte");
        file.write_all_at(&[byte[0] ^ 0x10], target).expect("a byte");
    }
    file.sync_all().expect("a sync");
}

async fn scrub(world: &mut World) -> v1::ScrubResponse {
    within("a scrub", async {
        let mut answers = world.wire.client.scrub(v1::ScrubRequest {}).await.expect("a scrub begins").into_inner();
        let mut last = v1::ScrubResponse::default();
        while let Some(progress) = answers.message().await.expect("it goes on") {
            last = progress;
        }
        last
    })
    .await
}

#[tokio::test]
async fn a_scrub_finds_every_flipped_bit_and_nothing_else() {
    let mut world = World::with(&[("nvme.scrub_bytes_per_second", "0")]).await;
    let chain = Block::chain("rotten", 20, 30_000);
    world.store(&chain, Durability::Durable).await;
    let clean = scrub(&mut world).await;
    assert_eq!((clean.verified_blocks, clean.corrupt_blocks, clean.done), (20, 0, true));
    rot(&world, &chain[15..]);
    let found = scrub(&mut world).await;
    assert_eq!((found.verified_blocks, found.corrupt_blocks, found.done), (15, 5, true));
}

#[tokio::test]
async fn a_flipped_bit_is_a_miss_that_says_corrupt_and_never_wrong_bytes() {
    let mut world = World::with(&[("nvme.scrub_bytes_per_second", "0")]).await;
    let chain = Block::chain("rotten", 10, 30_000);
    world.store(&chain, Durability::Durable).await;
    rot(&world, &chain[4..5]);
    // Host memory is empty after a restart: the get must read the device.
    let mut world = world.restart().await;
    let space = world.space.clone();
    let got = world.wire.get_keys(&space, &block::keys(&chain)).await.expect("a get is answered");
    for (index, (got, block)) in got.iter().zip(&chain).enumerate() {
        match got {
            Got::Block(bytes, _) => assert!(index != 4 && *bytes == block.payload, "block {index}"),
            Got::Miss(miss) => assert_eq!((index, miss.reason()), (4, MissReason::Corrupt), "{miss:?}"),
        }
    }
    let found = world.wire.lookup(&space, &block::keys(&chain), None).await.expect("a lookup");
    assert_eq!(found.prefix.len(), 4);
    assert_eq!(found.miss.expect("a reason").reason(), MissReason::Corrupt);
    let nvme = world.wire.status().await.tiers.into_iter().find(|tier| tier.tier() == v1::Tier::Nvme);
    assert_eq!(nvme.expect("an nvme tier").corrupt, 1);
    // The block may be put again, elsewhere on the device.
    world.wire.store(&space, &chain[4..5], Durability::Durable).await;
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn a_quarantined_slot_stays_so_after_a_restart() {
    let mut world = World::with(&[("nvme.scrub_bytes_per_second", "0")]).await;
    let chain = Block::chain("rotten", 5, 30_000);
    world.store(&chain, Durability::Durable).await;
    rot(&world, &chain[4..]);
    assert_eq!(scrub(&mut world).await.corrupt_blocks, 1);
    let written = |status: &v1::StatusResponse| {
        status.journal.as_ref().is_some_and(|journal| journal.durable_seq == journal.appended_seq)
    };
    world.wire.status_until("the group commit", written).await;
    let mut world = world.crash_and_restart().await;
    let space = world.space.clone();
    assert_eq!(world.wire.resident(&space, &block::keys(&chain)).await, 4);
    world.wire.expect_blocks(&space, &chain[..4]).await;
}
