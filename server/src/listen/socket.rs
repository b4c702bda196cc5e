//! Binding: TCP, and a unix socket that replaces only what nobody uses.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::connection::Endpoint;

const BACKLOG: u32 = 1024;

/// Why a listener was not bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error(
        "{setting} = \"{at}\" cannot be listened on: {source}; stop what uses it, or set {setting} to another address"
    )]
    Tcp {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        at: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Somebody listens on the socket.
    #[error("{setting} = \"{}\": another process listens there; stop it, or set {setting} to another path", path.display())]
    InUse {
        /// The setting that names it.
        setting: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Something else is at the path.
    #[error("{setting} = \"{}\" exists and is not a socket; remove it, or set {setting} to another path", path.display())]
    NotASocket {
        /// The setting that names it.
        setting: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{setting} = \"{}\" cannot be listened on: {source}", path.display())]
    Unix {
        /// The setting that names it.
        setting: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A bound listener.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: RemovedAtEnd },
}

/// A socket's file, removed when its listener is gone.
#[derive(Debug)]
pub(crate) struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        // The next start removes what is left; nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    pub(crate) fn tcp(setting: &'static str, at: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let socket = if at.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            socket.listen(BACKLOG)
        };
        bind().map(Self::Tcp).map_err(|source| ListenError::Tcp { setting, at, source })
    }

    /// Binds for the daemon's own user only.
    pub(crate) fn unix(setting: &'static str, path: &Path) -> Result<Self, ListenError> {
        let (listener, file) = bind_unix(setting, path, 0o600)?;
        let failed = |source| ListenError::Unix { setting, path: path.to_path_buf(), source };
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self::Unix { listener, _file: file })
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }

    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    pub(crate) async fn accept(&self) -> std::io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream, from))
            }
            Self::Unix { listener, .. } => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

/// Binds without blocking, with this mode from the first moment: the socket is made under a name of its own and renamed
/// into place.
pub(crate) fn bind_unix(
    setting: &'static str,
    path: &Path,
    mode: u32,
) -> Result<(std::os::unix::net::UnixListener, RemovedAtEnd), ListenError> {
    let failed = |source| ListenError::Unix { setting, path: path.to_path_buf(), source };
    clear(setting, path)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = if fresh.len() <= 107 { PathBuf::from(fresh) } else { path.to_path_buf() };
    clear(setting, &fresh)?;
    let listener = std::os::unix::net::UnixListener::bind(&fresh).map_err(failed)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    if fresh != path {
        std::fs::rename(&fresh, path).map_err(failed)?;
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, RemovedAtEnd(path.to_path_buf())))
}

/// Removes a socket nobody listens on. A crash leaves one; a running daemon's answers.
fn clear(setting: &'static str, path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Unix { setting, path: path.to_path_buf(), source };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { setting, path: path.to_path_buf() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(ListenError::InUse { setting, path: path.to_path_buf() }),
        Err(error) => Err(failed(error)),
    }
}

impl Socket {
    /// Who is at the other end.
    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Tcp(_, from) => Endpoint::Tcp(*from),
            Self::Unix(stream) => {
                let credentials = stream.peer_cred().ok();
                Endpoint::Unix {
                    user: credentials.map(|peer| peer.uid()),
                    process: credentials.and_then(|peer| peer.pid()),
                }
            }
        }
    }

    /// Resolves when the client has said something, or is gone.
    pub(crate) async fn readable(&self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream, _) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }
}
