//! The daemon's life, from its lock to its last sync.
//!
//! ```text
//!   lock, log, bind ─► assemble ─► SERVING ── first signal ─► drain ─► close streams ─► stop ─► 0
//!    │            └─ clients may connect; they wait, /readyz says why  │
//!    └─ anything that fails: one line that says what to do, 1          └── second signal: now, 1
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

use crate::assemble::{Assembly, assemble, domain_names};
use crate::config::{Config, NODE_DOMAIN};
use crate::engine_events::{self, Followers};
use crate::ground::{Ground, StartError, with_causes};
use crate::http;
use crate::listen::tuned_server;
use crate::local::{Desk, DeskParts, DomainAccess, LocalLimits, LocalServer};
use crate::process::Termination;
use crate::publish::Publisher;
use crate::requests::RequestLog;
use crate::runtime::SystemClock;
use crate::service::readiness::{Readiness, Stage};
use crate::service::routes::routes;
use crate::service::{NodeFacts, NodeLimits, Parts, Service};
use crate::snapshot::NodeFigures;

/// Longest chain in one request, in keys.
const CHAIN_KEYS_MAX: usize = 65_536;
/// How long connections may take to end once everything is written, beyond what is left of the drain's time.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long connections without calls may take to say goodbye, and the last answers to leave.
const FLUSH_PATIENCE: Duration = Duration::from_millis(200);
/// How long tasks may take to end at the very end.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(5);
/// How often alarms are looked at for the log.
const ALARM_INTERVAL: Duration = Duration::from_secs(1);

/// How it ended, when nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Drained and closed.
    Clean,
    /// A second signal came, or one before it served.
    Hurried,
}

/// Serves until a signal; the process's exit code.
pub fn run(config: Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kvtierd").build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.into()),
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

fn refuse(error: &StartError) -> ExitCode {
    // The log may be what failed, and a message that stands alone is easiest to find.
    eprintln!("kvtierd: {}", with_causes(error));
    ExitCode::FAILURE
}

async fn live(config: Config) -> Result<End, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut termination = Termination::listen()?;
    // What a client held ends with `ConnectionLife`, which also knows of requests that outlive their connection.
    let mut ground = Ground::prepare(config, Arc::new(|_| {}))?;
    end_at_a_panic();
    let stop_pages = CancellationToken::new();
    let mut pages = JoinSet::new();
    ground.serve_http(&mut pages, stop_pages.clone());
    let assembly = tokio::select! {
        assembly = assemble(&ground.config, &ground.home, Arc::clone(&clock)) => assembly?,
        signal = termination.next() => {
            tracing::warn!(signal, "ended while starting");
            return Ok(End::Hurried);
        }
    };
    let mut serving = Serving::begin(&mut ground, &assembly).await?;
    let signal = tokio::select! {
        signal = termination.next() => signal,
        ended = serving.ended() => return Err(ended),
    };
    let patience = ground.config.shutdown.drain_timeout;
    tracing::info!(signal, ?patience, "draining; a second signal ends it now");
    tokio::select! {
        () = serving.end(&assembly, clock.as_ref(), patience) => {}
        signal = termination.next() => {
            tracing::warn!(signal, "ended before the drain was complete; durable blocks are safe");
            return Ok(End::Hurried);
        }
    }
    drop(serving);
    assembly.close().await;
    stop_pages.cancel();
    while pages.join_next().await.is_some() {}
    tracing::info!("ended");
    Ok(End::Clean)
}

/// A panic anywhere means that something in memory cannot be trusted any more. The process ends at once, like a crash:
/// recovery is fast, and wrong bytes are a disaster.
fn end_at_a_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("kvtierd ends because of a fault of its own ({panic}); durable blocks are safe");
        told(panic);
        std::process::abort();
    }));
}

/// A node that serves.
struct Serving {
    server: JoinSet<Result<(), tonic::transport::Error>>,
    _followers: JoinSet<()>,
    service: Service,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    local: Option<LocalServer>,
    _relays: Relays,
}

/// Events of other processes, and ours for them.
struct Relays {
    followers: Followers,
    publisher: Option<Publisher>,
}

impl Relays {
    async fn begin(config: &Config, assembly: &Assembly) -> Result<Self, StartError> {
        let (engine, clock) = (&assembly.engine, &assembly.clock);
        Ok(Self {
            followers: engine_events::follow(&config.engine_events, engine, clock).await?,
            publisher: Publisher::start(&config.publish_events, engine, clock).await?,
        })
    }
}

