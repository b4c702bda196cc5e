//! One attached client: who it is, and what it was told it may write.
//!
//! A session is found by its socket or, over gRPC, by its attachment's name; both call the same methods. Leases belong to
//! the session's owner id and end with it. Reservations are numbers that no other session ever has, so that one given by
//! mistake is unknown instead of somebody else's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvtier_engine::catalog::plan::OwnerId;
use kvtier_engine::flow::ask::DurableWait;
use kvtier_engine::flow::put::PartWriter;
use kvtier_engine::port::Moment;
use kvtier_identity::SpaceDigest;
use kvtier_proto::v1;
use tonic::{Code, Status};

use super::desk::Desk;
use super::gpu::Shelf;
use super::ledger::Share;
use super::peer::LocalPeer;
use crate::service::answer;
use crate::service::ask;

/// Ended reservations a session remembers, to tell a second commit from a wrong number.
const ENDED_COUNT_MAX: usize = 4096;
/// Spaces a session has used already.
const SPACES_COUNT_MAX: usize = 4096;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Acquire.
    Reader,
    /// Also reserve and commit.
    Writer,
}

/// An attached client.
pub struct Session {
    pub(super) desk: Arc<Desk>,
    /// Names it in `Fence` and over gRPC; random.
    pub(super) attachment: u128,
    pub(super) owner: OwnerId,
    pub(super) peer: LocalPeer,
    pub(super) role: Role,
    pub(super) tenant: String,
    /// Says when its process has ended; writers only.
    process: Option<Arc<OwnedFd>>,
    /// GPU memory it has lent.
    pub(super) shelf: Shelf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    held: BTreeMap<u64, Held>,
    ended: VecDeque<u64>,
    /// Spaces that are known to be the tenant's.
    spaces: BTreeSet<SpaceDigest>,
}

/// A reservation: the right to write a part, and its share of the quotas.
pub(crate) struct Held {
    pub(super) kind: HeldKind,
    pub(super) share: Option<Share>,
    pub(super) begun: Moment,
}

pub(super) enum HeldKind {
    /// A slot to write. Dropping it frees the slot.
    Write(PartWriter),
    /// A slot that a GPU has written, and what its bytes sum to by that GPU.
    Summed(PartWriter, u32),
    /// A copy that is there already and may not be durable yet.
    Existing(DurableWait),
}

impl Held {
    pub(crate) fn bytes(&self) -> u64 {
        self.share.as_ref().map_or(0, |share| share.bytes)
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// How a client has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It said that it writes no more.
    Done,
    /// Its connection is gone, and nobody knows.
    Lost,
}

/// What is found under a reservation's number.
pub(super) enum Found {
    Open(Held),
    Ended,
    Unknown,
}

impl Session {
    pub(super) fn new(
        desk: Arc<Desk>,
        attachment: u128,
        peer: LocalPeer,
        role: Role,
        tenant: String,
        process: Option<OwnedFd>,
    ) -> Self {
        let owner = OwnerId(desk.draw());
        let process = process.map(Arc::new);
        let (shelf, state) = Default::default();
        Self { desk, attachment, owner, peer, role, tenant, process, shelf, state }
    }

    /// The space with this digest, if it is the tenant's.
    pub(super) fn space(&self, bytes: &[u8]) -> Result<SpaceDigest, Status> {
        let space = ask::space("space", bytes)?;
        if self.lock().spaces.contains(&space) {
            return Ok(space);
        }
        let tenant = self.desk.engine.tenant_of(&space).map_err(answer::status)?;
        if tenant != self.tenant {
            let told = format!("space {space} belongs to another tenant than this attachment, {:?}", self.tenant);
            return Err(Status::new(Code::PermissionDenied, told));
        }
        let mut state = self.lock();
        if state.spaces.len() < SPACES_COUNT_MAX {
            state.spaces.insert(space);
        }
        Ok(space)
    }

    pub(super) fn require_writer(&self) -> Result<(), Status> {
        match self.role {
            Role::Writer => Ok(()),
            Role::Reader => {
                let told = "this client attached as a reader and cannot write: attach with LOCAL_ROLE_WRITER";
                Err(Status::new(Code::PermissionDenied, told))
            }
        }
    }

    /// Files a reservation. Given back if the session has ended meanwhile: its client never learns of the slot.
    pub(super) fn hold(&self, kind: HeldKind, share: Option<Share>) -> Result<u64, Status> {
        let held = Held { kind, share, begun: self.desk.clock.now() };
        let number = self.desk.next_reservation();
        let mut state = self.lock();
        if state.closed {
            drop(state);
            drop(held);
            return Err(Status::new(Code::Cancelled, "the attachment has ended"));
        }
        state.held.insert(number, held);
        Ok(number)
    }

    /// Takes reservations out.
    pub(super) fn take(&self, numbers: &[u64]) -> Vec<Found> {
        let mut state = self.lock();
        let state = &mut *state;
        let find = |number: &u64| match state.held.remove(number) {
            Some(held) => {
                if state.ended.len() == ENDED_COUNT_MAX {
                    state.ended.pop_front();
                }
                state.ended.push_back(*number);
                Found::Open(held)
            }
            None if state.ended.contains(number) => Found::Ended,
            None => Found::Unknown,
        };
        numbers.iter().map(find).collect()
    }

    /// Gives reservations up. How many there were.
    pub(crate) fn abort(&self, request: &v1::AbortRequest) -> v1::AbortResponse {
        let found = self.take(&request.reservations);
        let aborted = found.iter().filter(|found| matches!(found, Found::Open(_))).count();
        v1::AbortResponse { aborted: aborted as u32 }
    }

    /// Ends the session: leases are released; slots are free, or quarantined under the number that is returned.
    pub(crate) fn close(&self, leaving: Leaving) -> Option<u64> {
        let held = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.held)
        };
        self.desk.forget(self.attachment);
        self.shelf.close();
        self.desk.engine.release_owner(self.owner);
        let writing = |held: &Held| matches!(held.kind, HeldKind::Write(_));
        let (written, rest): (Vec<Held>, Vec<Held>) = held.into_values().partition(writing);
        drop(rest);
        let process = self.process.as_ref().filter(|_| leaving == Leaving::Lost && !written.is_empty())?;
        tracing::debug!(slots = written.len(), "a worker has lost its connection; its slots are quarantined");
        Some(self.desk.quarantine.put(self.attachment, Arc::clone(process), written))
    }

    /// Leases that a late request was granted after [`Session::close`] end here.
    pub(crate) fn release_if_closed(&self) {
        if self.lock().closed {
            self.desk.engine.release_owner(self.owner);
        }
    }

    /// Slots handed out, and given up but still held: counts and bytes.
    pub(super) fn count(&self) -> [(u64, u64); 2] {
        let (now, deadline) = (self.desk.clock.now(), self.desk.limits.part_deadline);
        let state = self.lock();
        let mut sums = [(0, 0); 2];
        for held in state.held.values() {
            let sum = &mut sums[usize::from(held.begun.after(deadline) <= now)];
            *sum = (sum.0 + 1, sum.1 + held.bytes());
        }
        sums
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while filing a reservation")
    }
}
