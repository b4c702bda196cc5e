//! What engines hold in their own memory, in the node's events: recorded events of vLLM, an engine that loses some, dies and
//! comes back, and this node's events in vLLM's format.

use std::collections::BTreeSet;

use kvtier_proto::v1::{self, Durability, Tier};
use kvtier_tests::follower::Follower;
use kvtier_tests::publisher::{Publisher, endpoints};
use kvtier_tests::{Block, Setup, World};
use v1::subscribe_request::From;

const RECORDED: &[u8] = include_bytes!("../fixtures/vllm/numbers.bin");
/// Blocks that the first four batches of the first engine store, as recorded.
const STORED: [usize; 4] = [14, 34, 37, 1];
const ALL: usize = STORED[0] + STORED[1] + STORED[2] + STORED[3];

/// The payloads of one engine's messages.
fn recorded(engine: u8) -> Vec<&'static [u8]> {
    // [engine, topic, number, payload], the engine in one letter, topic and number in short binary strings.
    let (mut rest, mut payloads) = (&RECORDED[1..], Vec::new());
    while let [0x94, 0xa1, name, 0xc4, topic, after @ ..] = rest {
        let after = &after[usize::from(*topic)..];
        let (number, after) = after.split_at(10);
        assert_eq!(number[..2], [0xc4, 8]);
        let (length, after) = match after {
            [0xc4, length, after @ ..] => (usize::from(*length), after),
            [0xc5, high, low, after @ ..] => (usize::from(*high) << 8 | usize::from(*low), after),
            _ => panic!("a payload"),
        };
        if *name == engine {
            payloads.push(&after[..length]);
        }
        rest = &after[length..];
    }
    assert!(rest.is_empty() && !payloads.is_empty());
    payloads
}

/// A batch whose only event is that everything was cleared.
fn cleared() -> Vec<u8> {
    [&b"\x92\xcb\x00\x00\x00\x00\x00\x00\x00\x00\x91\x81\xa4type\xb0AllBlocksCleared"[..]].concat()
}

/// Settings of a daemon that follows the engine in a folder, in the world's space.
fn following(setup: Setup) -> Setup {
    let [events, replay] = endpoints(setup.folder()).map(|path| format!("ipc://{}", path.display()));
    let setup = setup.and("engine_events.a.endpoint", &events).and("engine_events.a.replay_endpoint", &replay);
    setup.and("engine_events.a.space", "world")
}

