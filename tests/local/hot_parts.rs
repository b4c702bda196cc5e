//! Blocks of several ranks, and of engines that are copies of each other, in GPU memory: each GPU keeps what its worker loads.

use kvtier_client::local::{GpuMemory, LoadChain, SaveChain};
use kvtier_client::{LocalClient, SpaceDigest};
use kvtier_proto::v1;
use kvtier_tests::wire::description;
use kvtier_tests::{Block, World};

use super::damage;
use super::hot::{BYTES, POOL, load, plain};
use super::lent::{Kv, driver_setup, gpu_world, hnd, nhd, tier, told, wait_for_gpu};
use super::{digest, store, writer};

/// An extent for each length of part.
const EXTENTS: [(&str, &str); 2] = [("hbm.bytes", "2MiB"), ("hbm.extent_bytes", "1MiB")];

const COUNT: usize = 3;
const BLOCKS: [u64; COUNT] = [4, 1, 6];

/// One rank of an engine: its own memory, laid out in its own way, with its part of each block.
struct Rank {
    part: u32,
    space: SpaceDigest,
    kv: Kv,
    lent: GpuMemory,
    /// What was saved.
    parts: Vec<Vec<u8>>,
}

impl Rank {
    /// Loads the chain over something else; how many blocks came from GPU memory.
    #[track_caller]
    fn load(&self, keys: &[Vec<u8>]) -> u32 {
        self.kv.files.iter().for_each(|file| {
            let bytes = file.metadata().expect("a memfd").len();
            std::os::unix::fs::FileExt::write_all_at(file, &vec![0x5a; bytes as usize], 0).expect("written");
        });
        let wanted = LoadChain { part: self.part, ..LoadChain::new(self.space, keys, &BLOCKS) };
        let loading = self.lent.load(&wanted).expect("answered");
        assert_eq!(loading.len(), COUNT, "{:?}", loading.miss);
        let from_pool = loading.from_pool;
        assert_eq!(loading.finish().expect("answered"), Ok(()));
        for (number, part) in BLOCKS.iter().zip(&self.parts) {
            assert!(self.kv.block(*number) == *part, "rank {}, block {number}", self.part);
        }
        from_pool
    }
}

/// Two ranks, of which the first has twice as much of each block, and the chain both have saved.
async fn ranks(world: &mut World, clients: &[LocalClient; 2]) -> ([Rank; 2], Vec<Vec<u8>>) {
    let layouts = [nhd(4), hnd(2)];
    let bytes = layouts.each_ref().map(|(layout, _)| layout.block_bytes() as u32);
    let opened = world.wire.open_space_of("ranks", description("ranks", &bytes)).await.expect("a good space");
    let space = SpaceDigest(opened.space[..].try_into().expect("32 bytes"));
    let keys: Vec<_> = (0..COUNT).map(|number| format!("ranks/{number}").into_bytes()).collect();
    let mut part = 0;
    let ranks = layouts.map(|(layout, sizes)| {
        let (kv, client) = (Kv::new(layout, sizes, u64::from(part) + 1), &clients[part as usize]);
        let lent = kv.lend(client);
        let wanted = SaveChain { part, ..SaveChain::new(space, &keys, &BLOCKS) };
        lent.save(&wanted).expect("answered").expect("moved");
        let parts = BLOCKS.iter().map(|number| kv.block(*number)).collect();
        part += 1;
        Rank { part: part - 1, space, kv, lent, parts }
    });
    (ranks, keys)
}

async fn wait_for_copies(world: &mut World, count: u64) -> v1::StatusResponse {
    world.wire.status_until("the copies in GPU memory", |status| tier(status).blocks == count).await
}

