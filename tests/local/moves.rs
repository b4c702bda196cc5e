//! Chains between a worker's KV memory and the cache, through a real daemon with a simulated GPU.

use kvtier_client::local::{AcquireChain, Committed, LoadChain, Loading, SaveChain};
use kvtier_client::{Durability, SpaceDigest};
use kvtier_hbm::conformance::{Dice, random_layout};
use kvtier_proto::v1;
use kvtier_tests::wire::description;
use kvtier_tests::{Block, World};

use super::lent::{Gate, Kv, gpu_world, hnd, nhd, on_driver, split, tier, wait_for_gpu};
use super::{digest, expect, local_until, reader, wait_until_free, writer};

/// A chain whose bytes are those of these blocks of the memory.
fn chain_of(kv: &Kv, name: &str, numbers: &[u64]) -> Vec<Block> {
    let bytes = kv.layout.block_bytes() as usize;
    let named = Block::chain(name, numbers.len(), bytes);
    let filled = named.into_iter().zip(numbers);
    filled.map(|(block, number)| Block { payload: kv.block(*number).into(), ..block }).collect()
}

fn names(chain: &[Block]) -> Vec<bytes::Bytes> {
    kvtier_tests::block::keys(chain)
}

fn stored(chain: &[Block]) -> Vec<Committed> {
    chain.iter().map(|block| Committed::Stored { crc: block.crc() }).collect()
}

#[track_caller]
fn loaded(loading: Loading, count: usize) {
    assert_eq!((loading.len(), &loading.refused), (count, &None), "{:?}", loading.miss);
    assert_eq!(loading.finish().expect("answered"), Ok(()));
}

/// What `into` must be once the chain was loaded.
fn expected(into: &Kv, chain: &[Block], numbers: &[u64]) -> Vec<Vec<u8>> {
    let blocks: Vec<_> = numbers.iter().zip(chain).map(|(number, block)| (*number, &block.payload[..])).collect();
    into.with(&blocks)
}

