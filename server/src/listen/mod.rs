//! From sockets to connections worth serving.
//!
//! ```text
//!  accept ──► waiting room ──► TLS ──► HTTP/2 preface ──► seat ──► tonic
//!             at most waiting_max;     all of it within            at most connections_max;
//!             the longest silent       handshake_timeout           one more gets GOAWAY with the reason
//!             one makes room
//! ```
//!
//! A client that says nothing costs a file descriptor and a small task until `handshake_timeout`, or until newer
//! clients need its place; it never reaches tonic and never takes a seat, so ten thousand of them keep nobody out. The
//! first 24 bytes of HTTP/2 are read here and replayed to tonic; anything else on the port is closed at once.
//!
//! A [`Connection`] owns its seat: when tonic drops it, for whatever reason, the seat is free again and
//! [`Closed`] is told, so that what a vanished client held is released. Ids are never reused.
//!
//! Order of a start: bind everything ([`Sockets::bind`]: a taken port stops the start before anything else has
//! happened), publish the addresses ([`published`]), then serve. A crash leaves the unix socket's file and the published
//! addresses behind; the next start replaces both, the socket only after nobody answered on it.

mod accept;
mod connection;
pub mod published;
mod seat;
mod socket;
#[cfg(test)]
mod tests;
pub mod tls;
mod waiting;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::config::Listen;
use crate::observe::Metrics;
pub(crate) use accept::{Accept, accept};
pub use connection::{ClientIdentity, Connection, ConnectionId, ConnectionLife, Endpoint, Peer};
pub use seat::Seats;
pub use socket::ListenError;
pub(crate) use socket::{Listener, RemovedAtEnd, Socket, bind_unix};
use tls::ServerTls;
pub(crate) use waiting::with_tls;

/// Told when a connection is gone, once, from whatever thread drops it; must not block.
pub type Closed = Arc<dyn Fn(ConnectionId) + Send + Sync>;

/// Connections on their way to tonic that it has not taken yet.
const HANDOVER_COUNT: usize = 64;

/// Every listener, bound and not yet serving.
#[derive(Debug)]
pub struct Sockets {
    grpc: Vec<Listener>,
    http: Option<Listener>,
    /// What was bound, with real ports.
    pub addresses: Addresses,
}

/// Where a daemon can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// gRPC over TCP.
    pub tcp: Option<SocketAddr>,
    /// gRPC over the unix socket.
    pub unix: Option<PathBuf>,
    /// HTTP.
    pub http: Option<SocketAddr>,
    /// The local path's raw socket.
    pub local: Option<PathBuf>,
}

impl Sockets {
    /// Binds what the settings name. Must run inside a tokio runtime.
    pub fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let mut grpc = Vec::new();
        let mut addresses = Addresses::default();
        if let Some(at) = listen.tcp {
            let listener = Listener::tcp("listen.tcp", at)?;
            addresses.tcp = listener.address();
            grpc.push(listener);
        }
        let http = listen.http.map(|at| Listener::tcp("listen.http", at)).transpose()?;
        addresses.http = http.as_ref().and_then(Listener::address);
        if let Some(path) = &listen.unix {
            grpc.push(Listener::unix("listen.unix", path)?);
            addresses.unix = Some(path.clone());
        }
        Ok(Self { grpc, http, addresses })
    }

    /// Starts accepting gRPC connections until `stop`. The stream is for tonic's `serve_with_incoming`.
    pub fn connections(
        &mut self,
        limits: &Limits,
        tls: Option<ServerTls>,
        seats: Arc<Seats>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Incoming {
        let (give, take) = mpsc::channel(HANDOVER_COUNT);
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.grpc.drain(..) {
            let entrance = waiting::Entrance {
                // A unix socket's peers are this machine's processes: its mode is its protection.
                tls: tls.as_ref().filter(|_| listener.is_tcp()).map(|tls| tls.grpc.clone()),
                handshake_timeout: limits.handshake_timeout,
                seats: seats.clone(),
                metrics: metrics.clone(),
                give: give.clone(),
            };
            let accepting = Accept { waiting_max: limits.waiting_max, freed: seats.freed(), metrics: metrics.clone() };
            let admit = move |socket| waiting::admit(socket, entrance.clone());
            tasks.spawn(accept(listener, accepting, stop.clone(), admit));
        }
        Incoming { connections: ReceiverStream::new(take), _tasks: tasks }
    }

    /// The HTTP listener, for [`crate::http::serve`].
    pub(crate) fn take_http(&mut self) -> Option<Listener> {
        self.http.take()
    }
}

/// What `[listen]` says about waiting connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections that have not spoken yet, per listener.
    pub waiting_max: usize,
    /// How long they may take.
    pub handshake_timeout: Duration,
}

impl From<&Listen> for Limits {
    fn from(listen: &Listen) -> Self {
        Self {
            waiting_max: usize::try_from(listen.waiting_max).unwrap_or(usize::MAX),
            handshake_timeout: listen.handshake_timeout,
        }
    }
}

/// Connections for tonic; dropping it stops the listeners.
#[derive(Debug)]
pub struct Incoming {
    connections: ReceiverStream<Connection>,
    _tasks: tokio::task::JoinSet<()>,
}

impl tokio_stream::Stream for Incoming {
    type Item = std::io::Result<Connection>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::pin::Pin::new(&mut self.connections).poll_next(context).map(|next| next.map(Ok))
    }
}

/// A tonic server with the transport numbers of `kvtier_proto::tuning`. Keep-alive finds peers that vanished without
/// a word; their connection is dropped and their leases are released.
pub fn tuned_server(listen: &Listen) -> tonic::transport::Server {
    use kvtier_proto::tuning;
    tonic::transport::Server::builder()
        .initial_stream_window_size(tuning::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(tuning::CONNECTION_WINDOW_BYTES)
        .max_frame_size(tuning::FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(listen.keepalive_interval))
        .http2_keepalive_timeout(Some(listen.keepalive_timeout))
}
