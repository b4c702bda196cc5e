//! `kvtier.v1.KvTier` over the engine: what a client may ask, checked, asked, and answered.
//!
//! Nothing is decided here. A request is read ([`ask`]), the engine is asked, and its words become the wire's in one
//! file ([`answer`]). One small file per group of calls: [`space`], [`put`] with [`intake`], [`find`], [`get`],
//! [`events`], [`node`], [`local`]. Whose leases are whose is [`client`]; who may be served is [`readiness`].
//!
//! Deadlines and cancellation drop the future or stream of a call; every hold it had (slot, lease share, view, seat) is a
//! guard that is dropped with it.

pub mod answer;
pub(crate) mod ask;
pub mod client;
mod events;
mod find;
mod get;
mod intake;
mod local;
mod measure;
mod node;
mod put;
pub mod readiness;
pub mod routes;
mod space;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::Stream;
use kvtier_engine::flow::Engine;
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::{Clock, DeviceHealth, Moment};
use kvtier_identity::space::BLOCK_BYTES_MAX;
use kvtier_proto::v1;
use kvtier_proto::v1::kv_tier_server::KvTier;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use client::{Client, ClientTable};
use measure::Call;
use readiness::Readiness;

use kvtier_engine::catalog::plan::TierCount;

use crate::local::Desk;
use crate::observe::{Metrics, Operation};
use crate::requests::RequestLog;

/// Bounds of the service; the engine has its own.
#[derive(Debug, Clone)]
pub struct NodeLimits {
    /// Longest chain in one request, in keys.
    pub chain_keys_max: usize,
    /// Most bytes of incomplete blocks on all put streams together.
    pub put_bytes_in_flight_max: u64,
    /// When an incomplete block is given up.
    pub part_deadline: Duration,
    /// Most subscribers.
    pub subscribers_max: u64,
    /// How long a drain takes if the request does not say.
    pub drain_timeout: Duration,
}

/// Looks at the HBM tier.
pub type HbmLook = Arc<dyn Fn() -> HbmSight + Send + Sync>;

/// The HBM tier as it is now.
#[derive(Debug, Clone, Default)]
pub struct HbmSight {
    /// One entry per GPU.
    pub devices: Vec<DeviceHealth>,
    /// Bytes of all pools.
    pub capacity_bytes: u64,
    /// What is in the pools, domain by domain.
    pub domains: Vec<TierCount>,
    /// Blocks found there, and blocks taken in, so far.
    pub counters: (u64, u64),
    /// GPUs of the machine that are not in it, and why.
    pub left_out: Vec<String>,
    /// Why there is no GPU in it.
    pub absent: Option<String>,
}

/// What only the daemon knows of the node.
#[derive(Clone)]
pub struct NodeFacts {
    /// The data directory, for people.
    pub data_directory: String,
    /// How the host arena was made, for people.
    pub host_detail: Arc<dyn Fn() -> String + Send + Sync>,
    /// What has become of the HBM tier; `None`: it is off.
    pub hbm: Option<HbmLook>,
    /// Names of the host tier's domains, in the order of their arenas.
    pub domain_names: Vec<String>,
    /// Log position the index holds on stable storage.
    pub index_covered_seq: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Open connections.
    pub connections: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// What every call shares.
pub(crate) struct Node {
    engine: Engine,
    clock: Arc<dyn Clock>,
    clients: Arc<ClientTable>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    limits: NodeLimits,
    facts: NodeFacts,
    /// Pages of incomplete blocks that may still begin.
    put_room: Arc<Semaphore>,
    put_room_pages: u32,
    subscribers: Arc<Semaphore>,
    /// Calls under way, streams to their end.
    calls: TaskTracker,
    /// What became of requests that have a name.
    requests: Arc<RequestLog>,
    /// The local path, once it is served.
    local: OnceLock<Arc<Desk>>,
}

impl Node {
    /// Share of [`Node::put_room`] that a part of this length takes. A length no block can have takes none: it is about
    /// to be rejected.
    fn room_pages(&self, length: u64) -> u32 {
        if length > u64::from(BLOCK_BYTES_MAX) {
            return 0;
        }
        let pages = u32::try_from(length.div_ceil(PAGE_BYTES)).expect("a block has at most 64 MiB");
        pages.min(self.put_room_pages)
    }

    /// Notes how long a block took from its announcement to its acknowledgement.
    fn time_put(&self, begun: Moment) {
        self.metrics.observe(Operation::Put, self.clock.now().since(begun));
    }
}

/// The service. Clones share one state.
#[derive(Clone)]
pub struct Service {
    node: Arc<Node>,
}

/// What a service is made of.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Moves to draining when a client asks for that.
    pub readiness: Arc<Readiness>,
    /// Counts calls and times puts.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub limits: NodeLimits,
    /// For `Status`.
    pub facts: NodeFacts,
    /// What became of requests that have a name.
    pub requests: Arc<RequestLog>,
}

