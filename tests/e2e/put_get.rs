//! What is put is found and comes back, byte for byte.

use bytes::Bytes;
use kvtier_proto::v1::{self, Durability, MissReason, Tier};
use kvtier_tests::wire::{Got, description, whole};
use kvtier_tests::{Block, Wire, World, block};
use v1::put_response::Outcome;

#[tokio::test]
async fn a_chain_is_put_found_and_got_over_tcp_and_over_the_unix_socket() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let mut unix = Wire::unix(world.daemon.endpoints()).await;
    let (by_tcp, by_unix) = (Block::chain("tcp", 20, 100_000), Block::chain("unix", 20, 100_000));
    world.wire.store(&space, &by_tcp, Durability::Volatile).await;
    unix.store(&space, &by_unix, Durability::Volatile).await;
    for wire in [&mut world.wire, &mut unix] {
        for chain in [&by_tcp, &by_unix] {
            let found = wire.lookup(&space, &block::keys(chain), None).await.expect("a lookup is answered");
            assert_eq!(found.prefix.len(), 20);
            assert!(found.miss.is_none(), "the whole chain is resident");
            assert!(found.prefix.iter().all(|block| block.length == 100_000 && block.tier() == Tier::Host));
            assert_eq!(wire.expect_blocks(&space, chain).await, vec![Tier::Host; 20]);
        }
    }
}

#[tokio::test]
async fn blocks_of_every_awkward_size_come_back_whole() {
    let mut world = World::with(&[("host.bytes", "320MiB"), ("host.extent_bytes", "16MiB")]).await;
    let space = world.wire.open_space("sizes", 12 << 20).await;
    let sizes =
        [1, 2, 63, 4095, 4096, 4097, 65_535, 1 << 20, (1 << 20) + 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 12 << 20];
    let blocks: Vec<Block> = sizes.iter().map(|size| Block::root(format!("size {size}").as_bytes(), *size)).collect();
    world.wire.store(&space, &blocks, Durability::Volatile).await;
    world.wire.expect_blocks(&space, &blocks).await;
}

#[tokio::test]
async fn the_longest_prefix_is_found_and_the_first_missing_block_explained() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let chain = Block::chain("prefix", 10, 5000);
    world.wire.store(&space, &chain[..6], Durability::Volatile).await;
    let found = world.wire.lookup(&space, &block::keys(&chain), None).await.expect("a lookup is answered");
    assert_eq!(found.prefix.len(), 6);
    let miss = found.miss.expect("the seventh is missing");
    assert_eq!(miss.reason(), MissReason::NeverStored);
    assert!(miss.detail.contains("history remembers"), "{miss:?}");
}

#[tokio::test]
async fn a_get_answers_every_key_hit_or_miss() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let blocks = [Block::root(b"a", 5000), Block::root(b"b", 7000), Block::root(b"c", 9000)];
    world.wire.store(&space, &[blocks[0].clone(), blocks[2].clone()], Durability::Volatile).await;
    let got = world.wire.get_keys(&space, &block::keys(&blocks)).await.expect("a get is answered");
    assert_eq!(got[0], Got::Block(blocks[0].payload.clone(), Tier::Host));
    assert!(matches!(&got[1], Got::Miss(miss) if miss.reason() == MissReason::NeverStored), "{:?}", got[1]);
    assert_eq!(got[2], Got::Block(blocks[2].payload.clone(), Tier::Host));
}

#[tokio::test]
async fn the_same_key_in_another_space_is_another_block() {
    let mut world = World::new().await;
    let (first, second) = (world.space.clone(), world.wire.open_space("second", 1 << 20).await);
    let one = Block::root(b"k", 5000);
    let other = Block { payload: block::payload(b"other", 6000), ..one.clone() };
    world.wire.store(&first, std::slice::from_ref(&one), Durability::Volatile).await;
    assert_eq!(world.wire.resident(&second, std::slice::from_ref(&one.key)).await, 0, "spaces do not see each other");
    world.wire.store(&second, std::slice::from_ref(&other), Durability::Volatile).await;
    world.wire.expect_blocks(&first, &[one]).await;
    world.wire.expect_blocks(&second, &[other]).await;
}

#[tokio::test]
async fn a_block_put_twice_is_a_duplicate_and_keeps_its_bytes() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let block = Block::root(b"k", 5000);
    world.wire.store(&space, std::slice::from_ref(&block), Durability::Volatile).await;
    let liar = Block { payload: block::payload(b"liar", 5000), ..block.clone() };
    let outcomes = world.wire.put(&space, &[liar], Durability::Volatile).await;
    assert!(matches!(outcomes[0], Outcome::Duplicate(_)), "{outcomes:?}");
    world.wire.expect_blocks(&space, &[block]).await;
}