#[tokio::test]
async fn a_chain_saved_from_one_layout_is_loaded_into_any_other() {
    let mut world = gpu_world(&[]).await;
    let client = writer(&world);
    let kinds = [nhd(4), hnd(4), split(4)];
    for (at, (layout, sizes)) in kinds.iter().enumerate() {
        let from = Kv::new(layout.clone(), sizes.clone(), at as u64);
        let lent = from.lend(&client);
        assert_eq!((lent.block_bytes(), lent.layer_count()), (16_384, 4));
        let (saved, into_blocks) = ([2, 0, 5], [1, 7, 3]);
        let chain = chain_of(&from, &format!("layout{at}"), &saved);
        let answer = lent.save(&SaveChain::new(digest(&world), &names(&chain), &saved)).expect("answered");
        assert_eq!(answer, Ok(stored(&chain)));
        let space = world.space.clone();
        world.wire.expect_blocks(&space, &chain).await;
        for (layout, sizes) in &kinds {
            let into = Kv::new(layout.clone(), sizes.clone(), 77);
            let right = expected(&into, &chain, &into_blocks);
            let lent = into.lend(&client);
            loaded(lent.load(&LoadChain::new(digest(&world), &names(&chain), &into_blocks)).expect("answered"), 3);
            assert!(into.bytes() == right, "from layout {at}: what was loaded, and nothing else, has changed");
        }
    }
    drop(client);
    let local =
        local_until(&mut world, "nothing to be lent", |local| local.gpu_memories == 0 && local.moves == 0).await;
    assert_eq!((local.moves_ended, local.moves_failed), (12, 0));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn random_layouts_come_back_byte_for_byte() {
    let world = gpu_world(&[]).await;
    let client = writer(&world);
    let mut dice = Dice::new(20_261);
    for round in 0..12 {
        let (layout, sizes) = random_layout(&mut dice);
        let from = Kv::new(layout.clone(), sizes.clone(), round);
        let chain = chain_of(&from, &format!("random{round}"), &[1, 2]);
        let lent = from.lend(&client);
        let answer = lent.save(&SaveChain::new(digest(&world), &names(&chain), &[1, 2])).expect("answered");
        assert_eq!(answer, Ok(stored(&chain)), "{layout:?}");
        let into = Kv::new(layout.clone(), sizes, 99);
        let right = expected(&into, &chain, &[0, 1]);
        loaded(into.lend(&client).load(&LoadChain::new(digest(&world), &names(&chain), &[0, 1])).expect("ok"), 2);
        assert!(into.bytes() == right, "{layout:?}");
    }
}

#[tokio::test]
async fn two_ranks_save_and_load_their_parts_of_each_block() {
    let mut world = gpu_world(&[]).await;
    let (wide, narrow) = (nhd(4), hnd(2));
    let parts = [wide.0.block_bytes() as u32, narrow.0.block_bytes() as u32];
    let opened = world.wire.open_space_of("ranks", description("ranks", &parts)).await.expect("a good space");
    let space = SpaceDigest(opened.space[..].try_into().expect("32 bytes"));
    let clients = [writer(&world), writer(&world)];
    let kvs = [Kv::new(wide.0.clone(), wide.1.clone(), 1), Kv::new(narrow.0.clone(), narrow.1.clone(), 2)];
    let keys: Vec<_> = (0..3).map(|number| format!("ranks/{number}")).collect();
    let blocks = [4, 1, 6];
    for rank in 0..2 {
        let lent = kvs[rank].lend(&clients[rank]);
        let wanted = SaveChain { part: rank as u32, ..SaveChain::new(space, &keys, &blocks) };
        let answer = lent.save(&wanted).expect("answered").expect("moved");
        match rank {
            0 => assert_eq!(answer, vec![Committed::PartAccepted; 3]),
            _ => assert!(answer.iter().all(|one| matches!(one, Committed::Stored { .. })), "{answer:?}"),
        }
    }
    let acquired = clients[0].acquire(&AcquireChain::new(space, &keys)).expect("answered");
    for (at, number) in blocks.iter().enumerate() {
        let whole = [kvs[0].block(*number), kvs[1].block(*number)].concat();
        assert!(acquired.bytes(at) == Some(&whole[..]), "block {at} is both parts, one behind the other");
    }
    for rank in 0..2 {
        let into = Kv::new(kvs[rank].layout.clone(), [wide.1.clone(), narrow.1.clone()][rank].clone(), 9);
        let bytes: Vec<_> = blocks.iter().map(|number| kvs[rank].block(*number)).collect();
        let right = into.with(&[(0, &bytes[0]), (5, &bytes[1]), (2, &bytes[2])]);
        let wanted = LoadChain { part: rank as u32, ..LoadChain::new(space, &keys, &[0, 5, 2]) };
        loaded(into.lend(&clients[rank]).load(&wanted).expect("answered"), 3);
        assert!(into.bytes() == right, "rank {rank}");
    }
}

#[tokio::test]
async fn layers_arrive_one_after_the_other_and_other_calls_go_on() {
    let mut world = gpu_world(&[]).await;
    let client = writer(&world);
    let (layout, sizes) = nhd(4);
    let from = Kv::new(layout.clone(), sizes.clone(), 1);
    let chain = chain_of(&from, "layers", &[0, 1]);
    let keys = names(&chain);
    let saved = from.lend(&client).save(&SaveChain::new(digest(&world), &keys, &[0, 1])).expect("answered");
    assert_eq!(saved, Ok(stored(&chain)));
    let into = Kv::new(layout, sizes, 2);
    let (before, right) = (into.bytes(), expected(&into, &chain, &[6, 7]));
    let mut gate = Gate::new();
    let lent = into.lend_gated(&client, &gate);
    let wanted = LoadChain { layer_ends: &[1, 3, 4], ..LoadChain::new(digest(&world), &keys, &[6, 7]) };
    let loading = lent.load(&wanted).expect("answered");
    // A memory of each layer: which ones have arrived can be seen.
    for (range, layers) in [1, 3, 4].into_iter().enumerate() {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| loading.wait(range as u32));
            expect(&super::acquire(&client, digest(&world), &keys), &chain);
            let now = into.bytes();
            let arrived = if range == 0 { 0 } else { [1, 3][range - 1] };
            assert!(now[arrived..] == before[arrived..], "nothing behind range {range} has arrived");
            gate.let_pass(1);
            assert_eq!(waiting.join().expect("it waits").expect("answered"), Ok(()));
        });
        let now = into.bytes();
        assert!(now[..layers] == right[..layers], "layers below {layers} have arrived");
    }
    assert_eq!(loading.finish().expect("answered"), Ok(()));
    assert!(into.bytes() == right);
    drop((lent, client));
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn blocks_come_up_from_nvme_and_a_chain_ends_where_it_is_missing() {
    let mut world = gpu_world(&[]).await;
    let (layout, sizes) = hnd(4);
    let from = Kv::new(layout.clone(), sizes.clone(), 3);
    let chain = chain_of(&from, "durable", &[0, 1, 2]);
    let keys = names(&chain);
    let wanted = SaveChain { durability: Durability::Durable, ..SaveChain::new(digest(&world), &keys, &[0, 1, 2]) };
    let client = writer(&world);
    assert_eq!(from.lend(&client).save(&wanted).expect("answered"), Ok(stored(&chain)));
    let again = from.lend(&client).save(&wanted).expect("answered");
    assert_eq!(again, Ok(vec![Committed::Duplicate; 3]), "what is there is not gathered again");
    drop(client);
    world = world.crash_and_restart().await;
    wait_for_gpu(&mut world).await;
    let into = Kv::new(layout, sizes, 4);
    let right = expected(&into, &chain, &[3, 4, 5]);
    let client = reader(&world);
    let longer: Vec<_> = keys.iter().cloned().chain(["nobody has it".into()]).collect();
    let loading = into.lend(&client).load(&LoadChain::new(digest(&world), &longer, &[3, 4, 5, 6])).expect("answered");
    assert_eq!(loading.miss.as_ref().map(v1::Miss::reason), Some(v1::MissReason::NeverStored));
    loaded(loading, 3);
    assert!(into.bytes() == right);
    let nothing = into.lend(&client).load(&LoadChain::new(digest(&world), &longer[3..], &[0])).expect("answered");
    assert!(nothing.is_empty() && nothing.miss.is_some());
    assert_eq!(nothing.finish().expect("answered"), Ok(()));
}

#[tokio::test]
async fn a_daemon_says_that_its_gpu_is_none() {
    let mut world: World = gpu_world(&[("hbm.bytes", "64MiB")]).await;
    let status = world.wire.status_until("an open GPU", |status| tier(status).state == "up").await;
    let name = if on_driver() { "no hardware" } else { "simulated" };
    assert!(tier(&status).detail.contains(name), "{:?}", tier(&status));
    assert_eq!(tier(&status).capacity_bytes, 64 << 20);
}
