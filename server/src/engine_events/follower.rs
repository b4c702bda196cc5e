//! One engine's events, from its connection to the node's engine.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kvtier_engine::flow::external::EngineChange;
use kvtier_engine::flow::{Engine, EngineError};
use kvtier_engine::port::Clock;
use kvtier_identity::SpaceDigest;
use tokio::io::ReadHalf;

use super::FollowerCount;
use super::event::{Told, read_batch};
use crate::zmtp::{self, Bound, Endpoint, Incoming, Role, Stream, shake_hands};

/// Largest message of an engine.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Pause before connecting again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often the space is looked for until it is open.
const SPACE_PAUSE: Duration = Duration::from_millis(500);
/// After this much silence the engine is asked whether something was missed.
const IDLE: Duration = Duration::from_secs(5);
/// How long an engine may take for the next message of a replay.
const REPLAY_MAX: Duration = Duration::from_secs(10);
/// Most batches of one replay. vLLM keeps 10,000.
const REPLAY_COUNT_MAX: usize = 1 << 20;
/// Changes given to the node's engine at once.
const CHANGES: usize = 1024;
/// While the log takes no records.
const LOG_PAUSE: Duration = Duration::from_millis(20);
const LOG_TRIES_MAX: usize = 500;

/// Follows one engine. See the module above.
pub(super) struct Follower {
    /// The engine's name in events.
    pub(super) name: String,
    /// Name of the space its blocks belong to.
    pub(super) space: String,
    pub(super) at: Endpoint,
    /// Where the engine connects to, if it does.
    pub(super) listener: Option<Bound>,
    /// A connection that came while another was followed: the engine began anew.
    pub(super) newer: Option<Stream>,
    pub(super) replay: Option<Endpoint>,
    pub(super) topic: Vec<u8>,
    pub(super) blocks_max: usize,
    /// Number of the next batch; none: whichever comes.
    pub(super) expected: Option<u64>,
    pub(super) engine: Engine,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) count: Arc<FollowerCount>,
}

type Reading = Pin<Box<dyn Future<Output = (ReadHalf<Stream>, io::Result<Incoming>)> + Send>>;

/// The next message, read to its end whoever else is listened to meanwhile.
fn next(mut reader: ReadHalf<Stream>) -> Reading {
    Box::pin(async move {
        let read = zmtp::read(&mut reader, MESSAGE_BYTES_MAX).await;
        (reader, read)
    })
}

