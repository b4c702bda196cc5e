//! Security domains: tenants with memory of their own, which nobody else maps, fills or evicts from.

use std::io::Read;
use std::os::fd::AsRawFd;

use kvtier_client::{LocalClient, LocalOptions, SpaceDigest};
use kvtier_proto::local::Method;
use kvtier_proto::v1;
use kvtier_proto::v1::{CommitOutcome, LocalRole};
use kvtier_tests::block::keys;
use kvtier_tests::wire::description;
use kvtier_tests::{Block, Setup, World};

use super::raw::{Raw, reserve};
use super::{acquire, attach, expect, store, write};

const MIB: u64 = 1 << 20;
/// Tenants `a` and `b` have 16 MiB each, everybody else 32 MiB.
pub const DOMAINS: [(&str, &str); 4] = [
    ("domain.first.tenants", "a"),
    ("domain.first.host_bytes", "16MiB"),
    ("domain.second.tenants", "b"),
    ("domain.second.host_bytes", "16MiB"),
];
/// More than a domain holds.
const FLOOD_COUNT: usize = 40;

/// A daemon with two domains and these settings, and the spaces of their tenants.
async fn domains(settings: &[(&str, &str)]) -> (World, SpaceDigest, SpaceDigest) {
    let all: Vec<_> = DOMAINS.iter().chain(settings).copied().collect();
    let mut world = World::with(&all).await;
    let (a, b) = (space_of(&mut world, "a").await, space_of(&mut world, "b").await);
    (world, a, b)
}

pub async fn space_of(world: &mut World, tenant: &str) -> SpaceDigest {
    let described = v1::SpaceDescription { tenant: tenant.to_owned(), ..description(tenant, &[MIB as u32]) };
    let opened = world.wire.open_space_of(tenant, described).await.expect("a domain's tenant opens its spaces");
    SpaceDigest(opened.space[..].try_into().expect("a digest has 32 bytes"))
}

pub fn writer_of(world: &World, tenant: &str) -> LocalClient {
    attach(world, LocalOptions::writer("test", tenant))
}

/// A chain of `count` blocks of one MiB.
fn chain(name: &str, count: usize) -> Vec<Block> {
    Block::chain(name, count, MIB as usize)
}

/// Blocks that no chain keeps from being evicted.
fn flood(name: &str) -> Vec<Block> {
    (0..FLOOD_COUNT).map(|index| Block::root(format!("{name}/{index}").as_bytes(), MIB as usize)).collect()
}

/// All bytes of a descriptor.
fn bytes_of(file: &impl AsRawFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("our own descriptor");
    file.read_to_end(&mut bytes).expect("it can be read");
    bytes
}

/// How many of the blocks have left bytes in this memory, wherever they may stand.
fn found_in(memory: &[u8], blocks: &[Block]) -> usize {
    let starts: std::collections::HashMap<[u8; 16], usize> =
        blocks.iter().enumerate().map(|(at, block)| (block.payload[..16].try_into().expect("16 bytes"), at)).collect();
    let found: std::collections::BTreeSet<usize> =
        memory.windows(16).filter_map(|window| starts.get(window).copied()).collect();
    found.len()
}

async fn domain(world: &mut World, name: &str) -> v1::DomainStatus {
    let status = world.wire.status().await;
    let host = status.tiers.into_iter().find(|tier| tier.tier() == v1::Tier::Host).expect("a host tier");
    host.domains.into_iter().find(|domain| domain.name == name).expect("a domain of that name")
}

