//! What a client must not do, and how little comes of it.

use std::io::{Read, Write};

use kvtier_client::ClientError;
use kvtier_client::local::ReserveChain;
use kvtier_proto::local::{ATTACHMENT_HEADER, Header, Kind, Method, frame};
use kvtier_proto::v1;
use kvtier_proto::v1::local_client::LocalClient as GrpcLocal;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};
use v1::{CommitOutcome, LocalRole};

use super::raw::{Raw, connect, reserve};
use super::{acquire, digest, expect, reader, store, wait_until_free, writer};

fn rejected(answer: &v1::CommitResponse) -> &str {
    assert_eq!(answer.outcomes, [i32::from(CommitOutcome::Rejected)], "{answer:?}");
    &answer.refusals[0].detail
}

#[tokio::test]
async fn a_second_commit_is_told_so_and_changes_nothing() {
    let mut world = World::new().await;
    let chain = vec![Block::root(b"twice", 5000)];
    let mut raw = Raw::writer(&world);
    let slots = raw.reserve(&world, &chain);
    raw.write(slots.offsets[0], &chain[0].payload).expect("the slot is ours");
    assert_eq!(raw.commit(&slots.reservations).crc32, [chain[0].crc()]);
    assert!(rejected(&raw.commit(&slots.reservations)).contains("before"));
    expect(&acquire(&reader(&world), digest(&world), &keys(&chain)), &chain);
    drop(raw);
    wait_until_free(&mut world).await;
}

#[tokio::test]
async fn nobody_commits_or_aborts_a_reservation_of_another() {
    let world = World::new().await;
    let chain = vec![Block::root(b"mine", 5000)];
    let (mut owner, mut thief) = (Raw::writer(&world), Raw::writer(&world));
    let slots = owner.reserve(&world, &chain);
    assert!(rejected(&thief.commit(&slots.reservations)).contains("no reservation of this client"));
    let request = v1::AbortRequest { reservations: slots.reservations.clone() };
    let aborted: v1::AbortResponse = thief.ask(Method::Abort, &request).expect("answered");
    assert_eq!(aborted.aborted, 0);
    owner.write(slots.offsets[0], &chain[0].payload).expect("the slot is the owner's");
    assert!(owner.commit(&slots.reservations).outcomes.is_empty(), "stored");
    expect(&acquire(&reader(&world), digest(&world), &keys(&chain)), &chain);
}

/// A block that was changed behind the daemon's back after its commit.
async fn scribbled(settings: &[(&str, &str)]) -> (World, Raw, Vec<Block>) {
    let world = World::with(settings).await;
    let chain = vec![Block::root(b"scribbled", 50_000)];
    let mut raw = Raw::writer(&world);
    let slots = raw.reserve(&world, &chain);
    raw.write(slots.offsets[0], &chain[0].payload).expect("the slot is ours");
    raw.commit(&slots.reservations);
    raw.write(slots.offsets[0] + 17, b"late").expect("nothing stops it");
    (world, raw, chain)
}

#[tokio::test]
async fn writing_after_the_commit_is_found_by_whoever_reads() {
    let (world, _raw, chain) = scribbled(&[("nvme.enabled", "false")]).await;
    let acquired = acquire(&reader(&world), digest(&world), &keys(&chain));
    assert!(matches!(acquired.verify(0), Err(ClientError::Corrupt { index: 0, .. })));
    let tcp = world.daemon.endpoints().tcp.expect("on");
    let client = kvtier_client::Client::connect(&format!("http://{tcp}")).await.expect("connected");
    let mut got = client.get_keys(digest(&world), &keys(&chain)).await.expect("answered");
    let block = got.next().await;
    assert!(matches!(block, Err(ClientError::Corrupt { .. })), "{block:?}");
}

