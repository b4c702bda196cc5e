//! What the client does when the daemon misbehaves, stalls, dies or comes back.

mod fake;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fake::{Fake, Fault};
use kvtier_client::{
    Client, ClientError, ConnectOptions, EventStart, GetAnswer, PutBlock, PutOutcome, SpaceDescription, SpaceDigest,
    wire,
};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

const SHORT: Duration = Duration::from_millis(300);

struct World {
    fake: Fake,
    client: Client,
    space: SpaceDigest,
    keys: Vec<Bytes>,
}

/// A fake with a chain of three blocks of 1,000 bytes, and a client that does not wait long.
async fn world() -> World {
    let fake = Fake::tcp();
    let client = impatient(&fake.endpoint).await;
    let (space, keys) = fill(&client).await;
    World { fake, client, space, keys }
}

async fn impatient(endpoint: &str) -> Client {
    let options = ConnectOptions { call_timeout: SHORT, stall_timeout: SHORT, ..Default::default() };
    Client::connect_with(&endpoint.parse().expect("valid"), options).await.expect("connects")
}

async fn fill(client: &Client) -> (SpaceDigest, Vec<Bytes>) {
    let description = SpaceDescription::single_part("t", "m", 16, 1 << 20);
    let space = client.open_space("s", &description).await.expect("opens").space;
    let keys: Vec<Bytes> = (0..3).map(|index| Bytes::from(format!("key {index}"))).collect();
    let blocks = keys.iter().enumerate().map(|(index, key)| PutBlock::new(key.clone(), vec![index as u8; 1000]));
    client.put_many(space, blocks.collect::<Vec<_>>()).await.expect("puts");
    (space, keys)
}

async fn get_all(world: &World) -> Vec<Result<GetAnswer, ClientError>> {
    let mut answers = world.client.get_keys(world.space, &world.keys).await.expect("the call opens");
    let mut collected = Vec::new();
    while let Some(answer) = answers.next().await.transpose() {
        collected.push(answer);
        assert!(collected.len() < 10, "the stream never ends: {collected:?}");
    }
    collected
}

#[tokio::test]
async fn a_corrupt_block_is_reported_and_the_others_are_delivered() {
    let world = world().await;
    for frame_bytes in [4 << 20, 100] {
        *world.fake.store.frame_bytes.lock().expect("not poisoned") = frame_bytes;
        world.fake.store.set_fault(Fault::FlipBit(1));
        let answers = get_all(&world).await;
        assert!(matches!(answers[0], Ok(GetAnswer::Block(_))));
        assert!(matches!(answers[1], Err(ClientError::Corrupt { index: 1, .. })), "{answers:?}");
        assert!(matches!(answers[2], Ok(GetAnswer::Block(_))));
        assert_eq!(answers.len(), 3);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_ends_with_that_error() {
    let world = world().await;
    *world.fake.store.frame_bytes.lock().expect("not poisoned") = 600;
    let faults = [
        (Fault::Truncate, "ended inside block 0, at byte 600 of 1000"),
        (Fault::WrongLength, "600+400 of 999"),
        (Fault::WrongOrder, "block 2 came where 0 was due"),
    ];
    for (fault, expected) in faults {
        world.fake.store.set_fault(fault);
        let answers = get_all(&world).await;
        let Some(Err(ClientError::Protocol { detail, .. })) = answers.last() else { panic!("{answers:?}") };
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(answers.len(), 1, "nothing may follow or precede: {answers:?}");
    }
}

#[tokio::test]
async fn a_daemon_that_never_answers_costs_one_deadline() {
    let world = world().await;
    world.fake.store.set_fault(Fault::NeverAnswer);
    let client = &world.client;
    let within = async {
        let lookup = client.lookup(world.space, &world.keys, None).await.map(|_| ());
        let get = client.get_keys(world.space, &world.keys).await.map(|_| ());
        let status = client.status().await.map(|_| ());
        for result in [lookup, get, status] {
            assert!(matches!(result, Err(ClientError::TimedOut { .. })), "{result:?}");
        }
        let delete = client.delete(world.space, &world.keys).await.map(|_| ());
        let put = client.put(world.space, PutBlock::new("new", "x")).await.map(|_| ());
        for result in [delete, put] {
            assert!(matches!(result, Err(ClientError::Indeterminate { .. })), "{result:?}");
        }
    };
    tokio::time::timeout(SHORT * 10, within).await.expect("five calls of one deadline each");
}

#[tokio::test]
async fn a_stream_that_falls_silent_costs_one_stall_timeout() {
    let world = world().await;
    world.fake.store.set_fault(Fault::StallAfterFirst);
    let answers = get_all(&world).await;
    assert!(matches!(answers[0], Ok(GetAnswer::Block(_))), "{answers:?}");
    assert!(matches!(answers[1], Err(ClientError::TimedOut { call: "get", .. })), "{answers:?}");
    assert_eq!(answers.len(), 2);
}

#[tokio::test]
async fn puts_without_outcomes_are_indeterminate_and_say_which() {
    let world = world().await;
    world.fake.store.set_fault(Fault::SwallowOutcomes);
    let mut puts = world.client.put_stream(world.space);
    let tags = [0, 1].map(|index| PutBlock::new(format!("new {index}"), "x"));
    for block in tags {
        puts.send(block).await.expect("sends");
    }
    let error = puts.next().await.expect_err("no outcome comes");
    assert!(matches!(error, ClientError::Indeterminate { call: "put", .. }), "{error}");
    assert_eq!(puts.in_flight().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(puts.send(PutBlock::new("k", "x")).await, Err(error), "a failed stream stays failed");
}

#[tokio::test]
async fn an_abandoned_get_ends_on_the_daemon_too() {
    let world = world().await;
    world.fake.store.set_fault(Fault::StallAfterFirst);
    let mut answers = world.client.get_keys(world.space, &world.keys).await.expect("opens");
    answers.next().await.expect("the first comes");
    let open = || world.fake.store.open_gets.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(open(), 1);
    drop(answers);
    let ended = async {
        while open() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the daemon hears of it");
}

#[tokio::test]
async fn refusals_keep_the_daemons_words_and_advice() {
    let world = world().await;
    world.fake.store.set_fault(Fault::Refuse(|| {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1500)));
        Status::with_error_details(tonic::Code::Unavailable, "draining", details)
    }));
    let error = world.client.lookup(world.space, &world.keys, None).await.expect_err("refused");
    assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
    assert!(error.to_string().contains("draining"), "{error}");
    let put = world.client.put(world.space, PutBlock::new("k", "x")).await.expect_err("refused");
    assert!(matches!(put, ClientError::Unavailable { .. }), "the daemon said so, nothing is in doubt: {put}");
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix://{}", folder.path().join("none.sock").display());
    let closed_port = Fake::tcp().endpoint.clone();
    for endpoint in [socket, closed_port] {
        let error = Client::connect(&endpoint).await.expect_err("nobody listens");
        let ClientError::Unavailable { endpoint: named, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, endpoint);
        let lazy = Client::connect_lazily(&endpoint.parse().expect("valid"), ConnectOptions::default()).expect("lazy");
        for _ in 0..2 {
            assert!(matches!(lazy.status().await, Err(ClientError::Unavailable { .. })));
        }
    }
}

#[tokio::test]
async fn a_client_survives_the_daemons_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("k.sock");
    let fake = Fake::unix(&path);
    let client = impatient(&fake.endpoint).await;
    let (space, keys) = fill(&client).await;
    fake.store.set_fault(Fault::StallAfterFirst);
    let mut cut = client.get_keys(space, &keys).await.expect("opens");
    cut.next().await.expect("the first comes");

    let store = fake.kill();
    let error = cut.next().await.expect_err("the connection is gone");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    let error = client.status().await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    assert!(error.retry_after().is_some());

    store.set_fault(Fault::None);
    let _fake = Fake::unix_with(&path, store);
    let found = client.lookup(space, &keys, None).await.expect("the same client connects again");
    assert_eq!(found.prefix.len(), 3);
}

