//! Blocks on NVMe on their way to a worker: read and copied side by side.

use kvtier_client::local::LoadChain;
use kvtier_proto::v1;
use kvtier_tests::Block;
use kvtier_tests::block::keys;

use super::lent::{Gate, Kv, gpu_world, nhd_of, wait_for_gpu};
use super::{digest, reader, wait_until_free};

const BYTES: usize = 1 << 20;
/// Room for twelve of the blocks.
const SMALL: &[(&str, &str)] = &[("host.bytes", "16MiB")];
const BLOCK_COUNT: u64 = 16;

fn host_blocks(status: &v1::StatusResponse) -> u64 {
    status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Host).map_or(0, |tier| tier.blocks)
}

/// There are more blocks than fit into host memory. So the last ones can only be read from NVMe once the first ones have let go of
/// their slots, and those do that when they have arrived at the worker, with all their layers.
#[tokio::test]
async fn the_first_blocks_arrive_while_the_last_ones_cannot_be_read_yet() {
    let mut world = gpu_world(SMALL).await;
    // Each a first block of its own: a chain as long as this is not taken at once.
    let chain = Block::chain("staged", BLOCK_COUNT as usize, BYTES);
    let chain: Vec<_> = chain.into_iter().map(|block| Block { parent: None, ..block }).collect();
    world.store(&chain, v1::Durability::Durable).await;
    world = world.crash_and_restart().await;
    wait_for_gpu(&mut world).await;
    let (layout, sizes) = nhd_of(256, BLOCK_COUNT);
    let kv = Kv::new(layout, sizes, 1);
    let client = reader(&world);
    let (names, blocks): (_, Vec<u64>) = (keys(&chain), (0..BLOCK_COUNT).collect());
    let numbered: Vec<_> = blocks.iter().zip(&chain).map(|(number, block)| (*number, &block.payload[..])).collect();
    let (before, right) = (kv.bytes(), kv.with(&numbered));
    let mut gate = Gate::new();
    let lent = kv.lend_gated(&client, &gate);
    let space = digest(&world);
    let asked = {
        let lent = lent.clone();
        let load = move || {
            let wanted = LoadChain { layer_ends: &[1, 4], ..LoadChain::new(space, &names, &blocks) };
            lent.load(&wanted).expect("answered")
        };
        std::thread::Builder::new().spawn(load).expect("a thread can be had")
    };
    // Layer 0 of the first block, and nothing else of it.
    gate.let_pass(1);
    let page = kv.layout.block_stride as usize;
    let arrived = |_: &v1::StatusResponse| kv.bytes()[0][..page] == right[0][..page];
    let status = world.wire.status_until("the first block at the worker", arrived).await;
    assert!(host_blocks(&status) < BLOCK_COUNT && !asked.is_finished(), "the last blocks have no room to be read into");
    assert!(kv.bytes()[1..] == before[1..], "no other layer has arrived");
    gate.open();
    let loading = asked.join().expect("it waits");
    assert_eq!(
        (loading.len(), loading.from_pool, &loading.refused),
        (BLOCK_COUNT as usize, 0, &None),
        "{:?}",
        loading.miss
    );
    for (range, layers) in [1, 4].into_iter().enumerate() {
        assert_eq!(loading.wait(range as u32).expect("answered"), Ok(()));
        assert!(kv.bytes()[..layers] == right[..layers], "layers below {layers} have arrived, of every block");
    }
    assert_eq!(loading.finish().expect("answered"), Ok(()));
    assert!(kv.bytes() == right);
    let status = world.wire.status_until("a status", |_| true).await;
    assert!(host_blocks(&status) < BLOCK_COUNT, "they were never in host memory together");
    drop((lent, client));
    wait_until_free(&mut world).await;
}