#[tokio::test]
async fn parts_in_any_order_and_from_two_clients_make_one_block() {
    let mut world = World::new().await;
    let sizes = [4096_usize, 10_000, 333];
    let parts = sizes.map(|size| u32::try_from(size).expect("small"));
    let space = world.wire.open_space_of("parts", description("parts", &parts)).await.expect("it is good").space;
    let payload = block::payload(b"block of parts", sizes.iter().sum());
    let offsets = [0, 4096, 14_096];
    let message = |part: usize| {
        let bytes = payload.slice(offsets[part]..offsets[part] + sizes[part]);
        let block = Block { key: Bytes::from("k"), parent: None, payload: bytes };
        let mut messages = whole(&space, part as u64, &block, Durability::Volatile);
        messages[0].begin.as_mut().expect("begin").part = u32::try_from(part).expect("small");
        messages
    };
    let mut other = Wire::unix(world.daemon.endpoints()).await;
    let first = world.wire.put_raw(message(2)).await.expect("a part");
    assert!(matches!(first[0].outcome, Some(Outcome::PartAccepted(_))), "{first:?}");
    other.put_raw(message(0)).await.expect("a part");
    assert_eq!(world.wire.resident(&space, &[Bytes::from("k")]).await, 0, "invisible while incomplete");
    let last = world.wire.put_raw(message(1)).await.expect("the last part");
    let Some(Outcome::Stored(stored)) = &last[0].outcome else { panic!("{last:?}") };
    assert_eq!(stored.crc32, crc32fast::hash(&payload), "the checksum is the whole block's");
    world.wire.expect_blocks(&space, &[Block { key: Bytes::from("k"), parent: None, payload }]).await;
}

#[tokio::test]
async fn more_than_the_host_tier_holds_comes_back_from_nvme() {
    let mut world = World::with(&[("host.bytes", "16MiB")]).await;
    let space = world.space.clone();
    let blocks: Vec<Block> = (0..60).map(|index| Block::root(format!("b{index}").as_bytes(), 1 << 20)).collect();
    for some in blocks.chunks(4) {
        world.wire.store(&space, some, Durability::Durable).await;
    }
    let status = world.wire.status().await;
    let host = &status.tiers[0];
    assert!(host.evictions > 0 && host.used_bytes <= 16 << 20, "the cap holds: {host:?}");
    let tiers = world.wire.expect_blocks(&space, &blocks).await;
    assert!(tiers.contains(&Tier::Nvme), "some came from nvme: {tiers:?}");
}

#[tokio::test]
async fn many_streams_at_once_lose_and_mix_up_nothing() {
    let world = World::with(&[("host.bytes", "128MiB")]).await;
    let endpoints = world.daemon.endpoints().clone();
    let client = |number: usize| {
        let (endpoints, space) = (endpoints.clone(), world.space.clone());
        async move {
            let mut wire =
                if number.is_multiple_of(2) { Wire::tcp(&endpoints).await } else { Wire::unix(&endpoints).await };
            let chain = Block::chain(&format!("client {number}"), 30, 100_000 + number);
            wire.store(&space, &chain, Durability::Volatile).await;
            wire.expect_blocks(&space, &chain).await;
        }
    };
    futures::future::join_all((0..16).map(client)).await;
}

#[tokio::test]
async fn prefetch_brings_blocks_up_so_that_a_get_finds_them_in_the_host_tier() {
    let world = World::new().await;
    let chain = Block::chain("prefetched", 10, 50_000);
    let mut world = {
        let mut world = world;
        world.store(&chain, Durability::Durable).await;
        world.restart().await
    };
    let space = world.space.clone();
    let request =
        v1::PrefetchRequest { space: space.clone(), keys: chain.iter().map(|block| block.key.to_vec()).collect() };
    let answer = world.wire.client.prefetch(request.clone()).await.expect("a prefetch is answered").into_inner();
    assert_eq!((answer.resident, answer.started, answer.refused), (0, 10, 0));
    kvtier_tests::wire::within("all in the host tier", async {
        loop {
            let again = world.wire.client.prefetch(request.clone()).await.expect("a prefetch is answered").into_inner();
            if again.resident == 10 {
                break;
            }
        }
    })
    .await;
    assert_eq!(world.wire.expect_blocks(&space, &chain).await, vec![Tier::Host; 10]);
}
