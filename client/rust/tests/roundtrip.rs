//! What is put comes back, over TCP, unix sockets and TLS.

mod fake;

use std::time::Duration;

use bytes::Bytes;
use fake::Fake;
use kvtier_client::{
    Client, ClientError, ConnectOptions, DeclineReason, GetAnswer, GetStream, PartSpec, PutBlock, PutOutcome,
    SpaceDescription, SpaceDigest, Tier,
};

fn keys(count: usize) -> Vec<Bytes> {
    (0..count).map(|index| Bytes::from(format!("key {index}"))).collect()
}

fn bytes_of(index: usize, length: usize) -> Bytes {
    (0..length).map(|at| (index * 31 + at * 7) as u8).collect::<Vec<_>>().into()
}

async fn open(client: &Client) -> SpaceDigest {
    let description = SpaceDescription::single_part("t", "m", 16, 16 << 20);
    client.open_space("s", &description).await.expect("opens").space
}

/// Puts a chain of blocks and returns its keys.
async fn put_chain(client: &Client, space: SpaceDigest, blocks: usize, length: usize) -> Vec<Bytes> {
    let keys = keys(blocks);
    let outcomes = client.put_many(space, chain(&keys, length)).await.expect("puts");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, PutOutcome::Stored { .. })), "{outcomes:?}");
    keys
}

fn chain(keys: &[Bytes], length: usize) -> impl Iterator<Item = PutBlock> {
    keys.iter().enumerate().map(move |(index, key)| {
        let block = PutBlock::new(key.clone(), bytes_of(index, length));
        if index == 0 { block } else { block.after(keys[index - 1].clone()) }
    })
}

async fn collect(mut answers: GetStream) -> Vec<GetAnswer> {
    let mut collected = Vec::new();
    while let Some(answer) = answers.next().await.expect("answers") {
        collected.push(answer);
    }
    collected
}

fn assert_blocks(answers: &[GetAnswer], first: usize, length: usize) {
    for (at, answer) in answers.iter().enumerate() {
        let GetAnswer::Block(block) = answer else { panic!("{answer:?}") };
        assert_eq!(block.index as usize, first + at);
        assert_eq!(block.bytes, bytes_of(first + at, length));
        assert_eq!(block.tier, Tier::Host);
    }
}

#[tokio::test]
async fn blocks_of_one_and_of_many_frames_come_back() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    for (length, frame_bytes) in [(4096, 4 << 20), (9 << 20, 4 << 20), (10_000, 64)] {
        fake.store.blocks.lock().expect("not poisoned").clear();
        *fake.store.frame_bytes.lock().expect("not poisoned") = frame_bytes;
        let keys = put_chain(&client, space, 5, length).await;
        let answers = collect(client.get_keys(space, &keys).await.expect("gets")).await;
        assert_eq!(answers.len(), 5);
        assert_blocks(&answers, 0, length);
    }
}

#[tokio::test]
async fn a_lease_gives_its_prefix_and_any_part_of_it() {
    let socket = tempfile::tempdir().expect("a folder");
    let fake = Fake::unix(&socket.path().join("k.sock"));
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let mut keys = put_chain(&client, space, 6, 1000).await;
    keys.push(Bytes::from_static(b"absent"));

    let found = client.lookup(space, &keys, Some(Duration::from_secs(5))).await.expect("looks up");
    assert_eq!(found.prefix.len(), 6);
    assert_eq!(found.prefix[3].length, 1000);
    assert!(found.miss.expect("the last key is absent").detail.contains("never stored"));
    let lease = found.lease.expect("one was asked for");
    assert_blocks(&collect(client.get_lease(&lease).await.expect("gets")).await, 0, 1000);
    let part = collect(client.get_lease_range(&lease, 2..4).await.expect("gets")).await;
    assert_eq!(part.len(), 2);
    assert_blocks(&part, 2, 1000);
    assert!(matches!(client.get_lease_range(&lease, 3..7).await, Err(ClientError::Invalid { .. })));
    client.release(lease.clone()).await.expect("releases");
    client.release(lease).await.expect("a second time is no error");
}