impl Follower {
    /// Follows for ever.
    pub(super) async fn run(mut self) {
        let (mut pause, mut told) = (PAUSE_MIN, String::new());
        loop {
            let space = self.find_space().await;
            let why = match self.connect().await {
                Ok(stream) => {
                    tracing::info!(engine = self.name, at = %self.at, "following an engine's events");
                    let before = self.count.batches.load(Ordering::Relaxed);
                    self.count.connected.store(1, Ordering::Relaxed);
                    let ended = self.follow(stream, space).await;
                    self.count.connected.store(0, Ordering::Relaxed);
                    if self.count.batches.load(Ordering::Relaxed) > before {
                        // It was an engine, and what is wrong now is news.
                        (pause, told) = (PAUSE_MIN, String::new());
                    }
                    ended.expect_err("it is followed until something ends it").to_string()
                }
                Err(error) => error.to_string(),
            };
            self.forget(&format!("the engine cannot be followed: {why}"));
            if told != why {
                tracing::info!(engine = self.name, at = %self.at, "an engine's events are not followed now: {why}");
                told = why;
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until the space is open.
    async fn find_space(&self) -> SpaceDigest {
        loop {
            let found = self.engine.spaces().into_iter().find(|space| space.name == self.space);
            if let Some(space) = found {
                return space.digest;
            }
            self.clock.sleep(SPACE_PAUSE).await;
        }
    }

    async fn connect(&mut self) -> io::Result<Stream> {
        let mut stream = match (self.newer.take(), &self.listener) {
            (Some(stream), _) => stream,
            (None, Some(listener)) => listener.accept().await?,
            (None, None) => self.at.connect().await?,
        };
        shake_hands(&mut stream, Role::Sub).await?;
        Ok(stream)
    }

    async fn follow(&mut self, stream: Stream, space: SpaceDigest) -> io::Result<()> {
        let (reader, mut writer) = tokio::io::split(stream);
        zmtp::write(&mut writer, &[&[&[1], &self.topic[..]].concat()]).await?;
        self.expected = None;
        if self.replay.is_some() {
            self.repair(&space, 0).await?;
        }
        let mut reading = next(reader);
        loop {
            tokio::select! {
                (reader, read) = &mut reading => {
                    if let Incoming::Message(frames) = read? {
                        self.take(&space, &frames).await?;
                    }
                    reading = next(reader);
                }
                () = self.clock.sleep(IDLE), if self.replay.is_some() => {
                    // The last message may be the one that was missed.
                    self.repair(&space, self.expected.unwrap_or(0)).await?;
                }
                newer = accept(self.listener.as_ref()) => {
                    self.newer = Some(newer?);
                    return Err(io::Error::other("the engine connected anew"));
                }
            }
        }
    }

    /// Takes a live message.
    async fn take(&mut self, space: &SpaceDigest, frames: &[Bytes]) -> io::Result<()> {
        let [_, number, payload] = frames else {
            return Err(garbage(format!("a message of {} frames, not topic, number and payload", frames.len())));
        };
        let number = number_of(number)?;
        match self.expected {
            // A replay was faster.
            Some(expected) if number < expected => return Ok(()),
            Some(expected) if number > expected => {
                FollowerCount::add(&self.count.gaps);
                if self.replay.is_some() {
                    self.repair(space, expected).await?;
                }
            }
            _ => {}
        }
        self.take_numbered(space, number, payload).await
    }

    /// Takes a batch in, unless it was before; what lies between it and the one before is lost.
    async fn take_numbered(&mut self, space: &SpaceDigest, number: u64, payload: &[u8]) -> io::Result<()> {
        match self.expected {
            Some(expected) if number < expected => return Ok(()),
            Some(expected) if number > expected => {
                let last = number - 1;
                self.forget(&match last == expected {
                    true => format!("its event {expected} was missed"),
                    false => format!("its events {expected} to {last} were missed"),
                });
            }
            _ => {}
        }
        self.expected = Some(number.saturating_add(1));
        self.apply(space, payload).await
    }

    /// Asks for everything from a number on. An engine that does not answer has not repaired anything.
    async fn repair(&mut self, space: &SpaceDigest, from: u64) -> io::Result<()> {
        let Some(at) = self.replay.clone() else { return Ok(()) };
        let mut stream = match ask(&at, from).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(engine = self.name, at = %at, "an engine does not replay its events: {error}");
                return Ok(());
            }
        };
        for _ in 0..REPLAY_COUNT_MAX {
            let reading = tokio::time::timeout(REPLAY_MAX, zmtp::read(&mut stream, MESSAGE_BYTES_MAX));
            let Ok(Ok(Incoming::Message(frames))) = reading.await else { return Ok(()) };
            // Behind the delimiter, as live ones.
            let [_, _, number, payload] = &frames[..] else { return Ok(()) };
            let number = number_of(number)?;
            if number == u64::MAX {
                return Ok(());
            }
            FollowerCount::add(&self.count.replayed);
            self.take_numbered(space, number, payload).await?;
        }
        Ok(())
    }

    async fn apply(&self, space: &SpaceDigest, payload: &[u8]) -> io::Result<()> {
        FollowerCount::add(&self.count.batches);
        let told = match read_batch(payload) {
            Ok(told) => told,
            Err(malformed) => {
                FollowerCount::add(&self.count.malformed);
                // What it would have said of blocks that went is not known.
                self.forget(&format!("a batch of its events cannot be read: {malformed}"));
                return Ok(());
            }
        };
        let mut changes = Vec::new();
        for told in told {
            match told {
                Told::Change(change) => changes.push(change),
                Told::Cleared => {
                    self.note(space, &std::mem::take(&mut changes)).await?;
                    self.engine.reset_engine(&self.name, "the engine cleared its cache");
                }
            }
        }
        self.note(space, &changes).await
    }

    async fn note(&self, space: &SpaceDigest, changes: &[EngineChange]) -> io::Result<()> {
        for changes in changes.chunks(CHANGES) {
            let mut tries = 0;
            while let Err(error) = self.engine.note_engine(&self.name, space, changes, self.blocks_max) {
                tries += 1;
                if tries == LOG_TRIES_MAX || !matches!(error, EngineError::Unavailable { .. }) {
                    return Err(io::Error::other(error));
                }
                self.clock.sleep(LOG_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Forgets what is known of the engine.
    fn forget(&self, why: &str) {
        let count = self.engine.reset_engine(&self.name, why);
        if count > 0 {
            FollowerCount::add(&self.count.resets);
            tracing::warn!(engine = self.name, blocks = count, "forgot what an engine holds: {why}");
        }
    }
}

/// Asks an engine for its batches from a number on.
async fn ask(at: &Endpoint, from: u64) -> io::Result<Stream> {
    let mut stream = at.connect().await?;
    shake_hands(&mut stream, Role::Dealer).await?;
    zmtp::write(&mut stream, &[b"", &from.to_be_bytes()]).await?;
    Ok(stream)
}

/// The next engine that connects; never, if engines are connected to.
async fn accept(listener: Option<&Bound>) -> io::Result<Stream> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn number_of(frame: &[u8]) -> io::Result<u64> {
    let bytes = <[u8; 8]>::try_from(frame);
    Ok(u64::from_be_bytes(bytes.map_err(|_| garbage(format!("a number of {} bytes, not 8", frame.len())))?))
}

fn garbage(told: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, told)
}
