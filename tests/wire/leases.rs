//! Leases and pins that cannot be used.

use bytes::Bytes;
use kvtier_proto::v1::{self, Durability};
use kvtier_tests::wire::{breathe, within};
use kvtier_tests::{Blame, Block, Wire, World, block};
use tonic::Code;

async fn leased(world: &mut World, lease_ms: u32) -> (Vec<Block>, Vec<u8>) {
    let chain = Block::chain("leased", 4, 8000);
    world.store(&chain, Durability::Volatile).await;
    let space = world.space.clone();
    let found = world.wire.lookup(&space, &block::keys(&chain), Some(lease_ms)).await.expect("a lease is granted");
    assert_eq!(found.prefix.len(), 4);
    assert_eq!(found.lease.len(), 16);
    (chain, found.lease)
}

async fn release(wire: &mut Wire, lease: &[u8]) -> Result<(), tonic::Status> {
    let request = wire.request(v1::ReleaseRequest { lease: lease.to_vec() });
    wire.client.release(request).await.map(|_| ())
}

#[tokio::test]
async fn an_unknown_lease_is_not_found() {
    let mut world = World::new().await;
    let answer = release(&mut world.wire, &[3; 16]).await;
    Blame::expect(answer, Code::NotFound, "lease", "0303", "look the chain up again");
    let answer = world.wire.get_lease(&[3; 16]).await;
    Blame::expect(answer, Code::NotFound, "lease", "0303", "look the chain up again");
    let answer = release(&mut world.wire, &[3; 15]).await;
    Blame::expect(answer, Code::InvalidArgument, "lease", "15 bytes long", "16 bytes that Lookup returned");
}

#[tokio::test]
async fn a_lease_that_has_ended_is_a_failed_precondition() {
    let mut world = World::new().await;
    let (chain, lease) = leased(&mut world, 60_000).await;
    release(&mut world.wire, &lease).await.expect("a lease can be released");
    let answer = world.wire.get_lease(&lease).await;
    Blame::expect(answer, Code::FailedPrecondition, "lease", "", "look the chain up again");
    let space = world.space.clone();
    let lease = world.wire.lookup(&space, &block::keys(&chain), Some(20)).await.expect("another lease").lease;
    world.wire.status_until("the deadline", |status| status.leases == 0).await;
    within("the end of the lease", async {
        while world.wire.get_lease(&lease).await.is_ok() {
            breathe().await;
        }
    })
    .await;
    let answer = world.wire.get_lease(&lease).await;
    Blame::expect(answer, Code::FailedPrecondition, "lease", "", "look the chain up again");
}

#[tokio::test]
async fn a_lease_of_another_client_is_denied() {
    let mut world = World::new().await;
    let (_, lease) = leased(&mut world, 60_000).await;
    let mut other = Wire::tcp(world.daemon.endpoints()).await;
    Blame::expect(other.get_lease(&lease).await, Code::PermissionDenied, "lease", "", "x-kvtier-client");
    Blame::expect(release(&mut other, &lease).await, Code::PermissionDenied, "lease", "", "x-kvtier-client");
    assert_eq!(world.wire.get_lease(&lease).await.expect("its own client may").len(), 4);
}

#[tokio::test]
async fn a_client_keeps_its_leases_over_connections_by_its_name() {
    let mut world = World::new().await;
    world.wire = world.wire.named("worker-1");
    let (_, lease) = leased(&mut world, 60_000).await;
    let mut same = Wire::unix(world.daemon.endpoints()).await.named("worker-1");
    assert_eq!(same.get_lease(&lease).await.expect("the same client may").len(), 4);
    let mut other = Wire::tcp(world.daemon.endpoints()).await.named("worker-2");
    Blame::expect(other.get_lease(&lease).await, Code::PermissionDenied, "lease", "", "x-kvtier-client");
}

#[tokio::test]
async fn a_lease_of_0_ms_is_invalid() {
    let mut world = World::new().await;
    let chain = Block::chain("a", 1, 5000);
    world.store(&chain, Durability::Volatile).await;
    let space = world.space.clone();
    let answer = world.wire.lookup(&space, &block::keys(&chain), Some(0)).await;
    Blame::expect(answer, Code::InvalidArgument, "lease_ms", "0", "at least 1 ms");
}

#[tokio::test]
async fn a_pin_over_the_quota_is_refused_with_the_figures() {
    let mut world = World::with(&[("limits.pin_quota_bytes", "64KiB")]).await;
    let chain = Block::chain("pinned", 10, 10_000);
    world.store(&chain, Durability::Volatile).await;
    let request = |name: &str, count: usize| v1::PinRequest {
        space: world.space.clone(),
        name: name.into(),
        keys: chain.iter().take(count).map(|block| block.key.to_vec()).collect(),
        ttl_ms: 60_000,
    };
    let (six, seven) = (request("six", 6), request("all", 7));
    world.wire.client.pin(six).await.expect("60,000 bytes fit 64 KiB");
    let status = world.wire.client.pin(seven).await.expect_err("70,000 bytes do not");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let detail = status.message();
    assert!(detail.contains("65536") && detail.contains("unpin something"), "{detail}");
    assert!(Blame::of(&status).retry.is_some(), "it says when to come back");
}

#[tokio::test]
async fn pins_without_a_name_or_a_life_are_invalid() {
    let mut world = World::new().await;
    let chain = Block::chain("a", 1, 5000);
    world.store(&chain, Durability::Volatile).await;
    let pin =
        |name: String, ttl_ms| v1::PinRequest { space: world.space.clone(), name, keys: vec![b"a/0".to_vec()], ttl_ms };
    let (nameless, long, dead) = (pin(String::new(), 1000), pin("n".repeat(129), 1000), pin("p".into(), 0));
    let client = &mut world.wire.client;
    Blame::expect(client.pin(nameless).await, Code::InvalidArgument, "name", "0 bytes long", "1 to 128 bytes");
    Blame::expect(client.pin(long).await, Code::InvalidArgument, "name", "129 bytes long", "1 to 128 bytes");
    Blame::expect(client.pin(dead).await, Code::InvalidArgument, "ttl_ms", "0", "at least 1 ms");
}

#[tokio::test]
async fn a_client_name_has_1_to_128_bytes() {
    let mut world = World::new().await;
    let mut request = tonic::Request::new(v1::LookupRequest {
        space: world.space.clone(),
        keys: vec![Bytes::from("k")],
        lease_ms: None,
        request: String::new(),
    });
    request.metadata_mut().insert("x-kvtier-client", "n".repeat(129).parse().expect("a header value"));
    let answer = world.wire.client.lookup(request).await;
    Blame::expect(answer, Code::InvalidArgument, "x-kvtier-client", "129 bytes long", "1 to 128 bytes");
}