#[tokio::test]
async fn a_lease_belongs_to_its_client_and_its_clones() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let keys = put_chain(&client, space, 1, 100).await;
    let lease =
        client.lookup(space, &keys, Some(Duration::from_secs(5))).await.expect("looks up").lease.expect("leased");
    client.clone().get_lease(&lease).await.expect("a clone is the same client");

    let other = Client::connect(&fake.endpoint).await.expect("connects");
    assert_ne!(other.id(), client.id());
    assert!(matches!(other.get_lease(&lease).await, Err(ClientError::Denied { .. })));
    let same = ConnectOptions { client_id: Some(client.id().to_owned()), ..Default::default() };
    let same = Client::connect_with(&fake.endpoint.parse().expect("valid"), same).await.expect("connects");
    same.get_lease(&lease).await.expect("the same name is the same client");
}

#[tokio::test]
async fn misses_are_answers_and_do_not_end_the_stream() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let mut keys = put_chain(&client, space, 3, 100).await;
    keys.insert(1, Bytes::from_static(b"absent"));
    let answers = collect(client.get_keys(space, &keys).await.expect("gets")).await;
    let kinds: Vec<bool> = answers.iter().map(|answer| matches!(answer, GetAnswer::Block(_))).collect();
    assert_eq!(kinds, [true, false, true, true]);
}

#[tokio::test]
async fn a_put_says_what_became_of_each_block() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let blocks = [
        PutBlock::new("a", "first"),
        PutBlock::new("a", "first"),
        PutBlock::new("b", "orphan").after("nobody"),
        PutBlock::new("c", "durable").after("a").durable(),
    ];
    let outcomes = client.put_many(space, blocks).await.expect("puts");
    assert!(matches!(outcomes[0], PutOutcome::Stored { crc32, .. } if crc32 == crc32fast::hash(b"first")));
    assert_eq!(outcomes[1], PutOutcome::Duplicate);
    assert!(matches!(outcomes[2], PutOutcome::Declined { reason: DeclineReason::ParentUnknown, .. }));
    assert!(matches!(outcomes[3], PutOutcome::Stored { durability: kvtier_client::Durability::Durable, .. }));
    let unknown = client.put(SpaceDigest([9; 32]), PutBlock::new("a", "x")).await.expect("an outcome");
    assert!(matches!(unknown, PutOutcome::Rejected { field, .. } if field == "space"));
}

#[tokio::test]
async fn the_parts_of_a_block_make_one_block() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let description = SpaceDescription {
        parts: vec![PartSpec { bytes: 3 }, PartSpec { bytes: 2 }],
        ..SpaceDescription::single_part("t", "two parts", 16, 1)
    };
    let space = client.open_space("parts", &description).await.expect("opens").space;
    let mut puts = client.put_stream(space);
    let second = PutBlock { part: 1, ..PutBlock::new("k", "45") };
    let tags = [puts.send(second).await.expect("sends"), puts.send(PutBlock::new("k", "123")).await.expect("sends")];
    let answers = puts.finish().await.expect("finishes");
    assert_eq!(answers.iter().map(|answer| answer.tag).collect::<Vec<_>>(), tags);
    assert_eq!(answers[0].outcome, PutOutcome::PartAccepted);
    let stored =
        PutOutcome::Stored { crc32: crc32fast::hash(b"12345"), durability: kvtier_client::Durability::Volatile };
    assert_eq!(answers[1].outcome, stored);
}

#[tokio::test]
async fn a_thousand_blocks_pass_through_a_narrow_window() {
    let fake = Fake::tcp();
    let options = ConnectOptions {
        put_bytes_in_flight_max: 10_000,
        put_blocks_in_flight_max: 3,
        stall_timeout: Duration::from_secs(10),
        ..Default::default()
    };
    let client = Client::connect_with(&fake.endpoint.parse().expect("valid"), options).await.expect("connects");
    let space = open(&client).await;
    let keys = keys(1000);
    let mut puts = client.put_stream(space);
    for block in chain(&keys, 4096) {
        puts.send(block).await.expect("sends");
        assert!(puts.in_flight().count() <= 2, "4,096-byte blocks: two fit into 10,000 bytes");
    }
    assert_eq!(puts.finish().await.expect("finishes").len(), 1000);
    assert_eq!(client.lookup(space, &keys, None).await.expect("looks up").prefix.len(), 1000);
}

#[tokio::test]
async fn a_block_over_the_window_is_still_sent() {
    let fake = Fake::tcp();
    let options = ConnectOptions { put_bytes_in_flight_max: 1, ..Default::default() };
    let client = Client::connect_with(&fake.endpoint.parse().expect("valid"), options).await.expect("connects");
    let space = open(&client).await;
    put_chain(&client, space, 3, 5 << 20).await;
}

