//! What the engine and its service are put on: the data directory, the log, certificates and listeners.
//!
//! Everything that can fail without the engine is done here first. What fails leaves at most an empty data directory of
//! this node behind, from which the next start goes on.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::assemble::AssembleError;
use crate::config::Config;
use crate::home::{Home, HomeError};
use crate::http::{self, Pages, Readiness};
use crate::listen::published::{self, Published};
use crate::listen::tls::{self, ServerTls, TlsError};
use crate::listen::{Closed, Incoming, Limits, ListenError, Seats, Sockets, bind_unix};
use crate::local::LocalSocket;
use crate::observe::log::{self, LogError};
use crate::observe::metrics::Metrics;
use crate::observe::trace::Tracing;
use crate::process::raise_file_limit;

/// Why the daemon did not start. Every message names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The log or traces.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Listeners.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals or the runtime.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// A component of the node.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The gRPC server ended by itself.
    #[error("the gRPC server ended although nobody asked it to")]
    Server(#[source] Option<tonic::transport::Error>),
}

/// What the engine and its service are put on: everything that can fail without them is done.
#[derive(Debug)]
pub struct Ground {
    /// The settings.
    pub config: Config,
    /// The data directory.
    pub home: Home,
    /// The registry; give it the node's figures with [`Metrics::watch`].
    pub metrics: Arc<Metrics>,
    /// What `/readyz` says.
    pub readiness: watch::Sender<Readiness>,
    /// Seats of gRPC connections.
    pub seats: Arc<Seats>,
    sockets: Sockets,
    local: Option<LocalSocket>,
    tls: Option<ServerTls>,
    published: Option<Published>,
    /// Last, so that what ends before it can still be traced.
    _tracing: Option<Tracing>,
}

impl Ground {
    /// Prepares; inside a tokio runtime. `closed` is told of every connection that has gone.
    pub fn prepare(config: Config, closed: Closed) -> Result<Self, StartError> {
        let home = Home::open(&config.data_directory, config.creates_data_directory)?;
        let tracing = log::start(&config.log, &config.trace, &home.node.to_string())?;
        let files = raise_file_limit();
        if files < config.listen.connections_max + config.listen.waiting_max {
            tracing::warn!(
                files,
                "fewer open files are allowed than listen.connections_max and listen.waiting_max may need; raise LimitNOFILE"
            );
        }
        let tls = tls::load(&config.tls)?;
        let mut sockets = Sockets::bind(&config.listen)?;
        let local = config.local.socket.as_deref().map(|path| bind_local(path, &config)).transpose()?;
        sockets.addresses.local.clone_from(&config.local.socket);
        let metrics = Arc::new(Metrics::new());
        let seats = usize::try_from(config.listen.connections_max).unwrap_or(usize::MAX);
        let seats = Seats::new(seats, metrics.clone(), closed);
        let (readiness, _) = watch::channel(Readiness::NotReady("starting".to_owned()));
        Ok(Self { config, home, metrics, readiness, seats, sockets, local, tls, published: None, _tracing: tracing })
    }

    /// Starts HTTP on `tasks`, until `stop`.
    pub fn serve_http(&mut self, tasks: &mut JoinSet<()>, stop: CancellationToken) {
        let pages = Pages { metrics: self.metrics.clone(), readiness: self.readiness.subscribe() };
        let tls = self.tls.as_ref().map(|tls| tls.http.clone());
        let serving = http::serve(&mut self.sockets, Limits::from(&self.config.listen), tls, pages, stop);
        tasks.spawn(serving);
    }

    /// Starts accepting gRPC connections, until `stop`.
    pub fn connections(&mut self, stop: CancellationToken) -> Incoming {
        let limits = Limits::from(&self.config.listen);
        self.sockets.connections(&limits, self.tls.clone(), self.seats.clone(), self.metrics.clone(), stop)
    }

    /// The local path's socket, to be served.
    pub fn take_local(&mut self) -> Option<LocalSocket> {
        self.local.take()
    }

    /// Says where it can be reached, in the data directory and in the log.
    pub fn announce(&mut self) -> Result<(), StartError> {
        self.published = Some(published::publish(&self.home.directory, &self.sockets.addresses)?);
        let at = &self.sockets.addresses;
        let shown = |at: Option<std::net::SocketAddr>| at.map_or_else(|| "off".to_owned(), |at| at.to_string());
        tracing::info!(
            node = %self.home.node,
            tcp = shown(at.tcp),
            unix = at.unix.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string()),
            http = shown(at.http),
            local = at.local.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string()),
            data_directory = %self.home.directory.display(),
            tls = self.tls.is_some(),
            "listening"
        );
        Ok(())
    }
}

/// The kernel checks who connects, unless others than our own user may attach: then the daemon does.
fn bind_local(path: &std::path::Path, config: &Config) -> Result<LocalSocket, ListenError> {
    let others = |users: &[String], groups: &[String]| !users.is_empty() || !groups.is_empty();
    let named = config.domains.values().any(|domain| others(&domain.users, &domain.groups));
    let shared = named || others(&config.local.users, &config.local.groups);
    let (listener, file) = bind_unix("local.socket", path, if shared { 0o666 } else { 0o600 })?;
    Ok(LocalSocket { listener, _file: file })
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        // Transparent and inlined sources have been told already.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}