impl Serving {
    /// Serves gRPC on what was bound. Clients that connected meanwhile have waited for this.
    async fn begin(ground: &mut Ground, assembly: &Assembly) -> Result<Self, StartError> {
        let (readiness, stop) = (Arc::new(Readiness::default()), CancellationToken::new());
        let requests = RequestLog::new(Arc::clone(&assembly.clock), ground.config.limits.request_log_bytes);
        let service = service_of(ground, assembly, &readiness, &requests);
        let local = serve_local(ground, assembly, &service, requests)?;
        let serving = service.clone();
        let index = Arc::clone(&assembly.index);
        let relays = Relays::begin(&ground.config, assembly).await?;
        ground.metrics.watch(Arc::new(NodeFigures {
            engine: assembly.engine.clone(),
            domain_names: domain_names(&ground.config).map(str::to_owned).collect(),
            hbm: assembly.hbm.clone(),
            index_flushed_seq: Arc::new(move || index.flushed()),
            subscribers: Arc::new(service.subscribers()),
            put_in_flight_bytes: Arc::new(service.put_in_flight_bytes()),
            followed: relays.followers.counts.clone(),
            published: relays.publisher.as_ref().map(Publisher::count),
        }));
        let spawn = Arc::clone(&assembly.spawn) as Arc<dyn Spawn>;
        let served = tuned_server(&ground.config.listen).add_routes(routes(service, &readiness, &spawn));
        let incoming = ground.connections(stop.clone());
        let mut server = JoinSet::new();
        server.spawn(served.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
        let mut followers = JoinSet::new();
        followers.spawn(tell_pages(readiness.watch(), ground.readiness.clone()));
        followers.spawn(tell_log(assembly.engine.clone(), Arc::clone(&assembly.clock)));
        readiness.serve();
        ground.readiness.send_replace(http::Readiness::Ready);
        ground.announce()?;
        Ok(Self { server, _followers: followers, service: serving, readiness, stop, local, _relays: relays })
    }

    /// Resolves only if the server ends by itself.
    async fn ended(&mut self) -> StartError {
        match self.server.join_next().await {
            Some(Ok(Err(error))) => StartError::Server(Some(error)),
            _ => StartError::Server(None),
        }
    }

    /// Writes back what is queued, ends endless streams, lets the others finish for a while, and stops listening.
    async fn end(&mut self, assembly: &Assembly, clock: &dyn Clock, patience: Duration) {
        let begun = clock.now();
        self.readiness.drain();
        let drained = assembly.engine.drain(patience).await;
        tracing::info!(written_back = drained.written_back, abandoned = drained.abandoned, "drained");
        self.readiness.close();
        self.stop.cancel();
        let left = patience.saturating_sub(clock.now().since(begun)) + CLOSE_PATIENCE;
        let idle = async {
            self.service.idle().await;
            clock.sleep(FLUSH_PATIENCE).await;
        };
        tokio::select! {
            _ = self.server.join_next() => {}
            () = idle => {}
            () = clock.sleep(left) => {
                tracing::warn!("calls were still running after shutdown.drain_timeout and are dropped");
            }
        }
        self.server.shutdown().await;
        self.local = None;
    }
}

/// Serves the local path, unless it is off.
fn serve_local(
    ground: &mut Ground,
    assembly: &Assembly,
    service: &Service,
    requests: Arc<RequestLog>,
) -> Result<Option<LocalServer>, StartError> {
    let Some(socket) = ground.take_local() else { return Ok(None) };
    let (local, limits) = (&ground.config.local, &ground.config.limits);
    let desk = Desk::new(DeskParts {
        engine: assembly.engine.clone(),
        clock: Arc::clone(&assembly.clock),
        random: Arc::clone(&assembly.random),
        memory: Arc::clone(&assembly.shared_memory),
        limits: LocalLimits {
            domains: domains_of(&ground.config),
            clients_max: usize::try_from(local.clients_max).unwrap_or(usize::MAX),
            client_bytes_max: local.client_bytes_max,
            client_blocks_max: u32::try_from(local.client_blocks_max).unwrap_or(u32::MAX),
            part_deadline: limits.part_deadline,
            attach_timeout: ground.config.listen.handshake_timeout,
            spin: local.spin,
        },
        put_room: service.put_room(),
        requests,
        gpus: Arc::clone(&assembly.gpus),
        spawn: Arc::clone(&assembly.spawn) as Arc<dyn Spawn>,
    });
    service.serve_local(Arc::clone(&desk));
    let spawn = Arc::clone(&assembly.spawn) as Arc<dyn Spawn>;
    Ok(Some(LocalServer::start(socket, desk, spawn)?))
}

/// Who may attach to which arena.
fn domains_of(config: &Config) -> Vec<DomainAccess> {
    let ids = |names: &[String]| names.iter().filter_map(|name| name.parse().ok()).collect();
    let access = |name: &str, tenants: &[String], users: &[String], groups: &[String]| DomainAccess {
        name: name.to_owned(),
        tenants: tenants.to_vec(),
        users: ids(users),
        groups: ids(groups),
    };
    let local = &config.local;
    let own = access(NODE_DOMAIN, &local.tenants, &local.users, &local.groups);
    let named = config.domains.iter();
    let named = named.map(|(name, domain)| access(name, &domain.tenants, &domain.users, &domain.groups));
    std::iter::once(own).chain(named).collect()
}

fn service_of(ground: &Ground, assembly: &Assembly, readiness: &Arc<Readiness>, requests: &Arc<RequestLog>) -> Service {
    let (index, seats) = (Arc::clone(&assembly.index), Arc::clone(&ground.seats));
    let config = &ground.config;
    Service::new(Parts {
        engine: assembly.engine.clone(),
        clock: Arc::clone(&assembly.clock),
        readiness: Arc::clone(readiness),
        metrics: Arc::clone(&ground.metrics),
        requests: Arc::clone(requests),
        limits: NodeLimits {
            chain_keys_max: CHAIN_KEYS_MAX,
            put_bytes_in_flight_max: config.limits.put_bytes_in_flight_max,
            part_deadline: config.limits.part_deadline,
            subscribers_max: config.limits.subscribers_max,
            drain_timeout: config.shutdown.drain_timeout,
        },
        facts: NodeFacts {
            data_directory: config.data_directory.display().to_string(),
            host_detail: Arc::clone(&assembly.host_detail),
            hbm: assembly.hbm.clone(),
            domain_names: domain_names(config).map(str::to_owned).collect(),
            index_covered_seq: Arc::new(move || index.flushed()),
            connections: Arc::new(move || seats.taken() as u64),
        },
    })
}

/// Keeps `/readyz` in step with the node's stage.
async fn tell_pages(mut stage: watch::Receiver<Stage>, told: watch::Sender<http::Readiness>) {
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
async fn tell_log(engine: Engine, clock: Arc<dyn Clock>) {
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
        clock.sleep(ALARM_INTERVAL).await;
    }
}
