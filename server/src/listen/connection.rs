//! One served connection: its bytes, and who is at the other end.

use std::any::Any;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::seat::Seat;

/// Names a connection for the life of the daemon; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Who is at the other end, as far as the transport knows. Every request carries it in its extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The connection.
    pub id: ConnectionId,
    /// From where.
    pub endpoint: Endpoint,
    /// What its certificate says, with mTLS.
    pub identity: Option<Arc<ClientIdentity>>,
    /// Ends when the connection and every request of it are gone.
    pub life: Arc<ConnectionLife>,
}

/// A place for what should end with a connection. Whoever serves it may leave one thing here; it is dropped when the
/// connection and all its requests are gone, so that nothing a late request adds to it can be left over.
#[derive(Default)]
pub struct ConnectionLife(OnceLock<Box<dyn Any + Send + Sync>>);

impl ConnectionLife {
    /// What was left here, made by `make` the first time; nothing if somebody left a thing of another type.
    pub fn held<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl std::fmt::Debug for ConnectionLife {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionLife(..)")
    }
}

/// The far end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine, as the kernel names it.
    Unix {
        /// User id.
        user: Option<u32>,
        /// Process id.
        process: Option<i32>,
    },
}

/// What a verified client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// DNS and URI names of the certificate, in its order.
    pub names: Vec<String>,
    /// The certificate itself, DER.
    pub certificate: Vec<u8>,
}

/// A connection that has spoken HTTP/2 and has a seat.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: Stream,
    /// Read from the client already; tonic gets it first.
    pub(super) spoken: Bytes,
    pub(super) peer: Peer,
    pub(super) seat: Seat,
}

/// The bytes of a connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        debug_assert_eq!(self.peer.id, self.seat.id);
        self.peer.clone()
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(context, from))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, from))
    }

    /// Without it every block would be copied once more on its way out.
    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.spoken.has_remaining() {
            let count = self.spoken.remaining().min(into.remaining());
            into.put_slice(&self.spoken.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
