//! The daemon's life, from its lock to its last sync.
//!
//! ```text
//!   lock ─► log ─► bind ─► assemble ─► SERVING ── first signal ─► drain ─► close streams ─► stop ─► 0
//!    │        └─ clients may connect; they wait, /readyz says why       │
//!    └─ anything that fails: one line that says what to do, 1           └── second signal: now, 1
//! ```
//!
//! `kill -9` may come at any point: what was acknowledged as durable is on disk, everything else is recomputed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kvtier_engine::flow::Engine;
use kvtier_engine::port::{Clock, Spawn};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::assemble::{AssembleError, Assembly, assemble};
use crate::config::Config;
use crate::home::{Home, HomeError};
use crate::http::{self, Pages};
use crate::listen::tls::{self, ServerTls, TlsError};
use crate::listen::{Addresses, Incoming, Limits, ListenError, Seats, Sockets, published, tuned_server};
use crate::observe::log::{self, LogError};
use crate::observe::Metrics;
use crate::process::{Termination, raise_file_limit};
use crate::runtime::SystemClock;
use crate::service::readiness::{Readiness, Stage};
use crate::service::routes::routes;
use crate::service::{NodeFacts, NodeLimits, Parts, Service};
use crate::snapshot::NodeFigures;

/// Longest chain in one request, in keys.
const CHAIN_KEYS_MAX: usize = 65_536;
/// How long connections may take to end once everything is written, beyond what is left of the drain's time.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long tasks may take to end at the very end.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(5);
/// How often alarms are looked at for the log.
const ALARM_INTERVAL: Duration = Duration::from_secs(1);

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the gRPC server ended")]
    Server(#[source] tonic::transport::Error),
}

/// How it ended, when nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Drained and closed.
    Clean,
    /// A second signal came.
    Hurried,
}

/// Serves until a signal; the process's exit code.
pub fn run(config: &Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kvtierd").build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => return refuse(&DaemonError::System { doing: "start the runtime", source }),
    };
    let ended = runtime.block_on(live(config));
    if let Ok(End::Clean) = ended {
        runtime.shutdown_timeout(RUNTIME_PATIENCE);
    } else {
        runtime.shutdown_background();
    }
    match ended {
        Ok(End::Clean) => ExitCode::SUCCESS,
        Ok(End::Hurried) => ExitCode::FAILURE,
        Err(error) => refuse(&error),
    }
}

/// Tells the error with its causes, on one line.
fn refuse(error: &DaemonError) -> ExitCode {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if !told.contains(&words) {
            told = format!("{told}: {words}");
        }
        cause = error.source();
    }
    eprintln!("kvtierd: {told}");
    ExitCode::FAILURE
}

async fn live(config: &Config) -> Result<End, DaemonError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let home = Home::open(&config.data_directory, config.creates_data_directory)?;
    let _tracing = log::start(&config.log, &config.trace, &home.node.to_string())?;
    end_at_a_panic();
    let files = raise_file_limit();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %home.node, open_files_max = files, "kvtierd starts");
    let taken = Termination::listen();
    let mut termination = taken.map_err(|source| DaemonError::System { doing: "take over signals", source })?;
    let front = Front::open(config)?;
    let assembly = tokio::select! {
        assembly = assemble(config, &home, Arc::clone(&clock)) => assembly?,
        signal = termination.next() => {
            tracing::warn!(signal, "ended while starting");
            return Ok(End::Hurried);
        }
    };
    let mut serving = front.serve(config, &home, &assembly)?;
    let signal = tokio::select! {
        signal = termination.next() => signal,
        ended = serving.ended() => return Err(ended),
    };
    tracing::info!(signal, timeout = ?config.shutdown.drain_timeout, "draining; a second signal ends at once");
    tokio::select! {
        () = serving.end(&assembly, clock.as_ref(), config.shutdown.drain_timeout) => {}
        signal = termination.next() => {
            tracing::warn!(signal, "ended before the drain was complete; durable blocks are safe");
            return Ok(End::Hurried);
        }
    }
    drop(serving);
    assembly.close().await;
    tracing::info!("kvtierd has stopped");
    Ok(End::Clean)
}

/// A panic anywhere means that something in memory cannot be trusted any more. The process ends at once, like a crash:
/// recovery is fast, and wrong bytes are a disaster.
fn end_at_a_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "kvtierd ends because of a fault of its own; durable blocks are safe");
        told(panic);
        std::process::abort();
    }));
}

/// What clients see first: bound listeners, and a page that says whether the node is ready.
struct Front {
    addresses: Addresses,
    incoming: Incoming,
    seats: Arc<Seats>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    pages: JoinSet<()>,
}

impl Front {
    /// Binds every listener. Clients may connect from here on; they are served once the node is assembled.
    fn open(config: &Config) -> Result<Self, DaemonError> {
        let tls = tls::load(&config.tls)?;
        let mut sockets = Sockets::bind(&config.listen)?;
        let (addresses, limits) = (sockets.addresses.clone(), Limits::from(&config.listen));
        let metrics = Arc::new(Metrics::new());
        let (readiness, stop) = (Arc::new(Readiness::default()), CancellationToken::new());
        let max = usize::try_from(config.listen.connections_max).unwrap_or(usize::MAX);
        // Leases end with `ConnectionLife`, which also knows of requests that outlive their connection.
        let seats = Seats::new(max, Arc::clone(&metrics), Arc::new(|_| {}));
        let grpc_tls = tls.clone();
        let incoming = sockets.connections(&limits, grpc_tls, Arc::clone(&seats), Arc::clone(&metrics), stop.clone());
        let mut pages = JoinSet::new();
        let (told, ready) = watch::channel(http::Readiness::NotReady(Stage::Starting.name().to_owned()));
        pages.spawn(tell(readiness.watch(), told));
        let shown = Pages { metrics: Arc::clone(&metrics), readiness: ready };
        let http_tls = tls.map(|ServerTls { http, .. }| http);
        // Pages outlive `stop`: while connections end, probes should still be told so.
        let pages_stop = CancellationToken::new();
        pages.spawn(async move { http::serve(&mut sockets, limits, http_tls, shown, pages_stop).await });
        Ok(Self { addresses, incoming, seats, metrics, readiness, stop, pages })
    }

