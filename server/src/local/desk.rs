//! What all local clients share: the engine, the quotas, and who is attached.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtier_engine::flow::Engine;
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::{Clock, Random, Spawn};
use kvtier_identity::{Key, KeyRun, SpaceDigest};
use kvtier_proto::v1;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::gpu::{Gpus, MoveCount};
use super::ledger::Ledger;
use super::peer::LocalPeer;
use super::quarantine::Quarantine;
use super::session::{Role, Session};
use super::tenancy::Tenancy;
use super::{LocalLimits, SharedMemory};
use crate::requests::RequestLog;
use crate::service::answer::BadField;

/// Longest client or tenant name in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Every attached client, and what they may have together.
pub struct Desk {
    pub(super) engine: Engine,
    pub(super) clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    memory: Arc<dyn SharedMemory>,
    pub(super) limits: LocalLimits,
    pub(super) ledger: Arc<Ledger>,
    pub(super) quarantine: Quarantine,
    pub(super) request_log: Arc<RequestLog>,
    pub(crate) gpus: Arc<dyn Gpus>,
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) moves: Arc<MoveCount>,
    tenancy: Tenancy,
    sessions: Mutex<BTreeMap<u128, Arc<Session>>>,
    reservation_next: AtomicU64,
    requests: AtomicU64,
}

/// What a desk is made of.
pub struct DeskParts {
    /// The engine.
    pub engine: Engine,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// For names nobody can guess.
    pub random: Arc<dyn Random>,
    /// The arenas.
    pub memory: Arc<dyn SharedMemory>,
    /// Bounds.
    pub limits: LocalLimits,
    /// Pages of incomplete blocks of all puts of the node.
    pub put_room: Arc<Semaphore>,
    /// What became of requests that have a name.
    pub requests: Arc<RequestLog>,
    /// Opens workers' GPU memory.
    pub gpus: Arc<dyn Gpus>,
    /// Its tasks.
    pub spawn: Arc<dyn Spawn>,
}

/// Figures for `status` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalCount {
    /// Attached clients.
    pub clients: u64,
    /// Slots handed out and not committed.
    pub reservations: u64,
    /// Their bytes.
    pub reserved_bytes: u64,
    /// Slots given up that somebody may still write.
    pub quarantined_slots: u64,
    /// Their bytes.
    pub quarantined_bytes: u64,
    /// Requests so far.
    pub requests: u64,
    /// GPU memory of workers that is open.
    pub gpu_memories: u64,
    /// Moves between it and blocks under way.
    pub moves: u64,
    /// Those that have ended.
    pub moves_ended: u64,
    /// Of them, those that failed.
    pub moves_failed: u64,
}

impl Desk {
    /// A desk without clients.
    pub fn new(parts: DeskParts) -> Arc<Self> {
        let DeskParts { engine, clock, random, memory, limits, put_room, requests, gpus, spawn } = parts;
        let ledger = Ledger::new(limits.client_bytes_max, limits.client_blocks_max, put_room);
        Arc::new(Self {
            engine,
            clock,
            random,
            memory,
            tenancy: Tenancy::new(&limits.domains),
            limits,
            ledger,
            quarantine: Quarantine::default(),
            request_log: requests,
            gpus,
            spawn,
            moves: Arc::default(),
            sessions: Mutex::default(),
            reservation_next: AtomicU64::new(1),
            requests: AtomicU64::new(0),
        })
    }

    /// Notes that a tenant opens a space; refused when others would see its bytes.
    pub(crate) fn open_space(&self, tenant: &str) -> Result<(), Status> {
        self.tenancy.open_space(tenant).map_err(|told| Status::new(Code::FailedPrecondition, told))
    }