#[tokio::test]
async fn every_rank_loads_its_parts_from_gpu_memory() {
    let mut world = gpu_world(&EXTENTS).await;
    let clients = [writer(&world), writer(&world)];
    let (ranks, keys) = ranks(&mut world, &clients).await;
    assert_eq!(ranks.each_ref().map(|rank| rank.load(&keys)), [0, 0], "one rank's load is not the other's");
    assert_eq!(ranks[0].load(&keys), 0);
    wait_for_copies(&mut world, COUNT as u64).await;
    assert_eq!(ranks.each_ref().map(|rank| rank.load(&keys)), [COUNT as u32, 0]);
    let status = wait_for_copies(&mut world, 2 * COUNT as u64).await;
    assert_eq!(ranks.each_ref().map(|rank| rank.load(&keys)), [COUNT as u32; 2]);
    // No whole block is there twice: each part in a slot of its own size.
    let whole: u64 = ranks.iter().map(|rank| rank.parts[0].len() as u64).sum();
    assert!(tier(&status).used_bytes < COUNT as u64 * (whole + 4 * 4096), "{:?}", tier(&status));
    let request = v1::DeleteRequest { space: ranks[0].space.0.to_vec(), keys: keys.clone() };
    assert_eq!(world.wire.client.delete(request).await.expect("deleted").into_inner().deleted, COUNT as u32);
    assert_eq!(tier(&world.wire.status().await).blocks, 0, "every part at once");
}

#[tokio::test]
async fn a_part_in_gpu_memory_that_has_changed_is_found_out_and_its_fellow_is_good() {
    let mut world = gpu_world(&EXTENTS).await;
    let clients = [writer(&world), writer(&world)];
    let (ranks, keys) = ranks(&mut world, &clients).await;
    for _ in 0..2 {
        ranks.iter().for_each(|rank| assert_eq!(rank.load(&keys), 0));
    }
    wait_for_copies(&mut world, 2 * COUNT as u64).await;
    damage::pool_copy(&world, &ranks[1].parts[1]);
    let wanted = LoadChain { part: 1, ..LoadChain::new(ranks[1].space, &keys, &BLOCKS) };
    let loading = ranks[1].lent.load(&wanted).expect("answered");
    let failed = loading.finish().expect("answered").expect_err("a byte has changed").to_string();
    assert!(failed.contains("verify") || failed.contains("corrupt"), "{failed}");
    let status = world.wire.status_until("it to be counted", |status| tier(status).corrupt == 1).await;
    assert_eq!(tier(&status).blocks, 2 * COUNT as u64 - 1);
    assert_eq!(ranks[0].load(&keys), COUNT as u32);
    assert_eq!(ranks[1].load(&keys), 1, "as far as the chain is whole there");
}

/// Two GPUs, which only the driver's stand-in has.
#[tokio::test]
async fn engines_on_two_gpus_have_the_same_chain_in_both() {
    let two = driver_setup(POOL).with_variable("KVTIER_DRIVER_DEVICES", "2");
    let mut world = World::of(two.start()).await;
    wait_for_gpu(&mut world).await;
    let client = writer(&world);
    let chain = Block::chain("prompt", COUNT, BYTES);
    store(&client, digest(&world), &chain);
    let kvs = [1, 2].map(|seed| {
        let (layout, sizes) = nhd(4);
        Kv::new(layout, sizes, seed)
    });
    let lent = [0, 1].map(|gpu: u32| {
        let kv = &kvs[gpu as usize];
        client.import_gpu_memory(gpu, &kv.handles(None), &told(&kv.layout)).expect("memory is lent")
    });
    let load = |world: &World, gpu: usize| load(&kvs[gpu], &lent[gpu], world, &chain);
    assert_eq!([load(&world, 0), load(&world, 0)], [0, 0]);
    wait_for_copies(&mut world, COUNT as u64).await;
    assert_eq!([load(&world, 0), load(&world, 1), load(&world, 1)], [COUNT as u32, 0, 0], "each GPU has its own");
    wait_for_copies(&mut world, 2 * COUNT as u64).await;
    assert_eq!([load(&world, 0), load(&world, 1)], [COUNT as u32; 2]);
    let request = v1::DeleteRequest { space: world.space.clone(), keys: plain(&chain) };
    world.wire.client.delete(request).await.expect("deleted");
    assert_eq!(tier(&world.wire.status().await).blocks, 0, "from both at once");
}
