//! Serving one connection: a subscriber, or somebody who asks for a replay.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, ReadHalf};
use tokio::sync::broadcast::error::RecvError;

use super::hub::{Hub, Numbered};
use crate::zmtp::{self, Incoming, Role, Stream, shake_hands};

/// Largest message of a subscriber.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Prefixes of topics one subscriber may name.
const TOPICS_MAX: usize = 64;
/// How long a subscriber may take to accept a batch.
const WRITE_MAX: Duration = Duration::from_secs(10);

type Reading = Pin<Box<dyn Future<Output = (ReadHalf<Stream>, io::Result<Incoming>)> + Send>>;

fn next(mut reader: ReadHalf<Stream>) -> Reading {
    Box::pin(async move {
        let read = zmtp::read(&mut reader, MESSAGE_BYTES_MAX).await;
        (reader, read)
    })
}

/// Sends every batch whose topic was subscribed to, until the subscriber goes.
pub(super) async fn serve_subscriber(mut stream: Stream, hub: Arc<Hub>) -> io::Result<()> {
    shake_hands(&mut stream, Role::Pub).await?;
    let mut live = hub.listen();
    let (reader, mut writer) = tokio::io::split(stream);
    let (mut reading, mut topics) = (next(reader), Vec::new());
    loop {
        tokio::select! {
            (reader, read) = &mut reading => {
                subscribe(&mut topics, read?)?;
                reading = next(reader);
            }
            batch = live.recv() => match batch {
                Ok(batch) if topics.iter().any(|topic: &Bytes| hub.topic.as_bytes().starts_with(topic)) => {
                    let number = batch.number.to_be_bytes();
                    send(&mut writer, &[hub.topic.as_bytes(), &number, &batch.payload]).await?;
                }
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => {
                    hub.missed.fetch_add(count, Ordering::Relaxed);
                }
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// Notes a subscription (1, topic) or its end (0, topic).
fn subscribe(topics: &mut Vec<Bytes>, read: Incoming) -> io::Result<()> {
    let Incoming::Message(frames) = read else { return Ok(()) };
    let Some(frame) = frames.into_iter().next().filter(|frame| !frame.is_empty()) else { return Ok(()) };
    let topic = frame.slice(1..);
    match frame[0] {
        1 if topics.len() == TOPICS_MAX => Err(io::Error::other("too many subscriptions")),
        1 => {
            topics.push(topic);
            Ok(())
        }
        _ => {
            if let Some(place) = topics.iter().position(|known| *known == topic) {
                topics.swap_remove(place);
            }
            Ok(())
        }
    }
}

/// Answers every request with what is kept from its number on.
pub(super) async fn serve_replay(mut stream: Stream, hub: Arc<Hub>) -> io::Result<()> {
    shake_hands(&mut stream, Role::Router).await?;
    loop {
        let Incoming::Message(frames) = zmtp::read(&mut stream, MESSAGE_BYTES_MAX).await? else { continue };
        let number = frames.last().and_then(|frame| <[u8; 8]>::try_from(&frame[..]).ok());
        let Some(number) = number else { return Err(io::Error::other("a request that is no number of 8 bytes")) };
        for Numbered { number, payload } in hub.since(u64::from_be_bytes(number)) {
            send(&mut stream, &[b"", hub.topic.as_bytes(), &number.to_be_bytes(), &payload]).await?;
        }
        send(&mut stream, &[b"", b"", &u64::MAX.to_be_bytes(), b""]).await?;
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), frames: &[&[u8]]) -> io::Result<()> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it does not read what it asked for");
    tokio::time::timeout(WRITE_MAX, zmtp::write(writer, frames)).await.map_err(late)?
}