#[tokio::test]
async fn tenants_of_two_domains_attach_at_once_and_see_nothing_of_each_other() {
    let (mut world, a, b) = domains(&[]).await;
    let raw = Raw::attach(&world, LocalRole::Reader, "a").expect("a may attach");
    let (client_a, client_b) = (writer_of(&world, "a"), writer_of(&world, "b"));
    let (mine, theirs) = (chain("mine", 4), chain("theirs", 4));
    store(&client_a, a, &mine);
    store(&client_b, b, &theirs);
    let (arena, generations) = (bytes_of(&raw.arena), bytes_of(&raw.generations));
    assert_eq!(arena.len() as u64, 16 * MIB, "the arena of its domain, and no more");
    assert_eq!((found_in(&arena, &mine), found_in(&arena, &theirs)), (4, 0));

    // Over the wire, under pressure, and up again from NVMe.
    let more = flood("more");
    world.wire.store(&b.0, &more, v1::Durability::Durable).await;
    let names = keys(&theirs);
    world.wire.expect_blocks(&b.0, &theirs).await;
    expect(&acquire(&client_b, b, &names), &theirs);
    let after = bytes_of(&raw.arena);
    assert_eq!((found_in(&after, &theirs), found_in(&after, &more)), (0, 0));
    // Whatever headers the daemon writes, they are its own tenants'.
    let first_keys = [&theirs[0].key[..], &more[0].key[..]];
    assert!(first_keys.iter().all(|key| !after.windows(key.len()).any(|window| window == *key)));
    assert_eq!(found_in(&after, &mine), 4);
    assert_eq!(bytes_of(&raw.generations), generations, "no slot of a's was given back");
    expect(&acquire(&client_a, a, &keys(&mine)), &mine);

    let theirs_raw = Raw::attach(&world, LocalRole::Writer, "b").expect("b may attach");
    let arena_b = bytes_of(&theirs_raw.arena);
    assert_eq!((found_in(&arena_b, &mine), found_in(&arena_b, &theirs)), (0, 4));
}

#[tokio::test]
async fn a_full_domain_costs_another_neither_blocks_nor_puts() {
    let (mut world, a, b) = domains(&[("nvme.enabled", "false")]).await;
    let (client_a, client_b) = (writer_of(&world, "a"), writer_of(&world, "b"));
    let mine = chain("mine", 8);
    store(&client_a, a, &mine);
    // Held to the last slot, b's domain takes no more; a's does.
    let full = chain("full", 15);
    let held: Vec<_> = full.chunks(3).flat_map(|part| write(&client_b, b, part)).collect();
    let outcomes = world.wire.put(&b.0, &flood("over"), v1::Durability::Volatile).await;
    assert!(outcomes.iter().any(|outcome| format!("{outcome:?}").contains("HostFull")), "{outcomes:?}");
    store(&client_a, a, &chain("new", 2));
    drop(held);
    world.wire.put(&b.0, &flood("evicts"), v1::Durability::Volatile).await;
    let (first, second) = (domain(&mut world, "first").await, domain(&mut world, "second").await);
    assert_eq!((first.blocks, first.evictions, first.capacity_bytes), (10, 0, 16 * MIB));
    assert!(second.evictions > 0 && second.used_bytes <= 16 * MIB, "{second:?}");
    assert_eq!(domain(&mut world, "node").await.capacity_bytes, 32 * MIB);
    expect(&acquire(&client_a, a, &keys(&mine)), &mine);
}

#[tokio::test]
async fn nobody_acquires_or_commits_what_is_another_domains() {
    let (world, _, b) = domains(&[]).await;
    let mut raw_a = Raw::attach(&world, LocalRole::Writer, "a").expect("a may attach");
    let mut raw_b = Raw::attach(&world, LocalRole::Writer, "b").expect("b may attach");
    let theirs = chain("theirs", 2);
    let wanted = v1::ReserveRequest { space: b.0.to_vec(), ..reserve(&world, &theirs) };
    let slots: v1::ReserveResponse = raw_b.ask(Method::Reserve, &wanted).expect("its own space");
    for (block, offset) in theirs.iter().zip(&slots.offsets) {
        raw_b.write(*offset, &block.payload).expect("its own slot");
        // The same offsets in a's arena are a's: nothing of b's changes by them.
        raw_a.write(*offset, &[0xaa; 64]).expect("its own memory");
    }
    let stolen = raw_a.commit(&slots.reservations);
    assert_eq!(stolen.outcomes, [i32::from(CommitOutcome::Rejected); 2], "{stolen:?}");
    for request in [Method::Reserve, Method::Acquire] {
        let refused = match request {
            Method::Reserve => raw_a.ask::<v1::ReserveResponse>(request, &wanted).err(),
            _ => {
                let keys = theirs.iter().flat_map(|block| block.key.to_vec()).collect();
                let key_lengths = theirs.iter().map(|block| block.key.len() as u32).collect();
                let space = b.0.to_vec();
                let asked = v1::AcquireRequest { space, keys, key_lengths, lease_ms: 1000, ..Default::default() };
                raw_a.ask::<v1::AcquireResponse>(request, &asked).err()
            }
        };
        assert_eq!(refused.expect("another tenant's space").code, tonic::Code::PermissionDenied as i32);
    }
    let committed = raw_b.commit(&slots.reservations);
    assert!(committed.outcomes.is_empty() && committed.refusals.is_empty(), "all are stored: {committed:?}");
    expect(&acquire(&writer_of(&world, "b"), b, &keys(&theirs)), &theirs);
}

