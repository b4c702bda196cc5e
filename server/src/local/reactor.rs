//! The local thread: one epoll over the listener, every connection, and the processes of quarantined slots.
//!
//! A request is answered on the spot by polling its future once; what has to wait goes to the runtime and comes back
//! through the bell ([`super::wake`]). After a request the thread looks again for a short while before it sleeps, so
//! that workers that ask one thing after the other do not pay for a wake-up each time; it sleeps without a timeout when
//! nobody asks, so that idle workers cost nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvtier_engine::port::{Moment, Spawn};
use kvtier_proto::local::{Kind, Method, frame};
use rustix::event::{Timespec, epoll};
use tonic::{Code, Status};

use super::LocalSocket;
use super::connection::{Broken, Connection, Request, begin, decode, failure};
use super::desk::Desk;
use super::peer::LocalPeer;
use super::session::Leaving;
use super::wake::Wake;

const EVENTS_MAX: usize = 256;
/// Requests after which it does not spin once spinning was in vain.
const SPIN_REST: u32 = 64;
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
    /// Connections that had not attached when they came, oldest first.
    strangers: VecDeque<(Moment, u64)>,
    accept_again: Option<Moment>,
    spin_until: Moment,
    /// Requests after which not to spin, because spinning was in vain: nobody asked, or could not on this very core.
    rest: u32,
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
        let spin_until = desk.clock.now();
        Ok(Self {
            epoll,
            socket,
            desk,
            spawn,
            wake,
            connections: BTreeMap::new(),
            next: 0,
            strangers: VecDeque::new(),
            accept_again: None,
            spin_until,
            rest: 0,
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Serves until it is stopped.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !self.wake.is_stopped() {
            let pause = self.pause();
            events.clear();
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), pause.as_ref());
            if let Err(error) = waited
                && error != rustix::io::Errno::INTR
            {
                // Only a broken descriptor of our own can do that.
                panic!("waiting for local clients failed: {error}");
            }
            if events.is_empty() && pause == Some(LOOK) && self.spin_until <= self.desk.clock.now() {
                self.rest = SPIN_REST;
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
        if now < self.spin_until {
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

    /// Serves the requests that are there, and reads once more if asked to.
    fn pump(&mut self, number: u64, read: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.pump_with(number, read, &mut scratch);
        self.scratch = scratch;
        match outcome {
            Ok(None) => self.watch(number),
            Ok(Some(leaving)) => self.close(number, leaving),
            Err(Broken::Closed) => self.close(number, Leaving::Lost),
            Err(Broken::Garbage(why)) => {
                tracing::warn!(why, "a local connection was closed");
                let status = Status::new(Code::InvalidArgument, format!("the connection is closed: {why}"));
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.send(&failure(Method::Attach, 0, &status)).ok();
                }
                self.close(number, Leaving::Lost);
            }
        }
    }

    fn pump_with(&mut self, number: u64, read: bool, scratch: &mut [u8]) -> Result<Option<Leaving>, Broken> {
        let mut may_fill = read;
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return Ok(None) };
            if !connection.may_read() {
                return Ok(None);
            }
            match connection.next()? {
                Some(request) if request.header.method == Method::Detach => return Ok(Some(Leaving::Done)),
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
                if self.rest == 0 {
                    self.spin();
                }
                Ok(())
            }
            Poll::Ready(frame) => {
                let sent = connection.send(&frame);
                self.spin();
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
    fn spin(&mut self) {
        if self.rest > 0 {
            self.rest -= 1;
        } else {
            self.spin_until = self.desk.clock.now().after(self.desk.limits.spin);
        }
    }

    fn attach(&mut self, number: u64, request: &Request) -> Result<(), Broken> {
        let tag = request.header.tag;
        let connection = self.connections.get_mut(&number).expect("its request was just read");
        if let Some(status) = connection.refusal.take() {
            connection.send(&failure(Method::Attach, tag, &status))?;
            return Err(Broken::Closed);
        }
        let attached = decode(&request.payload).and_then(|message| self.desk.attach(connection.peer, &message));
        match attached {
            Ok((session, answer, descriptors)) => {
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
        self.spin();
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