#[tokio::test]
async fn bad_blocks_are_refused_before_they_are_sent_and_the_stream_goes_on() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let mut puts = client.put_stream(space);
    let bad = [
        (PutBlock::new("", "x"), "key"),
        (PutBlock::new(vec![1; 65], "x"), "key"),
        (PutBlock::new("k", ""), "bytes"),
        (PutBlock::new("k", "x").after(""), "parent"),
        (PutBlock { part: 64, ..PutBlock::new("k", "x") }, "part"),
    ];
    for (block, expected) in bad {
        let error = puts.send(block).await.expect_err(expected);
        assert!(matches!(&error, ClientError::Invalid { field, .. } if field == expected), "{error}");
    }
    puts.send(PutBlock::new("k", "x")).await.expect("a good one");
    assert_eq!(puts.finish().await.expect("finishes").len(), 1);
}

#[tokio::test]
async fn spaces_pins_and_deletes_do_what_they_say() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let keys = put_chain(&client, space, 4, 100).await;
    let listed = client.spaces().await.expect("lists");
    assert_eq!((listed[0].name.as_str(), listed[0].space, listed[0].blocks, listed[0].bytes), ("s", space, 4, 400));

    let pin = client.pin(space, "system prompt", &keys, Duration::from_secs(60)).await.expect("pins");
    assert_eq!((pin.blocks, pin.bytes), (4, 400));
    assert!(client.unpin(space, "system prompt").await.expect("unpins"));
    assert!(!client.unpin(space, "system prompt").await.expect("unpins"));
    assert_eq!(client.prefetch(space, &keys).await.expect("prefetches").resident, 4);
    assert_eq!(client.delete(space, &keys[2..]).await.expect("deletes"), 2);
    assert_eq!(client.drop_space(space).await.expect("drops"), 2);
    assert!(matches!(client.lookup(space, &keys, None).await, Err(ClientError::NotFound { .. })));

    let mut scrub = client.scrub().await.expect("scrubs");
    let mut reports = 0;
    while let Some(report) = scrub.next().await.expect("reports") {
        reports += 1;
        assert_eq!(report.done, reports == 2);
    }
    assert_eq!(client.drain(None).await.expect("drains").written_back_blocks, 3);
    assert_eq!(client.status().await.expect("says").state, "serving");
}

#[tokio::test]
async fn another_description_under_one_name_is_a_conflict() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    open(&client).await;
    let other = SpaceDescription::single_part("t", "another model", 16, 1 << 20);
    assert!(matches!(client.open_space("s", &other).await, Err(ClientError::Conflict { .. })));
    let invalid = SpaceDescription::single_part("", "m", 16, 1 << 20);
    let error = client.open_space("x", &invalid).await.expect_err("no tenant");
    assert!(matches!(&error, ClientError::Invalid { field, .. } if field == "tenant"), "{error}");
}

#[tokio::test]
async fn every_call_carries_the_clients_name() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let keys = put_chain(&client, space, 1, 10).await;
    collect(client.get_keys(space, &keys).await.expect("gets")).await;
    assert_eq!(*fake.store.callers.lock().expect("not poisoned"), [client.id().to_owned()]);
}

/// A lookup that shares a connection with put streams waits behind their blocks.
#[tokio::test]
async fn small_calls_puts_and_gets_have_a_connection_each() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let connections = || fake.store.peers.lock().expect("not poisoned").len();
    let space = open(&client).await;
    assert_eq!(connections(), 1);
    let keys = put_chain(&client, space, 1, 10).await;
    assert_eq!(connections(), 2);
    collect(client.get_keys(space, &keys).await.expect("gets")).await;
    client.clone().lookup(space, &keys, None).await.expect("looks up");
    assert_eq!(connections(), 3);
}

/// The double once named leases by their number, so that a released one gave its name to two others.
#[tokio::test]
async fn a_lease_keeps_its_blocks_when_others_come_and_go() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.endpoint).await.expect("connects");
    let space = open(&client).await;
    let keys = put_chain(&client, space, 3, 100).await;
    let lease = async |chain: &[Bytes]| {
        client.lookup(space, chain, Some(Duration::from_secs(5))).await.expect("looks up").lease.expect("leased")
    };
    let (gone, held) = (lease(&keys[..1]).await, lease(&keys[..2]).await);
    client.release(gone).await.expect("releases");
    let later = lease(&keys[..3]).await;
    assert_ne!(later.id, held.id);
    assert_eq!(collect(client.get_lease(&held).await.expect("gets")).await.len(), 2);
}
