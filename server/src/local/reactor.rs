//! The local thread: one epoll over the listener, every connection, and the processes of quarantined slots.
//!
//! A request is answered on the spot by polling its future once; what has to wait goes to the runtime and comes back
//! through the bell ([`super::wake`]). After a request the thread looks again for a short while before it sleeps, so
//! that workers that ask one thing after the other do not pay for a wake-up each time; it sleeps without a timeout when
//! nobody asks, so that idle workers cost nothing. A connection with rings is looked at in shared memory, on a list of
//! those that have asked lately; what has left the list rings over the socket.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvtier_engine::port::{Moment, Spawn};
use kvtier_proto::local::{Kind, Method, frame};
use kvtier_proto::v1;
use kvtier_ring::Patience;
use rustix::event::{Timespec, epoll};
use tonic::{Code, Status};

use super::LocalSocket;
use super::connection::{Broken, Connection, Request, begin, decode, failure};
use super::desk::Desk;
use super::peer::LocalPeer;
use super::ring::Rings;
use super::session::Leaving;
use super::wake::Wake;

const EVENTS_MAX: usize = 256;
/// Looks at the rings between two looks at the sockets: one of those costs a system call.
const LOOKS: u32 = 64;
/// Requests of one connection's ring before others have a turn.
const RING_TURN: u32 = 16;
/// A wait that does not.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Bytes read from one connection before others have a turn.
const SCRATCH_BYTES: usize = 256 << 10;
/// Connections above the bound that wait to be told so: an answer to what nobody has read would be lost.
const TURNED_AWAY_MAX: usize = 64;
/// How long accepting rests when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: u64 = 0;
const BELL: u64 = 1;
/// The lowest bit of larger numbers tells connections from wards.
const fn connection_event(number: u64) -> u64 {
    2 + number * 2
}
const fn ward_event(number: u64) -> u64 {
    3 + number * 2
}

/// The thread's state.
pub(super) struct Reactor {
    epoll: OwnedFd,
    socket: LocalSocket,
    desk: Arc<Desk>,
    spawn: Arc<dyn Spawn>,
    wake: Arc<Wake>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Connections whose rings are looked at.
    looked_at: Vec<u64>,
    /// Connections that had not attached when they came, oldest first.
    strangers: VecDeque<(Moment, u64)>,
    accept_again: Option<Moment>,
    /// Until when sockets are looked at without sleeping.
    spin_until: Option<Moment>,
    /// Spinning is in vain when nobody asks, or could not on this very core. For connections without rings.
    patience: Patience,
    scratch: Vec<u8>,
}