    /// Attaches a client: its session, the answer, and the descriptors that go with it.
    pub(crate) fn attach(
        self: &Arc<Self>,
        peer: LocalPeer,
        request: &v1::AttachRequest,
    ) -> Result<(Arc<Session>, v1::AttachResponse, [OwnedFd; 2]), Status> {
        let role = match request.role() {
            v1::LocalRole::Reader => Role::Reader,
            v1::LocalRole::Writer => Role::Writer,
            v1::LocalRole::Unspecified => {
                let remedy = "use LOCAL_ROLE_READER (1) or LOCAL_ROLE_WRITER (2)";
                return Err(BadField::new("role", request.role, remedy).into());
            }
        };
        for (field, name) in [("client", &request.client), ("tenant", &request.tenant)] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                let remedy = format!("a name has 1 to {NAME_BYTES_MAX} bytes");
                return Err(BadField::new(field, format!("{} bytes long", name.len()), remedy).into());
            }
        }
        let refused = |told| Status::new(Code::PermissionDenied, told);
        let domain = self.tenancy.domain_of(&request.tenant);
        self.admit(&peer, domain).map_err(refused)?;
        let unavailable =
            |what: &str, error: std::io::Error| Status::new(Code::Unavailable, format!("{what}: {error}"));
        let process = match role {
            Role::Reader => None,
            Role::Writer => Some(peer.watch().map_err(|error| {
                let told = "a writer's process must be seen to end, and this one cannot be watched";
                unavailable(told, error)
            })?),
        };
        let memory = &self.memory;
        let arena = memory.arena(domain, role == Role::Writer).map_err(|error| unavailable("the arena", error))?;
        let generations = memory.generations(domain).map_err(|error| unavailable("the generation table", error))?;
        // Last of what may fail: from here on other tenants may be kept away from what this one will have mapped. Spaces of
        // before the start are the engine's to tell, later ones were noted before they were opened.
        let tenants = self.engine.spaces().into_iter().map(|space| space.description.tenant);
        self.tenancy.attach(&request.tenant, tenants).map_err(refused)?;
        let attachment = self.draw();
        let session = Session::new(Arc::clone(self), attachment, peer, role, request.tenant.clone(), process);
        let session = Arc::new(session);
        self.lock().insert(attachment, Arc::clone(&session));
        tracing::debug!(client = request.client, tenant = request.tenant, ?role, process = peer.number(), "attached");
        let answer = v1::AttachResponse {
            attachment: attachment.to_le_bytes().to_vec(),
            arena_bytes: memory.arena_bytes(domain),
            generation_bytes: memory.generation_bytes(domain),
            page_bytes: PAGE_BYTES as u32,
            client_bytes_max: self.limits.client_bytes_max,
            client_blocks_max: self.limits.client_blocks_max,
            ring: false,
        };
        Ok((session, answer, [arena, generations]))
    }

    /// Whether a process may have a domain's arena; or why not.
    fn admit(&self, peer: &LocalPeer, domain: usize) -> Result<(), String> {
        let access = &self.limits.domains[domain];
        if peer.may_attach(access) {
            return Ok(());
        }
        let section = if domain == 0 { "local".to_owned() } else { format!("domain.{}", access.name) };
        let user = peer.user;
        Err(format!("user {user} may not attach: add it to {section}.users or its group to {section}.groups"))
    }

    /// An attached client by its attachment's name.
    pub(crate) fn find(&self, attachment: u128) -> Option<Arc<Session>> {
        self.lock().get(&attachment).cloned()
    }

    pub(super) fn forget(&self, attachment: u128) {
        self.lock().remove(&attachment);
    }

    /// A random name.
    pub(super) fn draw(&self) -> u128 {
        u128::from(self.random.next_u64()) << 64 | u128::from(self.random.next_u64())
    }

    /// Keeps what was pinned in GPU memory, too, from its next load on.
    pub(crate) async fn pin_hot(&self, space: &SpaceDigest, name: &str, keys: &[Key], deadline_unix_ms: u64) {
        if !self.gpus.has_pool() {
            return;
        }
        let lengths: Vec<u32> = keys.iter().map(|key| key.as_bytes().len() as u32).collect();
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.as_bytes()).copied().collect();
        let Ok(run) = KeyRun::uneven(&bytes, &lengths) else { return };
        // What went away meanwhile is not kept.
        let Ok(prospect) = self.engine.prospect(space, &run).await else { return };
        let blocks: Vec<_> = prospect.blocks.iter().map(|known| known.block).collect();
        let ttl = Duration::from_millis(deadline_unix_ms.saturating_sub(self.clock.unix_ms()));
        self.gpus.wish(prospect.domain.into(), prospect.space, name, &blocks, ttl);
    }

    /// The arena of a tenant's blocks.
    pub(super) fn domain_of(&self, tenant: &str) -> u16 {
        u16::try_from(self.tenancy.domain_of(tenant)).expect("there are few domains")
    }

    pub(super) fn next_reservation(&self) -> u64 {
        self.reservation_next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn note_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Figures of now.
    pub fn count(&self) -> LocalCount {
        let sessions: Vec<Arc<Session>> = self.lock().values().cloned().collect();
        let (quarantined_slots, quarantined_bytes) = self.quarantine.count();
        let mut count = LocalCount {
            clients: sessions.len() as u64,
            quarantined_slots,
            quarantined_bytes,
            requests: self.requests.load(Ordering::Relaxed),
            moves_ended: self.moves.ended.load(Ordering::Relaxed),
            moves_failed: self.moves.failed.load(Ordering::Relaxed),
            ..LocalCount::default()
        };
        // Read after those that have ended: never less than them.
        count.moves = self.moves.begun.load(Ordering::Relaxed) - count.moves_ended;
        for session in sessions {
            count.gpu_memories += session.shelf.memory_count();
            let [open, given_up] = session.count();
            count.reservations += open.0;
            count.reserved_bytes += open.1;
            count.quarantined_slots += given_up.0;
            count.quarantined_bytes += given_up.1;
        }
        count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u128, Arc<Session>>> {
        self.sessions.lock().expect("nobody panics while finding a client")
    }
}
