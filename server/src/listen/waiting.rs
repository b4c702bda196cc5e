//! The waiting room: from an open socket to a connection that has spoken.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::connection::{ClientIdentity, Connection, Peer, Stream};
use super::seat::Seats;
use super::socket::Socket;
use crate::observe::Metrics;
use crate::observe::metrics::Entry;

/// How an HTTP/2 client begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client that is turned away may take to read why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How much more of it is read meanwhile, so that the kernel does not throw the farewell away.
const FAREWELL_BYTES_MAX: u64 = 64 << 10;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What admission needs.
#[derive(Clone)]
pub(super) struct Entrance {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) handshake_timeout: Duration,
    pub(super) seats: Arc<Seats>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) give: mpsc::Sender<Connection>,
}

/// A client that has begun to speak HTTP/2.
struct Spoken {
    stream: Stream,
    identity: Option<Arc<ClientIdentity>>,
}

/// Why a client does not get in.
#[derive(Debug, thiserror::Error)]
enum Unspoken {
    #[error("TLS handshake failed: {0}")]
    Tls(std::io::Error),
    #[error("not HTTP/2")]
    Garbage,
    #[error("gone: {0}")]
    Gone(std::io::Error),
}

/// Brings one connection to tonic, or closes it and counts why. Dropped at any await it closes it too.
pub(super) async fn admit(socket: Socket, entrance: Entrance) {
    let endpoint = socket.endpoint();
    let greeting = tokio::time::timeout(entrance.handshake_timeout, greet(socket, entrance.tls));
    let spoken = match greeting.await {
        Ok(Ok(spoken)) => spoken,
        Ok(Err(why)) => {
            tracing::debug!(?endpoint, %why, "connection closed before it spoke");
            return entrance.metrics.entry(why.entry());
        }
        Err(_) => return entrance.metrics.entry(Entry::Silent),
    };
    let Some(seat) = entrance.seats.take() else {
        entrance.metrics.entry(Entry::TurnedAway);
        let max = entrance.seats.max();
        tracing::warn!(?endpoint, "connection turned away: all {max} of listen.connections_max are taken");
        let why = format!("kvtierd serves {max} connections already (listen.connections_max)");
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, turn_away(spoken.stream, &why)).await;
        return;
    };
    entrance.metrics.entry(Entry::Served);
    let peer = Peer { id: seat.id, endpoint, identity: spoken.identity, life: Arc::default() };
    let connection = Connection { stream: spoken.stream, spoken: Bytes::from_static(PREFACE), peer, seat };
    // Fails only when tonic has stopped; then the connection closes with it.
    let _ = entrance.give.send(connection).await;
}

async fn greet(socket: Socket, tls: Option<Arc<ServerConfig>>) -> Result<Spoken, Unspoken> {
    let (mut stream, identity) = with_tls(socket, tls).await.map_err(Unspoken::Tls)?;
    let mut first = [0; PREFACE.len()];
    let mut filled = 0;
    while filled < first.len() {
        let count = stream.read(&mut first[filled..]).await.map_err(Unspoken::Gone)?;
        filled += count;
        if count == 0 {
            return Err(Unspoken::Gone(std::io::ErrorKind::UnexpectedEof.into()));
        }
        if first[..filled] != PREFACE[..filled] {
            return Err(Unspoken::Garbage);
        }
    }
    Ok(Spoken { stream, identity })
}

/// Waits for the client's first byte before anything is allocated for it, then does the TLS handshake if there is one.
pub(crate) async fn with_tls(
    socket: Socket,
    tls: Option<Arc<ServerConfig>>,
) -> std::io::Result<(Stream, Option<Arc<ClientIdentity>>)> {
    socket.readable().await?;
    match (socket, tls) {
        (Socket::Unix(stream), _) => Ok((Stream::Unix(stream), None)),
        (Socket::Tcp(stream, _), None) => Ok((Stream::Tcp(stream), None)),
        (Socket::Tcp(stream, _), Some(config)) => {
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let identity = certificate.map(|leaf| Arc::new(super::tls::identity(leaf)));
            Ok((Stream::Tls(Box::new(stream)), identity))
        }
    }
}

/// Tells an HTTP/2 client why it is not served: empty SETTINGS, then GOAWAY with a text.
async fn turn_away(mut stream: Stream, why: &str) -> std::io::Result<()> {
    stream.write_all(&farewell(why)).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(FAREWELL_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(|_| ())
}

fn farewell(why: &str) -> BytesMut {
    let mut frames = BytesMut::new();
    let mut header = |bytes: usize, kind: u8| {
        frames.put_uint(bytes as u64, 3);
        frames.put_u8(kind);
        frames.put_u8(0); // flags
        frames.put_u32(0); // stream
    };
    header(0, 4);
    header(8 + why.len(), 7);
    frames.put_u32(0); // last stream
    frames.put_u32(ENHANCE_YOUR_CALM);
    frames.put_slice(why.as_bytes());
    frames
}

impl Unspoken {
    fn entry(&self) -> Entry {
        match self {
            Self::Tls(_) => Entry::TlsFailed,
            Self::Garbage => Entry::Garbage,
            Self::Gone(_) => Entry::Gone,
        }
    }
}