impl Reactor {
    pub(super) fn new(
        socket: LocalSocket,
        desk: Arc<Desk>,
        spawn: Arc<dyn Spawn>,
        wake: Arc<Wake>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket.listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            socket,
            desk,
            spawn,
            wake,
            connections: BTreeMap::new(),
            next: 0,
            looked_at: Vec::new(),
            strangers: VecDeque::new(),
            accept_again: None,
            spin_until: None,
            patience: Patience::default(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Serves until it is stopped.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut looks = 0;
        while !self.wake.is_stopped() {
            self.look_at_rings();
            looks += 1;
            if looks < LOOKS && !self.looked_at.is_empty() {
                std::hint::spin_loop();
                continue;
            }
            looks = 0;
            let pause = self.pause();
            events.clear();
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), pause.as_ref());
            if let Err(error) = waited
                && error != rustix::io::Errno::INTR
            {
                // Only a broken descriptor of our own can do that.
                panic!("waiting for local clients failed: {error}");
            }
            if let Some(until) = self.spin_until {
                if !events.is_empty() {
                    self.patience.was_rewarded();
                } else if until <= self.desk.clock.now() {
                    self.spin_until = None;
                    self.patience.looked_in_vain();
                }
            }
            for event in events.drain(..) {
                self.serve(event.data.u64(), event.flags);
            }
            self.send_strangers_away();
            self.accept_again();
        }
        for (_, connection) in std::mem::take(&mut self.connections) {
            if let Some(session) = connection.session {
                session.close(Leaving::Lost);
            }
        }
    }

    /// How long to wait for the next event: not at all while spinning, else until the next deadline.
    fn pause(&self) -> Option<Timespec> {
        let now = self.desk.clock.now();
        if self.spin_until.is_some() || !self.looked_at.is_empty() {
            return Some(LOOK);
        }
        let stranger = self.strangers.front().map(|(since, _)| since.after(self.desk.limits.attach_timeout));
        let next = [stranger, self.accept_again].into_iter().flatten().min()?;
        // One more millisecond, so that the deadline has passed then.
        let pause = next.since(now) + Duration::from_millis(1);
        Some(Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))
    }

    fn serve(&mut self, event: u64, flags: epoll::EventFlags) {
        match event {
            LISTENER => self.accept(),
            BELL => {
                for (number, frame) in self.wake.take() {
                    self.answer(number, &frame);
                }
            }
            ward if ward % 2 == 1 => self.desk.quarantine.free((ward - 3) / 2),
            connection => self.hear((connection - 2) / 2, flags),
        }
    }

    fn accept(&mut self) {
        loop {
            match self.socket.listener.accept() {
                Ok((stream, _)) => self.welcome(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "no local client can be taken; is LimitNOFILE too low?");
                    // Level-triggered: without this the thread would spin.
                    epoll::delete(&self.epoll, &self.socket.listener).ok();
                    self.accept_again = Some(self.desk.clock.now().after(ACCEPT_PAUSE));
                    return;
                }
            }
        }
    }

    fn accept_again(&mut self) {
        if self.accept_again.is_some_and(|again| again <= self.desk.clock.now()) {
            self.accept_again = None;
            let listener = epoll::EventData::new_u64(LISTENER);
            epoll::add(&self.epoll, &self.socket.listener, listener, epoll::EventFlags::IN).ok();
        }
    }

    fn welcome(&mut self, stream: std::os::unix::net::UnixStream) {
        let Ok(peer) = LocalPeer::of(&stream) else { return };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let clients_max = self.desk.limits.clients_max;
        if self.connections.len() >= clients_max + TURNED_AWAY_MAX {
            return;
        }
        let refusal = if self.connections.len() >= clients_max {
            let told = format!("all {clients_max} local connections are taken (local.clients_max)");
            Some(Status::new(Code::ResourceExhausted, told))
        } else if !self.desk.limits.domains.iter().any(|domain| peer.may_attach(domain)) {
            // Which domain it wants is known once it says its tenant.
            let told = format!("user {} may not attach: add it to local.users or its group to local.groups", peer.user);
            Some(Status::new(Code::PermissionDenied, told))
        } else {
            None
        };
        let connection = Connection::new(stream, peer, refusal);
        let number = self.next;
        self.next += 1;
        let data = epoll::EventData::new_u64(connection_event(number));
        if epoll::add(&self.epoll, &connection, data, epoll::EventFlags::IN).is_ok() {
            self.strangers.push_back((self.desk.clock.now(), number));
            self.connections.insert(number, connection);
        }
    }

    /// Closes connections that have not attached in time.
    fn send_strangers_away(&mut self) {
        let now = self.desk.clock.now();
        let timeout = self.desk.limits.attach_timeout;
        while self.strangers.front().is_some_and(|(since, _)| since.after(timeout) <= now) {
            let (_, number) = self.strangers.pop_front().expect("there is a front");
            if self.connections.get(&number).is_some_and(|connection| connection.session.is_none()) {
                self.close(number, Leaving::Lost);
            }
        }
    }

    fn hear(&mut self, number: u64, flags: epoll::EventFlags) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if flags.contains(epoll::EventFlags::OUT) && connection.flush().is_err() {
            return self.close(number, Leaving::Lost);
        }
        let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if gone && !connection.may_read() {
            return self.close(number, Leaving::Lost);
        }
        self.pump(number, flags.contains(epoll::EventFlags::IN) || gone);
    }

    /// Serves what is in the rings on the list, and takes those off it that nobody has used for a while.
    fn look_at_rings(&mut self) {
        let mut at = 0;
        while let Some(&number) = self.looked_at.get(at) {
            if self.look_at(number) {
                at += 1;
            } else {
                self.looked_at.swap_remove(at);
            }
        }
    }

    /// Whether to look again.
    fn look_at(&mut self, number: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else { return false };
        let may_read = connection.may_read();
        let Some(rings) = &mut connection.rings else { return false };
        if !may_read {
            // It is looked at again when an answer has gone.
            rings.is_watched = false;
            return false;
        }
        if rings.has_request() {
            if rings.look_until.is_some() {
                rings.patience.was_rewarded();
            }
            self.pump(number, false);
            return true;
        }
        let now = self.desk.clock.now();
        if rings.look_until.is_some_and(|until| now < until) {
            return true;
        }
        if rings.look_until.take().is_some() {
            rings.patience.looked_in_vain();
        }
        rings.is_watched = !rings.sleep();
        rings.is_watched
    }

    /// Puts a connection's rings on the list.
    fn look_later(&mut self, number: u64) {
        let Some(rings) = self.connections.get_mut(&number).and_then(|connection| connection.rings.as_mut()) else {
            return;
        };
        if !rings.is_watched {
            rings.is_watched = true;
            rings.wake();
            self.looked_at.push(number);
        }
    }

    /// Serves the requests that are there, and reads once more if asked to.
    fn pump(&mut self, number: u64, read: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.pump_with(number, read, &mut scratch);
        self.scratch = scratch;
        match outcome {
            Ok(None) => {
                self.watch(number);
                self.look_later(number);
            }
            Ok(Some(leaving)) => self.close(number, leaving),
            Err(Broken::Closed) => self.close(number, Leaving::Lost),
            Err(Broken::Garbage(why)) => {
                tracing::warn!(why, "a local connection was closed");
                let status = Status::new(Code::InvalidArgument, format!("the connection is closed: {why}"));
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.send_on_socket(&failure(Method::Attach, 0, &status)).ok();
                }
                self.close(number, Leaving::Lost);
            }
        }
    }

    fn pump_with(&mut self, number: u64, read: bool, scratch: &mut [u8]) -> Result<Option<Leaving>, Broken> {
        let mut may_fill = read;
        let mut turn = RING_TURN;
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return Ok(None) };
            if !connection.may_read() {
                return Ok(None);
            }
            if connection.rings.as_ref().is_some_and(Rings::has_request) {
                if turn == 0 {
                    return Ok(None);
                }
                turn -= 1;
            }
            match connection.next()? {
                Some(request) if request.header.method == Method::Detach => return Ok(Some(Leaving::Done)),
                Some(request) if request.header.method == Method::Bell => {}
                Some(request) => self.take(number, request)?,
                None if may_fill => {
                    connection.fill(scratch)?;
                    may_fill = false;
                }
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, number: u64, request: Request) -> Result<(), Broken> {
        let (method, tag) = (request.header.method, request.header.tag);
        let connection = self.connections.get_mut(&number).expect("its request was just read");
        let Some(session) = connection.session.clone() else {
            return self.attach(number, &request);
        };
        let mut answering = match begin(session, request) {
            Ok(answering) => answering,
            Err(status) => return connection.send(&failure(method, tag, &status)),
        };
        match answering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(_) if tag == 0 => {
                // Who lets go is likely to ask again: the look lasts from here, unless looking was in vain.
                self.prolong(number);
                Ok(())
            }
            Poll::Ready(frame) => {
                let sent = connection.send(&frame);
                self.spin(number);
                sent
            }
            Poll::Pending => {
                connection.in_flight += 1;
                let wake = Arc::clone(&self.wake);
                self.spawn.spawn("local", Box::pin(async move { wake.answer(number, answering.await) }));
                Ok(())
            }
        }
    }

    /// Looks for the next request for a while before it sleeps, unless that was in vain lately.
    fn spin(&mut self, number: u64) {
        let until = self.desk.clock.now().after(self.desk.limits.spin);
        let (patience, look_until) = self.look(number);
        *look_until = patience.takes_turn().then_some(until);
    }

    /// The same without taking a turn for it.
    fn prolong(&mut self, number: u64) {
        let until = self.desk.clock.now().after(self.desk.limits.spin);
        let (patience, look_until) = self.look(number);
        if patience.is_rested() {
            *look_until = Some(until);
        }
    }

    /// Whose look it is: the connection's own at its rings, or the one at all sockets.
    fn look(&mut self, number: u64) -> (&mut Patience, &mut Option<Moment>) {
        match self.connections.get_mut(&number).and_then(|connection| connection.rings.as_mut()) {
            Some(rings) => (&mut rings.patience, &mut rings.look_until),
            None => (&mut self.patience, &mut self.spin_until),
        }
    }

    fn attach(&mut self, number: u64, request: &Request) -> Result<(), Broken> {
        let tag = request.header.tag;
        let connection = self.connections.get_mut(&number).expect("its request was just read");
        if let Some(status) = connection.refusal.take() {
            connection.send(&failure(Method::Attach, tag, &status))?;
            return Err(Broken::Closed);
        }
        let attached = decode::<v1::AttachRequest>(&request.payload)
            .and_then(|message| Ok((message.ring, self.desk.attach(connection.peer, &message)?)));
        match attached {
            Ok((wants_ring, (session, mut answer, descriptors))) => {
                let mut descriptors = Vec::from(descriptors);
                // A process without descriptors left goes on with the socket alone.
                let rings = wants_ring.then(Rings::create).and_then(Result::ok);
                connection.rings = rings.map(|(rings, file)| {
                    descriptors.push(file);
                    rings
                });
                answer.ring = connection.rings.is_some();
                let sent = connection.send_with(&frame(Method::Attach, Kind::Answer, tag, &answer), &descriptors);
                connection.session = Some(session);
                sent
            }
            Err(status) => connection.send(&failure(Method::Attach, tag, &status)),
        }
    }

    /// Sends an answer that was worked out elsewhere; requests behind it may go on.
    fn answer(&mut self, number: u64, frame: &[u8]) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.in_flight -= 1;
        let wanted = frame.get(6..8) != Some(&[0, 0]);
        if wanted && connection.send(frame).is_err() {
            return self.close(number, Leaving::Lost);
        }
        self.spin(number);
        self.pump(number, false);
    }

    /// Tells epoll what to wait for.
    fn watch(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let wanted = (connection.may_read(), connection.must_write());
        if connection.watched == wanted {
            return;
        }
        connection.watched = wanted;
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, wanted.0);
        flags.set(epoll::EventFlags::OUT, wanted.1);
        let data = epoll::EventData::new_u64(connection_event(number));
        if epoll::modify(&self.epoll, &*connection, data, flags).is_err() {
            self.close(number, Leaving::Lost);
        }
    }

    fn close(&mut self, number: u64, leaving: Leaving) {
        let Some(connection) = self.connections.remove(&number) else { return };
        let Some(session) = connection.session else { return };
        let Some(ward) = session.close(leaving) else { return };
        let data = epoll::EventData::new_u64(ward_event(ward));
        let watched =
            self.desk.quarantine.watch(ward, |process| epoll::add(&self.epoll, process, data, epoll::EventFlags::IN));
        if let Some(Err(error)) = watched {
            // Never freed too early; the operator sees them in the status.
            tracing::warn!(%error, "slots of a lost worker stay quarantined until it fences them");
        }
    }
}