#[tokio::test]
async fn writing_after_the_commit_never_reaches_the_disk() {
    let (mut world, mut raw, chain) = scribbled(&[("nvme.admission", "second-touch")]).await;
    let durable = v1::ReserveRequest { durability: v1::Durability::Durable.into(), ..reserve(&world, &chain) };
    let slots: v1::ReserveResponse = raw.ask(Method::Reserve, &durable).expect("a good request");
    let answer = raw.commit(&slots.reservations);
    assert_eq!(answer.outcomes, [i32::from(CommitOutcome::Declined)], "{answer:?}");
    let space = world.space.clone();
    let found = world.wire.lookup(&space, &keys(&chain), None).await.expect("answered");
    assert!(found.prefix.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_reader_can_neither_reserve_nor_write() {
    let world = World::new().await;
    let names = keys(&Block::chain("no", 1, 10));
    let refused = reader(&world).reserve(&ReserveChain::new(digest(&world), &names, 10));
    assert!(matches!(refused, Err(ClientError::Denied { .. })), "{refused:?}");
    let raw = Raw::attach(&world, LocalRole::Reader, "test").expect("attached");
    assert!(raw.write(8192, b"x").is_err(), "its descriptor is for reading");
    for file in [&raw.arena, &raw.generations] {
        assert!(rustix::fs::ftruncate(file, 0).is_err(), "sealed against shrinking");
    }
    let writer = Raw::writer(&world);
    assert!(rustix::io::write(&writer.generations, &[1; 8]).is_err(), "nobody writes generations");
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let world = World::new().await;
    let client = writer(&world);
    let attach = |length: u32| Header { length, method: Method::Attach, kind: Kind::Request, tag: 1 }.encode();
    let lookup = v1::AcquireRequest { space: world.space.clone(), ..v1::AcquireRequest::default() };
    let rubbish: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        vec![0; 64],
        attach(5000).to_vec(),
        frame(Method::Acquire, Kind::Request, 1, &lookup),
        frame(Method::Attach, Kind::Answer, 1, &lookup),
    ];
    for bytes in &rubbish {
        let mut stream = connect(&world);
        // The daemon may have closed it before all was sent.
        stream.write_all(bytes).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
    }
    // A message that is none, in a frame that is one: an error, and the connection goes on.
    let mut raw = Raw::writer(&world);
    let failure = raw.ask::<v1::ReserveResponse>(Method::Reserve, &v1::PollRequest { lease: vec![9; 3], wait: true });
    assert!(failure.is_err());
    let chain = Block::chain("after", 2, 5000);
    store(&client, digest(&world), &chain);
    assert!(raw.reserve(&world, &chain).outcomes.iter().all(|outcome| *outcome == 1), "duplicates");
}

#[tokio::test]
async fn bad_input_is_named_and_harms_nothing() {
    let world = World::new().await;
    let mut raw = Raw::writer(&world);
    let good = reserve(&world, &[Block::root(b"key", 100)]);
    let cases = [
        ("space", v1::ReserveRequest { space: vec![1; 31], ..good.clone() }),
        ("keys", v1::ReserveRequest { keys: vec![], key_lengths: vec![], ..good.clone() }),
        ("keys", v1::ReserveRequest { key_lengths: vec![2], ..good.clone() }),
        ("keys", v1::ReserveRequest { key_bytes: 65, ..good.clone() }),
        ("lengths", v1::ReserveRequest { lengths: vec![1, 2], ..good.clone() }),
        ("durability", v1::ReserveRequest { durability: 9, ..good.clone() }),
    ];
    for (field, request) in cases {
        let failure = raw.ask::<v1::ReserveResponse>(Method::Reserve, &request).expect_err(field);
        assert!(failure.message.contains(field), "{failure:?}");
    }
    for request in [
        v1::ReserveRequest { lengths: vec![0], ..good.clone() },
        v1::ReserveRequest { lengths: vec![2 << 20], ..good.clone() },
        v1::ReserveRequest { part: 1, ..good.clone() },
    ] {
        let answer: v1::ReserveResponse = raw.ask(Method::Reserve, &request).expect("answered per block");
        assert_eq!(answer.outcomes, [i32::from(v1::ReserveOutcome::Rejected)], "{answer:?}");
    }
    let unknown: Result<v1::AcquireResponse, _> =
        raw.ask(Method::Poll, &v1::PollRequest { lease: vec![7; 16], wait: false });
    assert_eq!(unknown.expect_err("no such lease").code, 5);
}

#[tokio::test]
async fn the_same_messages_are_answered_over_grpc() {
    let mut world = World::new().await;
    let chain = Block::chain("both", 3, 5000);
    store(&writer(&world), digest(&world), &chain);
    let mut raw = Raw::writer(&world);
    let request = v1::AcquireRequest {
        space: world.space.clone(),
        keys: chain.iter().flat_map(|block| block.key.to_vec()).collect(),
        key_bytes: chain[0].key.len() as u32,
        lease_ms: 5000,
        ..v1::AcquireRequest::default()
    };
    let over_socket: v1::AcquireResponse = raw.ask(Method::Acquire, &request).expect("answered");
    let mut grpc = GrpcLocal::new(world.wire.channel.clone());
    let digits: String = raw.attachment.iter().map(|byte| format!("{byte:02x}")).collect();
    let named = |message: v1::AcquireRequest, digits: &str| {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(ATTACHMENT_HEADER, digits.parse().expect("digits"));
        request
    };
    let over_grpc = grpc.acquire(named(request.clone(), &digits)).await.expect("answered").into_inner();
    assert_eq!(over_grpc.offsets, over_socket.offsets);
    assert_eq!(over_grpc.generations, over_socket.generations);
    assert_eq!(over_grpc.offsets.len(), 3);
    // One session: a lease of the one is released over the other.
    let release = v1::ReleaseLeasesRequest { leases: vec![over_grpc.lease, over_socket.lease] };
    let released: v1::ReleaseLeasesResponse = raw.ask(Method::ReleaseLeases, &release).expect("answered");
    assert_eq!(released.released, 2);
    let stranger = grpc.acquire(named(request, &"0".repeat(32))).await.expect_err("nobody's attachment");
    assert_eq!(stranger.code(), tonic::Code::NotFound);
    wait_until_free(&mut world).await;
}