#[tokio::test]
async fn an_engines_blocks_come_and_go_in_the_nodes_events() {
    let setup = Setup::default();
    let engine = Publisher::start(setup.folder());
    let mut world = World::of(following(setup).start()).await;
    let mut follower = Follower::new(&mut world, From::Tail(true)).await;
    engine.subscribed(1).await;
    let batches = recorded(b'A');
    (0..).zip(&batches[..4]).for_each(|(number, payload)| engine.publish(number, payload));
    follower.read_until("what it stored", |follower| follower.count_of("a", Tier::Hbm) == ALL).await;
    assert!(follower.keys.iter().all(|key| key.len() == 8), "numbers of 64 bits");
    let mut late = Follower::new(&mut world, From::Snapshot(true)).await;
    late.read_until("the snapshot", |follower| follower.listed).await;
    assert_eq!(late.held, follower.held, "a snapshot lists it, too");
    (4..).zip(&batches[4..]).for_each(|(number, payload)| engine.publish(number, payload));
    follower.read_until("its cache to be cleared", |follower| follower.held.is_empty()).await;
    assert_eq!(follower.resets, ["the engine cleared its cache"], "and nothing else was in doubt");
    let address = world.daemon.endpoints().http.expect("it listens on HTTP");
    let (_, metrics) = kvtier_tests::http::get(address, "/metrics");
    for line in ["kvtier_engine_connected{engine=\"a\"} 1", "kvtier_engine_event_gaps_total{engine=\"a\"} 0"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_missed_event_is_replayed_and_nothing_is_forgotten() {
    let setup = Setup::default();
    let engine = Publisher::start(setup.folder());
    let mut world = World::of(following(setup).start()).await;
    let mut follower = Follower::new(&mut world, From::Tail(true)).await;
    engine.subscribed(1).await;
    let batches = recorded(b'A');
    engine.publish(0, batches[0]);
    follower.read_until("the first batch", |follower| follower.count_of("a", Tier::Hbm) == STORED[0]).await;
    engine.keep(1, batches[1]);
    engine.keep(2, batches[2]);
    engine.publish(3, batches[3]);
    follower.read_until("all four", |follower| follower.count_of("a", Tier::Hbm) == ALL).await;
    assert_eq!(follower.resets, [""; 0]);
}

#[tokio::test]
async fn what_no_replay_has_is_forgotten_with_everything_before_it() {
    let setup = Setup::default();
    let engine = Publisher::start(setup.folder());
    let mut world = World::of(following(setup).start()).await;
    let mut follower = Follower::new(&mut world, From::Tail(true)).await;
    engine.subscribed(1).await;
    let batches = recorded(b'A');
    engine.lose(0, batches[0]);
    follower.read_until("the first batch", |follower| follower.count_of("a", Tier::Hbm) == STORED[0]).await;
    engine.publish(3, batches[3]);
    follower.read_until("the gap", |follower| follower.count_of("a", Tier::Hbm) == STORED[3]).await;
    assert_eq!(follower.resets, ["its events 1 to 2 were missed"]);
}

#[tokio::test]
async fn an_engine_that_dies_takes_its_blocks_along_and_one_that_comes_back_is_followed_anew() {
    let setup = Setup::default();
    let folder = setup.folder().to_owned();
    let engine = Publisher::start(&folder);
    let mut world = World::of(following(setup).start()).await;
    let mut follower = Follower::new(&mut world, From::Tail(true)).await;
    engine.subscribed(1).await;
    engine.publish(0, recorded(b'A')[0]);
    follower.read_until("its blocks", |follower| follower.count_of("a", Tier::Hbm) == STORED[0]).await;
    drop(engine);
    follower.read_until("its end", |follower| follower.held.is_empty()).await;
    assert!(follower.resets[0].starts_with("the engine cannot be followed"), "{:?}", follower.resets);
    // The new one has stored something before anybody listened.
    let engine = Publisher::start(&folder);
    engine.keep(0, recorded(b'B')[0]);
    follower.read_until("the new one's blocks", |follower| follower.count_of("a", Tier::Hbm) == 14).await;
    drop(engine);
}

#[tokio::test]
async fn a_daemon_that_restarts_asks_the_engine_for_everything_again() {
    let setup = Setup::default();
    let engine = Publisher::start(setup.folder());
    let world = World::of(following(setup).start()).await;
    engine.subscribed(1).await;
    let batches = recorded(b'A');
    (0..).zip(&batches[..4]).for_each(|(number, payload)| engine.publish(number, payload));
    let mut world = world.crash_and_restart().await;
    let mut follower = Follower::new(&mut world, From::Snapshot(true)).await;
    follower.read_until("what it held", |follower| follower.count_of("a", Tier::Hbm) == ALL).await;
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_puts_everything_in_doubt_and_the_next_is_taken() {
    let setup = Setup::default();
    let engine = Publisher::start(setup.folder());
    let mut world = World::of(following(setup).start()).await;
    let mut follower = Follower::new(&mut world, From::Tail(true)).await;
    engine.subscribed(1).await;
    let batches = recorded(b'A');
    engine.publish(0, batches[0]);
    follower.read_until("the first batch", |follower| follower.count_of("a", Tier::Hbm) == STORED[0]).await;
    engine.publish(1, &batches[1][..100]);
    follower.read_until("the doubt", |follower| follower.held.is_empty()).await;
    engine.publish(2, batches[2]);
    follower.read_until("the next", |follower| follower.count_of("a", Tier::Hbm) == STORED[2]).await;
    engine.publish(3, &cleared());
    follower.read_until("the end", |follower| follower.held.is_empty()).await;
    assert_eq!(follower.resets.len(), 2, "{:?}", follower.resets);
}

#[tokio::test]
async fn one_node_follows_what_another_publishes() {
    let setup = Setup::default();
    let [events, replay] = endpoints(setup.folder()).map(|path| format!("ipc://{}", path.display()));
    let published =
        setup.clone().and("publish_events.endpoint", &events).and("publish_events.replay_endpoint", &replay);
    let published = published.and("publish_events.hashes", "bytes");
    let data = setup.folder().join("publisher");
    let mut first = World::of(published.and("data_directory", &data.display().to_string()).start()).await;
    let chain = Block::chain("told", 20, 10_000);
    first.store(&chain[..10], Durability::Volatile).await;
    let mut second = World::of(following(setup).start()).await;
    let mut follower = Follower::new(&mut second, From::Snapshot(true)).await;
    // By replay; host memory is medium CPU, which is another's own memory to the second node.
    follower.read_until("what was there", |follower| follower.count_of("a", Tier::Engine) == 10).await;
    first.store(&chain[10..], Durability::Durable).await;
    follower.read_until("what came", |follower| follower.count_of("a", Tier::Engine) == 20).await;
    let keys: BTreeSet<Vec<u8>> = chain.iter().map(|block| block.key.to_vec()).collect();
    assert_eq!((follower.keys.clone(), follower.count_of("a", Tier::Hbm)), (keys.clone(), 0), "NVMe is left out");
    let keys = keys.into_iter().collect();
    first.wire.client.delete(v1::DeleteRequest { space: first.space.clone(), keys }).await.expect("deleted");
    follower.read_until("their end", |follower| follower.held.is_empty()).await;
    assert_eq!(follower.resets, [""; 0]);
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    let told = |settings: &[(&str, &str)]| {
        let output = Setup::with(settings).run(&["check-config"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let told_of = told(&[("engine_events.a.endpoint", "tcp://10.0.0.1:5557"), ("engine_events.a.ranks", "2")]);
    assert!(told_of.contains("engine_events.a.space is not set"), "{told_of}");
    let told_of = told(&[
        ("engine_events.a.endpoint", "ipc:///a"),
        ("engine_events.a.space", "s"),
        ("engine_events.a.ranks", "2"),
        ("publish_events.endpoint", "tcp://*:5557"),
        ("publish_events.replay_endpoint", "nowhere"),
    ]);
    for wanted in ["no port for each of 2 ranks", "listen.insecure", "\"nowhere\" is no endpoint"] {
        assert!(told_of.contains(wanted), "{wanted} is not in\n{told_of}");
    }
}
