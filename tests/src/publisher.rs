//! An engine that publishes KV events as vLLM does, over ZMQ's wire protocol: told what to publish, and able to lose some.
//!
//! Its own few lines of the protocol, so that the daemon's are tested against others than themselves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

/// Batches by number.
type Kept = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;
type Live = broadcast::Sender<(u64, Vec<u8>)>;

/// The engine. It dies when it is dropped: its connections end, and its sockets are gone.
pub struct Publisher {
    kept: Kept,
    live: Live,
    subscribed: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

/// Where an engine publishes and replays, in a folder.
pub fn endpoints(folder: &Path) -> [PathBuf; 2] {
    [folder.join("events"), folder.join("replay")]
}

impl Publisher {
    /// Publishes and replays in a folder.
    pub fn start(folder: &Path) -> Self {
        let [events, replay] = endpoints(folder).map(|path| {
            std::fs::remove_file(&path).ok();
            UnixListener::bind(path).expect("a socket can be bound")
        });
        let (kept, live, subscribed) = (Kept::default(), broadcast::channel(64).0, watch::channel(0).0);
        let mut tasks = JoinSet::new();
        tasks.spawn(publish(events, live.clone(), subscribed.clone()));
        tasks.spawn(answer(replay, Arc::clone(&kept)));
        Self { kept, live, subscribed, _tasks: tasks }
    }

    /// Publishes a batch.
    pub fn publish(&self, number: u64, payload: &[u8]) {
        self.keep(number, payload);
        self.lose(number, payload);
    }

    /// Publishes a batch that no replay has.
    pub fn lose(&self, number: u64, payload: &[u8]) {
        self.live.send((number, payload.to_vec())).ok();
    }

    /// A batch that never arrived, and that a replay has.
    pub fn keep(&self, number: u64, payload: &[u8]) {
        self.kept.lock().expect("nobody panics").push((number, payload.to_vec()));
    }

    /// Waits until that many subscriptions have been made in all.
    pub async fn subscribed(&self, count: u64) {
        let mut subscribed = self.subscribed.subscribe();
        let waiting = subscribed.wait_for(|have| *have >= count);
        crate::wire::within("a subscription", waiting).await.expect("the sender is ours");
    }
}

async fn publish(listener: UnixListener, live: Live, subscribed: watch::Sender<u64>) {
    let mut peers = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (mut batches, subscribed) = (live.subscribe(), subscribed.clone());
        peers.spawn(async move {
            greet(&mut stream, "PUB").await;
            assert_eq!(receive(&mut stream).await.expect("a subscription").0, [1], "to every topic");
            subscribed.send_modify(|count| *count += 1);
            while let Ok((number, payload)) = batches.recv().await {
                send(&mut stream, &[b"topic", &number.to_be_bytes(), &payload]).await;
            }
        });
    }
}

async fn answer(listener: UnixListener, kept: Kept) {
    let mut peers = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let kept = Arc::clone(&kept);
        peers.spawn(async move {
            greet(&mut stream, "ROUTER").await;
            let (delimiter, more) = receive(&mut stream).await.expect("a delimiter");
            assert!(delimiter.is_empty() && more);
            let (from, _) = receive(&mut stream).await.expect("a number");
            let from = u64::from_be_bytes(from.try_into().expect("8 bytes"));
            let batches = kept.lock().expect("nobody panics").clone();
            for (number, payload) in batches.into_iter().filter(|(number, _)| *number >= from) {
                send(&mut stream, &[b"", b"topic", &number.to_be_bytes(), &payload]).await;
            }
            send(&mut stream, &[b"", b"", &[0xff; 8], b""]).await;
        });
    }
}

/// Greeting and READY, as libzmq 4 sends them.
async fn greet(stream: &mut UnixStream, role: &str) {
    let mut greeting = [0; 64];
    (greeting[0], greeting[8], greeting[9], greeting[10], greeting[11]) = (0xff, 1, 0x7f, 3, 1);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).await.expect("sent");
    stream.read_exact(&mut greeting).await.expect("answered");
    let mut ready = vec![4, 0];
    ready.extend_from_slice(b"\x05READY\x0bSocket-Type\x00\x00\x00");
    ready.push(role.len() as u8);
    ready.extend_from_slice(role.as_bytes());
    ready.extend_from_slice(b"\x08Identity\x00\x00\x00\x00");
    ready[1] = ready.len() as u8 - 2;
    stream.write_all(&ready).await.expect("sent");
    receive(stream).await.expect("a READY");
}

/// A frame, and whether more belong to its message.
async fn receive(stream: &mut UnixStream) -> Option<(Vec<u8>, bool)> {
    let flags = stream.read_u8().await.ok()?;
    let length = match flags & 2 {
        0 => u64::from(stream.read_u8().await.ok()?),
        _ => stream.read_u64().await.ok()?,
    };
    let mut body = vec![0; usize::try_from(length).expect("a test's frames are small")];
    stream.read_exact(&mut body).await.ok()?;
    Some((body, flags & 1 == 1))
}

async fn send(stream: &mut UnixStream, frames: &[&[u8]]) {
    let mut bytes = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        bytes.push(2 | u8::from(index + 1 < frames.len()));
        bytes.extend((frame.len() as u64).to_be_bytes());
        bytes.extend_from_slice(frame);
    }
    // Who has gone does not hear it.
    stream.write_all(&bytes).await.ok();
}
