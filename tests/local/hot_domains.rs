//! Pools in GPU memory of tenants that are kept apart: nobody evicts, finds or brings back another's hot blocks.

use kvtier_client::local::GpuMemory;
use kvtier_client::{LocalClient, LocalOptions, SpaceDigest};
use kvtier_proto::v1::{self, Durability};
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::domains::{DOMAINS, space_of, writer_of};
use super::hot::{BYTES, load_of, plain};
use super::lent::{Kv, gpu_world, nhd, tier};
use super::{acquire, attach, expect, store};

/// The node's own domain has two extents of it, the others one each: 51 blocks.
const POOL: [(&str, &str); 2] = [("hbm.bytes", "4MiB"), ("hbm.extent_bytes", "1MiB")];
/// Chains of eight: more than a domain's part of the pool holds.
const PRESSURE_COUNT: usize = 10;

/// A tenant's worker.
struct Tenant {
    space: SpaceDigest,
    client: LocalClient,
    kv: Kv,
    lent: GpuMemory,
}

impl Tenant {
    async fn new(world: &mut World, tenant: &str) -> Self {
        let space = space_of(world, tenant).await;
        let client = writer_of(world, tenant);
        let (layout, sizes) = nhd(4);
        let kv = Kv::new(layout, sizes, 1);
        let lent = kv.lend(&client);
        Self { space, client, kv, lent }
    }

    /// How many blocks came from GPU memory.
    fn load(&self, chain: &[Block]) -> u32 {
        load_of(self.space, &self.kv, &self.lent, chain)
    }

    /// Puts a chain and has it in GPU memory.
    async fn warm(&self, world: &mut World, chain: &[Block]) {
        store(&self.client, self.space, chain);
        self.heat(world, chain).await;
    }

    /// Loads a chain twice: it is in GPU memory then.
    async fn heat(&self, world: &mut World, chain: &[Block]) {
        let before = tier(&world.wire.status().await).stores;
        assert_eq!((self.load(chain), self.load(chain)), (0, 0));
        let wanted = before + chain.len() as u64;
        world.wire.status_until("the chain in GPU memory", |status| tier(status).stores == wanted).await;
    }

    /// More chains than its part of the pool has room for, other ones for each `what`.
    async fn press(&self, world: &mut World, what: &str) {
        for number in 0..PRESSURE_COUNT {
            self.warm(world, &Block::chain(&format!("{what} {number}"), 8, BYTES)).await;
        }
    }
}

async fn world() -> (World, Tenant, Tenant) {
    let mut world = gpu_world(&[&DOMAINS[..], &POOL].concat()).await;
    let a = Tenant::new(&mut world, "a").await;
    let b = Tenant::new(&mut world, "b").await;
    (world, a, b)
}

async fn domain(world: &mut World, name: &str) -> v1::DomainStatus {
    let status = world.wire.status().await;
    tier(&status).domains.iter().find(|domain| domain.name == name).expect("a domain of that name").clone()
}

#[tokio::test]
async fn pressure_of_one_domain_evicts_nothing_of_another_from_gpu_memory() {
    let (mut world, a, b) = world().await;
    let (mine, others) = (Block::chain("mine", 3, BYTES), Block::chain("others", 3, BYTES));
    a.warm(&mut world, &mine).await;
    b.warm(&mut world, &others).await;
    b.press(&mut world, "pressure").await;
    assert_eq!(a.load(&mine), 3, "nobody but its own domain may evict it");
    assert_eq!(b.load(&others), 0, "its own domain has");
    let (first, second) = (domain(&mut world, "first").await, domain(&mut world, "second").await);
    assert_eq!((first.capacity_bytes, first.blocks, first.evictions), (1 << 20, 3, 0));
    assert!(second.capacity_bytes == 1 << 20 && second.evictions > 0, "{second:?}");
    assert_eq!(domain(&mut world, "node").await.capacity_bytes, 2 << 20);
}

#[tokio::test]
async fn the_same_keys_of_two_domains_are_two_chains_in_gpu_memory() {
    let (mut world, a, b) = world().await;
    let chain = Block::chain("same", 3, BYTES);
    a.warm(&mut world, &chain).await;
    // Its own bytes, from host memory: what the other domain has in the pool is not found.
    b.warm(&mut world, &chain).await;
    let keys = plain(&chain);
    let request = v1::DeleteRequest { space: a.space.0.to_vec(), keys };
    assert_eq!(world.wire.client.delete(request).await.expect("deleted").into_inner().deleted, 3);
    assert_eq!(domain(&mut world, "first").await.blocks, 0, "gone from its pool at once");
    assert_eq!(b.load(&chain), 3, "and from no other");
}

#[tokio::test]
async fn a_pin_keeps_its_chain_in_the_pool_of_its_own_domain() {
    let (mut world, a, b) = world().await;
    let agent = Block::chain("agent", 3, BYTES);
    store(&a.client, a.space, &agent);
    let (space, name) = (a.space.0.to_vec(), "agent".to_owned());
    let pin = v1::PinRequest { space: space.clone(), name: name.clone(), keys: plain(&agent), ttl_ms: 600_000 };
    world.wire.client.pin(pin).await.expect("pinned");
    assert_eq!(a.load(&agent), 0, "a pinned chain is taken in at its first load");
    world.wire.status_until("the agent in GPU memory", |status| tier(status).stores == 3).await;
    a.press(&mut world, "own").await;
    b.press(&mut world, "another's").await;
    assert_eq!(a.load(&agent), 3, "pinned");
    world.wire.client.unpin(v1::UnpinRequest { space, name }).await.expect("unpinned");
    a.press(&mut world, "more").await;
    assert!(a.load(&agent) < 3, "nothing keeps it any more");
}

#[tokio::test]
async fn what_left_host_memory_is_brought_back_from_the_pool_of_its_domain() {
    let (mut world, a, _b) = world().await;
    let (space, chain) = (a.space.0.to_vec(), Block::chain("cold", 3, BYTES));
    world.wire.store(&space, &chain, Durability::Durable).await;
    a.heat(&mut world, &chain).await;
    // More than the domain's arena of 16 MiB.
    let flood: Vec<_> = (0..24).map(|number| Block::root(format!("flood {number}").as_bytes(), 1 << 20)).collect();
    world.wire.store(&space, &flood, Durability::Durable).await;
    let hits = tier(&world.wire.status().await).hits;
    let reader = attach(&world, LocalOptions::reader("test", "a"));
    expect(&acquire(&reader, a.space, &keys(&chain)), &chain);
    assert_eq!(tier(&world.wire.status().await).hits, hits + 3, "from GPU memory, and not from NVMe");
}
