//! Where a socket is: `ipc:///path` or `tcp://host:port`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::listen::{RemovedAtEnd, bind_unix};

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// An endpoint as settings name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Ipc(PathBuf),
    /// A host (`*`: every address of this machine, for binding only) and a port.
    Tcp(String, u16),
}

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for T {}

/// A connection.
pub type Stream = Box<dyn Duplex>;

/// A bound endpoint.
#[derive(Debug)]
pub enum Bound {
    /// A unix socket, removed at the end.
    Ipc {
        /// Accepts.
        listener: UnixListener,
        /// Goes with it.
        _file: RemovedAtEnd,
    },
    /// A port.
    Tcp(TcpListener),
}

impl Endpoint {
    /// Reads an endpoint; the error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no endpoint; write ipc:///path or tcp://host:port");
        if let Some(path) = text.strip_prefix("ipc://") {
            return if path.starts_with('/') && path.len() > 1 { Ok(Self::Ipc(path.into())) } else { Err(refused()) };
        }
        let (host, port) = text.strip_prefix("tcp://").and_then(|at| at.rsplit_once(':')).ok_or_else(refused)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match port.parse() {
            Ok(port) if !host.is_empty() => Ok(Self::Tcp(host.to_owned(), port)),
            _ => Err(refused()),
        }
    }

    /// The endpoint of a data-parallel rank: the port grows by one for each. None: there is none.
    pub fn of_rank(&self, rank: u16) -> Option<Self> {
        match self {
            Self::Ipc(_) => (rank == 0).then(|| self.clone()),
            Self::Tcp(host, port) => Some(Self::Tcp(host.clone(), port.checked_add(rank)?)),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ipc(_) => true,
            Self::Tcp(host, _) => {
                host == "localhost" || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback())
            }
        }
    }

    /// Connects, in bounded time.
    pub async fn connect(&self) -> io::Result<Stream> {
        let connecting = async {
            Ok::<Stream, io::Error>(match self {
                Self::Ipc(path) => Box::new(UnixStream::connect(path).await?) as Stream,
                Self::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream) as Stream
                }
            })
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nobody answers");
        tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(late)?
    }

    /// Binds what `setting` names. A socket file that nobody listens on any more is replaced; only our own user may connect.
    pub async fn bind(&self, setting: &'static str) -> io::Result<Bound> {
        match self {
            Self::Ipc(path) => {
                let (listener, file) = bind_unix(setting, path, 0o600).map_err(io::Error::other)?;
                Ok(Bound::Ipc { listener: UnixListener::from_std(listener)?, _file: file })
            }
            Self::Tcp(host, port) => {
                let host = if host == "*" { "0.0.0.0" } else { host };
                let refused = |error: io::Error| {
                    io::Error::new(error.kind(), format!("{setting} = \"{self}\" cannot be listened on: {error}"))
                };
                Ok(Bound::Tcp(TcpListener::bind((host, *port)).await.map_err(refused)?))
            }
        }
    }
}

impl Bound {
    /// The next connection. Dropping the future loses none.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Ipc { listener, .. } => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Where it is: the port that was chosen, if 0 was asked for.
    pub fn endpoint(&self, asked: &Endpoint) -> Endpoint {
        match (self, asked) {
            (Self::Tcp(listener), Endpoint::Tcp(host, port)) => {
                Endpoint::Tcp(host.clone(), listener.local_addr().map_or(*port, |at| at.port()))
            }
            _ => asked.clone(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown_as_vllm_writes_them() {
        for text in ["ipc:///run/vllm/events", "tcp://127.0.0.1:5557", "tcp://*:5557", "tcp://[::1]:5557"] {
            assert_eq!(Endpoint::parse(text).expect("good").to_string(), text);
        }
        for text in ["", "ipc://", "ipc://relative", "tcp://host", "tcp://:1", "tcp://a:70000", "inproc://x", "a:1"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rank_has_a_port_of_its_own() {
        let endpoint = Endpoint::parse("tcp://10.0.0.1:65534").expect("good");
        assert_eq!(endpoint.of_rank(1).expect("the last port").to_string(), "tcp://10.0.0.1:65535");
        assert_eq!((endpoint.of_rank(2), endpoint.is_local()), (None, false));
        assert_eq!(Endpoint::parse("ipc:///a").expect("good").of_rank(1), None);
    }
}