#[tokio::test]
async fn every_arena_is_sealed_and_read_only_to_readers() {
    let (world, ..) = domains(&[]).await;
    for tenant in ["a", "b"] {
        let reader = Raw::attach(&world, LocalRole::Reader, tenant).expect("it may attach");
        assert!(reader.write(8192, b"x").is_err(), "its descriptor is for reading");
        let writer = Raw::attach(&world, LocalRole::Writer, tenant).expect("it may attach");
        for file in [&reader.arena, &reader.generations, &writer.arena, &writer.generations] {
            assert!(rustix::fs::ftruncate(file, 0).is_err(), "sealed against shrinking");
        }
        assert!(rustix::io::write(&writer.generations, &[1; 8]).is_err(), "nobody writes generations");
    }
}

/// Tenants that no domain names share what is left, and the rule that keeps strangers apart goes on for them.
#[tokio::test]
async fn tenants_without_a_domain_still_exclude_each_other() {
    let (mut world, ..) = domains(&[]).await;
    let of_tenant = |tenant: &str| v1::SpaceDescription { tenant: tenant.to_owned(), ..description(tenant, &[4096]) };
    world.wire.open_space_of("other", of_tenant("other")).await.expect("nobody shares yet");
    let refused = Raw::attach(&world, LocalRole::Reader, "test").err().expect("other's blocks would be seen");
    assert!(refused.message.contains("[domain.NAME]"), "{refused:?}");
    for tenant in ["a", "b"] {
        Raw::attach(&world, LocalRole::Writer, tenant).expect("it has a domain");
    }
    // Domains do not make the node's own memory shared: it is still open to more tenants.
    world.wire.open_space_of("third", of_tenant("third")).await.expect("nobody has attached there");
}

/// What is durable belongs to whichever domain its tenant is in after the restart.
#[tokio::test]
async fn a_restart_binds_tenants_to_the_domains_of_now() {
    let (mut world, a, b) = domains(&[]).await;
    let (mine, theirs) = (chain("mine", 3), chain("theirs", 3));
    world.wire.store(&a.0, &mine, v1::Durability::Durable).await;
    world.wire.store(&b.0, &theirs, v1::Durability::Durable).await;
    let (setup, _) = world.daemon.stop();
    // Now b is alone in what was a's, and a has none.
    let swapped = setup.and("domain.first.tenants", "b").and("domain.second.tenants", "c");
    let mut world = World::of(swapped.start()).await;
    let arena_b = Raw::attach(&world, LocalRole::Reader, "b").expect("b may attach");
    expect(&acquire(&writer_of(&world, "b"), b, &keys(&theirs)), &theirs);
    world.wire.expect_blocks(&a.0, &mine).await;
    let memory = bytes_of(&arena_b.arena);
    assert_eq!((found_in(&memory, &theirs), found_in(&memory, &mine)), (3, 0));
    assert_eq!((domain(&mut world, "node").await.blocks, domain(&mut world, "first").await.blocks), (3, 3));
}

#[test]
fn domains_that_do_not_fit_do_not_start() {
    let all: Vec<_> = DOMAINS.iter().copied().chain([("domain.second.host_bytes", "60MiB")]).collect();
    let output = Setup::with(&all).run(&["check-config"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("domain.second.host_bytes"), "{told}");
}