#[tokio::test]
async fn puts_cut_off_by_a_restart_may_be_put_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("k.sock");
    let fake = Fake::unix(&path);
    let client = impatient(&fake.endpoint).await;
    let (space, _) = fill(&client).await;
    let mut puts = client.put_stream(space);
    puts.send(PutBlock::new("new", "x")).await.expect("sends");
    puts.next().await.expect("stored");
    fake.store.set_fault(Fault::SwallowOutcomes);
    puts.send(PutBlock::new("newer", "y")).await.expect("sends");
    let store = fake.kill();
    let error = puts.next().await.expect_err("the connection is gone");
    assert!(matches!(error, ClientError::Indeterminate { .. }), "{error}");

    store.set_fault(Fault::None);
    let _fake = Fake::unix_with(&path, store);
    let again = [PutBlock::new("new", "x"), PutBlock::new("newer", "y")];
    let outcomes = client.put_many(space, again).await.expect("puts");
    assert_eq!(outcomes[0], PutOutcome::Duplicate);
    assert!(matches!(outcomes[1], PutOutcome::Stored { .. }));
}

#[tokio::test]
async fn a_follower_misses_nothing_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("k.sock");
    let fake = Fake::unix(&path);
    let client = impatient(&fake.endpoint).await;
    let (space, _) = fill(&client).await;
    let mut follower = client.follow(EventStart::After(wire::Position { epoch: 1, seq: 1 }), &[space]);
    assert_eq!(stored_key(&mut follower).await, b"key 1");
    assert_eq!(stored_key(&mut follower).await, b"key 2");

    let store = fake.kill();
    let fake = Fake::unix_with(&path, Arc::clone(&store));
    let writer = impatient(&fake.endpoint).await;
    writer.put(space, PutBlock::new("after", "x")).await.expect("puts");
    assert_eq!(stored_key(&mut follower).await, b"after");
    assert_eq!(follower.position(), EventStart::After(wire::Position { epoch: 1, seq: 4 }));

    *store.epoch.lock().expect("not poisoned") = 2;
    fake.kill();
    let _fake = Fake::unix_with(&path, store);
    let batch = follower.next().await.expect("a batch");
    assert!(matches!(batch.events[0].kind, Some(wire::event::Kind::Reset(_))), "a gap is a Reset: {batch:?}");
}

async fn stored_key(follower: &mut kvtier_client::Follower) -> Vec<u8> {
    let batch =
        tokio::time::timeout(Duration::from_secs(20), follower.next()).await.expect("in time").expect("a batch");
    match &batch.events[0].kind {
        Some(wire::event::Kind::Stored(stored)) => stored.key.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_follower_gives_up_on_what_waiting_cannot_mend() {
    let world = world().await;
    world.fake.store.set_fault(Fault::Refuse(|| Status::out_of_range("position 7:9 is in the future")));
    let mut follower = world.client.follow(EventStart::Tail, &[]);
    assert!(matches!(follower.next().await, Err(ClientError::Invalid { .. })));
}
