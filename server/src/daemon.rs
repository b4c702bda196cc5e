//! The life of the daemon: start, serve, drain, end.
//!
//! ```text
//!  prepare      data directory locked -> log -> certificates read -> everything bound -> addresses published
//!               any of these failing ends the start with one message and exit code 1; nothing is left behind
//!  serve        HTTP from here on, /readyz 503 until the node serves; gRPC health and reflection
//!  1st signal   /readyz 503 "draining"; no new connections; calls may finish for shutdown.drain_timeout
//!  2nd signal   or the timeout: connections are dropped
//!  end          HTTP stops last; socket file and published addresses are removed; the lock goes with the process
//! ```
//!
//! A crash at any point leaves nothing the next start cannot take over.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::config::Config;
use crate::home::{Home, HomeError};
use crate::http::{self, Pages, Readiness};
use crate::listen::published::{self, Published};
use crate::listen::tls::{self, ServerTls, TlsError};
use crate::listen::{Closed, Incoming, Limits, ListenError, Seats, Sockets, tuned_server};
use crate::observe::log::{self, LogError};
use crate::observe::metrics::Metrics;
use crate::observe::trace::Tracing;
use crate::process::{Termination, raise_file_limit};

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
    tls: Option<ServerTls>,
    _published: Published,
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
        let sockets = Sockets::bind(&config.listen)?;
        let published = published::publish(&home.directory, &sockets.addresses)?;
        let metrics = Arc::new(Metrics::new());
        let seats = usize::try_from(config.listen.connections_max).unwrap_or(usize::MAX);
        let seats = Seats::new(seats, metrics.clone(), closed);
        let (readiness, _) = watch::channel(Readiness::NotReady("starting".to_owned()));
        Ok(Self { config, home, metrics, readiness, seats, sockets, tls, _published: published, _tracing: tracing })
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

    /// Says where it can be reached.
    pub fn announce(&self) {
        let at = &self.sockets.addresses;
        let shown = |at: Option<std::net::SocketAddr>| at.map_or_else(|| "off".to_owned(), |at| at.to_string());
        tracing::info!(
            node = %self.home.node,
            tcp = shown(at.tcp),
            unix = at.unix.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string()),
            http = shown(at.http),
            data_directory = %self.home.directory.display(),
            tls = self.tls.is_some(),
            "listening"
        );
    }
}

/// Runs the daemon to its end.
pub fn run(config: Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kvtierd").build();
    match runtime.map_err(StartError::from).and_then(|runtime| runtime.block_on(live(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be what failed, and a message that stands alone is easiest to find.
            eprintln!("kvtierd: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

async fn live(config: Config) -> Result<(), StartError> {
    let mut termination = Termination::listen()?;
    let mut ground = Ground::prepare(config, Arc::new(|_| {}))?;
    let (stop_http, stop_grpc) = (CancellationToken::new(), CancellationToken::new());
    let mut pages = JoinSet::new();
    ground.serve_http(&mut pages, stop_http.clone());
    let incoming = ground.connections(stop_grpc.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::NotServing).await;
    let serving =
        services(&ground, health_service).serve_with_incoming_shutdown(incoming, stop_grpc.clone().cancelled_owned());
    ground.announce();
    let mut calls = JoinSet::new();
    calls.spawn(serving);

    let signal = termination.next().await;
    let patience = ground.config.shutdown.drain_timeout;
    tracing::info!(signal, ?patience, "draining; a second signal ends it now");
    ground.readiness.send_replace(Readiness::NotReady("draining".to_owned()));
    stop_grpc.cancel();
    tokio::select! {
        ended = tokio::time::timeout(patience, calls.join_next()) => {
            if ended.is_err() {
                tracing::warn!("calls were still running after shutdown.drain_timeout and are dropped");
            }
        }
        signal = termination.next() => tracing::warn!(signal, "calls are dropped"),
    }
    calls.shutdown().await;
    stop_http.cancel();
    while pages.join_next().await.is_some() {}
    tracing::info!("ended");
    Ok(())
}

/// The gRPC services that need no engine: health and reflection.
fn services<H: Health>(ground: &Ground, health: HealthServer<H>) -> Router {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kvtier_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are compiled in");
    tuned_server(&ground.config.listen).add_service(health).add_service(reflection)
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
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