impl Service {
    /// Serves an engine.
    pub fn new(parts: Parts) -> Self {
        let Parts { engine, clock, readiness, metrics, limits, facts, requests } = parts;
        let pages = (limits.put_bytes_in_flight_max / PAGE_BYTES).max(1);
        let put_room_pages = u32::try_from(pages).unwrap_or(u32::MAX).min(u32::MAX >> 3);
        let subscribers = usize::try_from(limits.subscribers_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let node = Node {
            clients: ClientTable::new(engine.clone()),
            engine,
            clock,
            readiness,
            metrics,
            limits,
            facts,
            put_room: Arc::new(Semaphore::new(put_room_pages as usize)),
            put_room_pages,
            subscribers: Arc::new(Semaphore::new(subscribers)),
            calls: TaskTracker::new(),
            requests,
            local: OnceLock::new(),
        };
        Self { node: Arc::new(node) }
    }

    /// Pages of incomplete blocks that may still begin, whatever way they come.
    pub fn put_room(&self) -> Arc<Semaphore> {
        Arc::clone(&self.node.put_room)
    }

    /// Serves the local path's calls, too. Only the first desk counts.
    pub fn serve_local(&self, desk: Arc<Desk>) {
        if self.node.local.set(desk).is_err() {
            tracing::warn!("the service has a local path already; the second one is ignored");
        }
    }

    /// Tells bytes of incomplete blocks, and does not keep the service: the metrics that ask are kept by it.
    pub fn put_in_flight_bytes(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let (room, pages) = (Arc::clone(&self.node.put_room), u64::from(self.node.put_room_pages));
        move || pages.saturating_sub(room.available_permits() as u64) * PAGE_BYTES
    }

    /// Resolves when no call is under way.
    pub async fn idle(&self) {
        self.node.calls.close();
        self.node.calls.wait().await;
    }

    /// Tells how many subscribers there are, and does not keep the service.
    pub fn subscribers(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let (room, most) = (Arc::clone(&self.node.subscribers), self.node.limits.subscribers_max);
        move || most.saturating_sub(room.available_permits() as u64)
    }

    fn call(&self, name: &'static str) -> Call {
        Call::begin(Arc::clone(&self.node), name)
    }

    /// A call of a client that may own leases.
    fn call_of<T>(&self, name: &'static str, request: &Request<T>) -> Result<(Call, Client), Status> {
        let call = self.call(name);
        match self.node.clients.client_of(request) {
            Ok(client) => Ok((call, client)),
            Err(bad) => Err(call.refuse(bad.into())),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl KvTier for Service {
    type PutStream = Answers<v1::PutResponse>;
    type GetStream = Answers<v1::GetResponse>;
    type SubscribeStream = Answers<v1::SubscribeResponse>;
    type ScrubStream = Answers<v1::ScrubResponse>;

    async fn open_space(
        &self,
        request: Request<v1::OpenSpaceRequest>,
    ) -> Result<Response<v1::OpenSpaceResponse>, Status> {
        self.call("open_space").answer(space::open(&self.node, request.into_inner()).await)
    }

    async fn list_spaces(&self, _: Request<v1::ListSpacesRequest>) -> Result<Response<v1::ListSpacesResponse>, Status> {
        self.call("list_spaces").answer(Ok(space::list(&self.node)))
    }

    async fn drop_space(
        &self,
        request: Request<v1::DropSpaceRequest>,
    ) -> Result<Response<v1::DropSpaceResponse>, Status> {
        self.call("drop_space").answer(space::forget(&self.node, request.into_inner()).await)
    }

    async fn put(&self, request: Request<Streaming<v1::PutRequest>>) -> Result<Response<Self::PutStream>, Status> {
        let answers = put::answers(Arc::clone(&self.node), request.into_inner());
        self.call("put").answers(Ok(answers))
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Result<Response<v1::LookupResponse>, Status> {
        let (call, client) = self.call_of("lookup", &request)?;
        call.answer(find::lookup(&self.node, &client, request.into_inner()).await)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let (call, client) = self.call_of("get", &request)?;
        call.answers(get::answers(Arc::clone(&self.node), client, request.into_inner()).await)
    }

    async fn prefetch(&self, request: Request<v1::PrefetchRequest>) -> Result<Response<v1::PrefetchResponse>, Status> {
        self.call("prefetch").answer(find::prefetch(&self.node, request.into_inner()).await)
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinResponse>, Status> {
        self.call("pin").answer(find::pin(&self.node, request.into_inner()).await)
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Result<Response<v1::UnpinResponse>, Status> {
        self.call("unpin").answer(find::unpin(&self.node, request.get_ref()))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (call, client) = self.call_of("release", &request)?;
        call.answer(find::release(&self.node, &client, request.get_ref()))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        self.call("report").answer(find::report(&self.node, request.into_inner()))
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        self.call("why").answer(find::why(&self.node, request.get_ref()))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        self.call("delete").answer(find::delete(&self.node, request.into_inner()).await)
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.call("subscribe").answers(events::answers(&self.node, request.into_inner()))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.call("status").answer(Ok(node::status(&self.node)))
    }

    async fn scrub(&self, _: Request<v1::ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        self.call("scrub").answers(node::scrub(&self.node))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        self.call("drain").answer(Ok(node::drain(&self.node, request.into_inner()).await))
    }
}