    /// Serves gRPC on what was bound.
    fn serve(self, config: &Config, home: &Home, assembly: &Assembly) -> Result<Serving, DaemonError> {
        let Self { addresses, incoming, seats, metrics, readiness, stop, pages } = self;
        let service = service_of(config, assembly, &seats, &metrics, &readiness);
        let figures = service.clone();
        let (putting, subscribing) = (figures.clone(), figures);
        metrics.watch(Arc::new(NodeFigures {
            engine: assembly.engine.clone(),
            index: Arc::clone(&assembly.index),
            subscribers: Arc::new(move || subscribing.subscribers()),
            put_in_flight_bytes: Arc::new(move || putting.put_in_flight_bytes()),
        }));
        let spawn = Arc::clone(&assembly.spawn) as Arc<dyn Spawn>;
        let grpc = routes(service, &readiness, &spawn);
        let served = tuned_server(&config.listen).add_routes(grpc);
        let mut server = JoinSet::new();
        server.spawn(served.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
        spawn.spawn("watch", Box::pin(watch_node(assembly.engine.clone(), Arc::clone(&assembly.clock))));
        let published = published::publish(&home.directory, &addresses)?;
        readiness.serve();
        tracing::info!("serving on {}", places(&addresses));
        Ok(Serving { server, readiness, stop, _pages: pages, _published: published })
    }
}

fn service_of(
    config: &Config,
    assembly: &Assembly,
    seats: &Arc<Seats>,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
) -> Service {
    let (index, seats) = (Arc::clone(&assembly.index), Arc::clone(seats));
    Service::new(Parts {
        engine: assembly.engine.clone(),
        clock: Arc::clone(&assembly.clock),
        readiness: Arc::clone(readiness),
        metrics: Arc::clone(metrics),
        limits: NodeLimits {
            chain_keys_max: CHAIN_KEYS_MAX,
            put_bytes_in_flight_max: config.limits.put_bytes_in_flight_max,
            part_deadline: config.limits.part_deadline,
            subscribers_max: config.limits.subscribers_max,
            drain_timeout: config.shutdown.drain_timeout,
        },
        facts: NodeFacts {
            data_directory: config.data_directory.display().to_string(),
            host_detail: assembly.host_detail.clone(),
            index_covered_seq: Arc::new(move || index.flushed()),
            connections: Arc::new(move || seats.taken() as u64),
        },
    })
}

/// A node that serves.
struct Serving {
    server: JoinSet<Result<(), tonic::transport::Error>>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    _pages: JoinSet<()>,
    _published: published::Published,
}

impl Serving {
    /// Resolves only if the server ends by itself.
    async fn ended(&mut self) -> DaemonError {
        match self.server.join_next().await {
            Some(Ok(Err(error))) => DaemonError::Server(error),
            _ => DaemonError::System { doing: "go on: the gRPC server ended", source: std::io::Error::other("it was not asked to") },
        }
    }

    /// Writes back what is queued, ends endless streams, lets the others finish for a while, and stops listening.
    async fn end(&mut self, assembly: &Assembly, clock: &dyn Clock, timeout: Duration) {
        let begun = clock.now();
        self.readiness.drain();
        let drained = assembly.engine.drain(timeout).await;
        tracing::info!(written_back = drained.written_back, abandoned = drained.abandoned, "drained");
        self.readiness.close();
        self.stop.cancel();
        let left = timeout.saturating_sub(clock.now().since(begun)) + CLOSE_PATIENCE;
        if tokio::time::timeout(left, self.server.join_next()).await.is_err() {
            tracing::warn!("connections are cut: their calls did not end in time");
        }
        self.server.shutdown().await;
    }
}

/// Keeps `/readyz` in step with the node's stage.
async fn tell(mut stage: watch::Receiver<Stage>, told: watch::Sender<http::Readiness>) {
    loop {
        let now = *stage.borrow_and_update();
        told.send_replace(match now {
            Stage::Serving => http::Readiness::Ready,
            Stage::Starting | Stage::Draining | Stage::Closing => http::Readiness::NotReady(now.name().to_owned()),
        });
        if stage.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the log what `status` would show: the end of recovery, and alarms as they come and go.
async fn watch_node(engine: Engine, clock: Arc<dyn Clock>) {
    let mut alarms = Vec::new();
    let mut filling = true;
    loop {
        let status = engine.status();
        if let Some(took) = status.recovery.filter(|_| filling) {
            filling = false;
            tracing::info!(blocks = status.count.nvme.blocks, ?took, "every durable block is known");
        }
        for alarm in status.alarms.iter().filter(|alarm| !alarms.contains(*alarm)) {
            tracing::warn!("{alarm}");
        }
        for alarm in alarms.iter().filter(|alarm| !status.alarms.contains(alarm)) {
            tracing::info!("over: {alarm}");
        }
        alarms = status.alarms;
        if status.state == "draining" {
            return;
        }
        clock.sleep(ALARM_INTERVAL).await;
    }
}

fn places(addresses: &Addresses) -> String {
    let tcp = addresses.tcp.map(|at| format!("tcp {at}"));
    let unix = addresses.unix.as_ref().map(|path| format!("unix {}", path.display()));
    let http = addresses.http.map(|at| format!("http {at}"));
    [tcp, unix, http].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
