//! The rings beside the socket: order, overflow, and clients that write nonsense there.
//!
//! Everything else about the local path is tested through them too, because the client library uses them.

use std::collections::BTreeSet;

use kvtier_proto::local::{Header, Kind, Method, bell, frame};
use kvtier_proto::v1;
use kvtier_ring::{Receiver, Sender, Sent};
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};
use prost::Message;

use super::raw::Raw;
use super::{acquire, digest, expect, reader, store, writer};

/// What a client has in its hands.
struct Rung {
    raw: Raw,
    requests: Sender,
    answers: Receiver,
}

impl Rung {
    fn attach(world: &World) -> Self {
        let (raw, file) = Raw::with_rings(world);
        let (requests, answers) = kvtier_ring::open(&file).expect("a ring");
        Self { raw, requests, answers }
    }

    /// Puts a request into the ring, as the library does.
    fn put(&mut self, bytes: &[u8]) -> Sent {
        let sent = self.requests.send(bytes).expect("an honest daemon");
        if sent == Sent::RingBell {
            self.raw.send(&bell(Kind::Request));
        }
        sent
    }

    /// The next answer, from wherever it comes.
    fn hear(&mut self) -> (Header, Vec<u8>) {
        loop {
            let mut bytes = Vec::new();
            if self.answers.receive(&mut bytes).expect("an honest daemon") {
                let (head, message) = bytes.split_first_chunk().expect("a header");
                return (Header::decode(head).expect("a header"), message.to_vec());
            }
            if !self.answers.sleep() {
                continue;
            }
            let (header, message) = self.raw.hear().expect("the connection lives");
            self.answers.wake();
            if header.method != Method::Bell {
                return (header, message);
            }
        }
    }
}

fn acquire_request(world: &World, chain: &[Block]) -> v1::AcquireRequest {
    v1::AcquireRequest {
        space: world.space.clone(),
        keys: chain.iter().flat_map(|block| block.key.to_vec()).collect(),
        key_lengths: chain.iter().map(|block| block.key.len() as u32).collect(),
        lease_ms: 10_000,
        ..v1::AcquireRequest::default()
    }
}

#[tokio::test]
async fn what_one_client_says_stays_in_order_over_ring_and_socket() {
    let world = World::new().await;
    let chain = vec![Block::root(b"ordered", 5000)];
    store(&writer(&world), digest(&world), &chain);
    let mut client = Rung::attach(&world);
    for round in 0..300_u16 {
        // The first rounds find the daemon looking, later ones asleep as well.
        let acquired = frame(Method::Acquire, Kind::Request, 1, &acquire_request(&world, &chain));
        client.put(&acquired);
        let (header, message) = client.hear();
        assert_eq!((header.kind, header.tag), (Kind::Answer, 1));
        let lease = v1::AcquireResponse::decode(&message[..]).expect("an answer").lease;
        let release = v1::ReleaseLeasesRequest { leases: vec![lease.clone()] };
        let poll = frame(Method::Poll, Kind::Request, 2, &v1::PollRequest { lease, wait: false });
        if round % 2 == 0 {
            client.put(&frame(Method::ReleaseLeases, Kind::Request, 0, &release));
            client.raw.send(&poll);
        } else {
            let both = [frame(Method::ReleaseLeases, Kind::Request, 0, &release), poll].concat();
            client.put(&both);
        }
        let (header, _) = client.hear();
        assert_eq!((header.kind, header.tag), (Kind::Failure, 2), "the lease was given back before, round {round}");
    }
}

#[tokio::test]
async fn answers_nobody_takes_from_the_ring_come_over_the_socket() {
    const ASKED: u16 = 500;
    let world = World::new().await;
    let chain = vec![Block::root(b"unread", 5000)];
    store(&writer(&world), digest(&world), &chain);
    let mut client = Rung::attach(&world);
    // More answers than the ring holds, and nobody reads meanwhile.
    for tag in 1..=ASKED {
        let request = frame(Method::Acquire, Kind::Request, tag, &acquire_request(&world, &chain));
        while client.put(&request) == Sent::No {
            std::thread::yield_now();
        }
    }
    let mut open: BTreeSet<u16> = (1..=ASKED).collect();
    while !open.is_empty() {
        let (header, _) = client.hear();
        assert_eq!(header.kind, Kind::Answer);
        assert!(open.remove(&header.tag), "answered twice: {}", header.tag);
    }
}

#[tokio::test]
async fn nonsense_in_a_ring_ends_its_own_connection_and_no_other() {
    let world = World::new().await;
    let chain = vec![Block::root(b"beside", 5000)];
    store(&writer(&world), digest(&world), &chain);
    let bystander = reader(&world);
    let half = frame(Method::Acquire, Kind::Request, 1, &acquire_request(&world, &chain));
    let entries: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &half[..half.len() - 1], &[0; 8], b"abc"];
    for entry in entries {
        let mut client = Rung::attach(&world);
        client.put(entry);
        let told = loop {
            match client.raw.hear() {
                Some((header, _)) if header.method == Method::Bell => {}
                other => break other,
            }
        };
        let (header, message) = told.expect("a reason before the end");
        assert_eq!(header.kind, Kind::Failure, "{entry:?}");
        let failure = v1::LocalFailure::decode(&message[..]).expect("a failure");
        assert!(failure.message.contains("the connection is closed"), "{}", failure.message);
        assert!(client.raw.hear().is_none(), "closed");
        expect(&acquire(&bystander, digest(&world), &keys(&chain)), &chain);
    }
}

#[tokio::test]
async fn a_ring_whose_counts_were_scribbled_over_ends_its_own_connection_and_no_other() {
    let world = World::new().await;
    let chain = vec![Block::root(b"scribbled over", 5000)];
    store(&writer(&world), digest(&world), &chain);
    let bystander = reader(&world);
    for byte in [0x01_u8, 0x80, 0xff] {
        let (mut raw, file) = Raw::with_rings(&world);
        let scribbled = vec![byte; kvtier_ring::FILE_BYTES as usize];
        rustix::io::pwrite(&file, &scribbled, 0).expect("the client may write its ring");
        raw.send(&bell(Kind::Request));
        while raw.hear().is_some() {}
        assert!(rustix::fs::ftruncate(&file, 0).is_err(), "no client can cut the file below the daemon");
        expect(&acquire(&bystander, digest(&world), &keys(&chain)), &chain);
    }
}
