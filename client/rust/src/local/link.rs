//! One connection, the raw socket and the rings beside it, used by any number of threads at a time.
//!
//! Whoever waits for an answer while nobody reads becomes the reader, and hands other threads' answers to them. A reader
//! looks for its answer for a short while before it sleeps ([`super::LocalOptions::spin`]): a wake-up costs more than a round trip.
//!
//! What one thread says in turn arrives in that order, whether it goes through the ring or, being longer, over the socket.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvtier_proto::local::{HEADER_BYTES, Header, Kind, Method, bell};
use kvtier_ring::{Patience, Receiver, Sender, Sent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// An answer: what kind, and its message.
pub(super) type Answer = (Kind, Vec<u8>);

const READ_BYTES: usize = 256 << 10;
/// Looks at the ring between two looks at the socket: one of those is a system call.
const LOOKS: u32 = 32;

const RING_BROKEN: &str = "what the daemon put into the ring makes no sense";

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    /// The ring of requests, if the daemon has given one.
    writing: Mutex<Option<Sender>>,
    reading: Mutex<Inbox>,
    state: Mutex<State>,
    changed: Condvar,
    spin: Duration,
}

#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    scratch: Vec<u8>,
    /// The ring of answers, and what was read from it.
    ring: Option<Receiver>,
    ring_bytes: Vec<u8>,
    /// Spinning is in vain when the daemon needs longer, or this very core.
    patience: Patience,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: asked, and not answered yet.
    answers: BTreeMap<u16, Option<Answer>>,
    last_tag: u16,
    has_reader: bool,
    broken: Option<String>,
}

impl Inbox {
    fn reward(&mut self, looked: bool) {
        if looked {
            self.patience.was_rewarded();
        }
    }
}

/// The time now.
#[expect(clippy::disallowed_methods, reason = "the deadline of a blocking call is measured on the real clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

impl Link {
    /// Takes over a connection that has attached.
    pub(super) fn new(stream: UnixStream, rings: Option<(Sender, Receiver)>, spin: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (sender, ring) = rings.unzip();
        let writing = Mutex::new(sender);
        let reading = Mutex::new(Inbox { ring, ..Inbox::default() });
        let state = Mutex::default();
        Ok(Self { stream, writing, reading, state, changed: Condvar::new(), spin })
    }

    /// A tag for a request, or why there will be no answer.
    pub(super) fn begin(&self) -> Result<u16, String> {
        let mut state = self.state();
        if let Some(why) = &state.broken {
            return Err(why.clone());
        }
        if state.answers.len() >= usize::from(u16::MAX) - 1 {
            return Err("65,534 requests wait for answers".to_owned());
        }
        loop {
            state.last_tag = state.last_tag.wrapping_add(1).max(1);
            let tag = state.last_tag;
            if let Entry::Vacant(free) = state.answers.entry(tag) {
                free.insert(None);
                return Ok(tag);
            }
        }
    }

    /// Sends whole frames.
    pub(super) fn send(&self, frames: &[u8], deadline: Instant) -> Result<(), String> {
        let mut ring = self.writing.lock().expect("nobody panics while writing");
        match self.put(&mut ring, frames)? {
            Sent::Looked => Ok(()),
            Sent::RingBell => self.write(&bell(Kind::Request), deadline),
            Sent::No => self.write(frames, deadline),
        }
    }

    /// Puts frames into the ring, if there is one.
    fn put(&self, ring: &mut Option<Sender>, frames: &[u8]) -> Result<Sent, String> {
        let Some(ring) = ring.as_mut().filter(|_| !frames.is_empty()) else { return Ok(Sent::No) };
        ring.send(frames).map_err(|_| self.breaks(RING_BROKEN))
    }

    /// Writes to the socket, whose turn the caller has.
    fn write(&self, frame: &[u8], deadline: Instant) -> Result<(), String> {
        let mut sent = 0;
        while sent < frame.len() {
            match (&self.stream).write(&frame[sent..]) {
                Ok(0) => return Err(self.breaks("the daemon closed the connection")),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.sleep(PollFlags::OUT, deadline).map_err(|why| self.breaks(&why))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.breaks(&error.to_string())),
            }
        }
        Ok(())
    }

    /// Sends a frame nobody waits for, if the socket takes it at once. False: try again later.
    pub(super) fn try_send(&self, frame: &[u8]) -> bool {
        let Ok(mut ring) = self.writing.try_lock() else { return false };
        let bell = bell(Kind::Request);
        let frame = match self.put(&mut ring, frame) {
            Ok(Sent::Looked) | Err(_) => return true,
            Ok(Sent::RingBell) => &bell,
            Ok(Sent::No) => frame,
        };
        match (&self.stream).write(frame) {
            Ok(count) if count == frame.len() => true,
            Ok(_) => {
                self.breaks("the socket took half a frame");
                true
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Waits for the answer to a tag. At the deadline the link is given up, since the answer may still come.
    pub(super) fn wait(&self, tag: u16, deadline: Instant) -> Result<Answer, String> {
        let mut state = self.state();
        loop {
            if let Some(Some(answer)) = state.answers.get_mut(&tag).map(Option::take) {
                state.answers.remove(&tag);
                return Ok(answer);
            }
            if let Some(why) = &state.broken {
                let why = why.clone();
                state.answers.remove(&tag);
                return Err(why);
            }
            if !state.has_reader {
                state.has_reader = true;
                drop(state);
                let read = self.read_until(tag, deadline);
                state = self.state();
                state.has_reader = false;
                if let Err(why) = read {
                    state.broken.get_or_insert(why);
                }
                self.changed.notify_all();
                continue;
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                state.broken.get_or_insert("no answer in time".to_owned());
                self.changed.notify_all();
                continue;
            }
            state = self.changed.wait_timeout(state, left).expect("nobody panics while waiting").0;
        }
    }

    /// Reads until a tag's answer is there.
    fn read_until(&self, tag: u16, deadline: Instant) -> Result<(), String> {
        let mut inbox = self.reading.lock().expect("nobody panics while reading");
        let inbox = &mut *inbox;
        inbox.scratch.resize(READ_BYTES, 0);
        let begun = now();
        let mut spin_until = if inbox.patience.takes_turn() { begun + self.spin } else { begun };
        let mut looks = 0_u32;
        loop {
            if self.read_ring(inbox, tag)? {
                inbox.reward(spin_until > begun);
                return Ok(());
            }
            looks += 1;
            if inbox.ring.is_some() && !looks.is_multiple_of(LOOKS) && now() < spin_until {
                std::hint::spin_loop();
                continue;
            }
            match (&self.stream).read(&mut inbox.scratch) {
                Ok(0) => return Err("the daemon closed the connection".to_owned()),
                Ok(count) => {
                    inbox.bytes.extend_from_slice(&inbox.scratch[..count]);
                    if self.deliver(&mut inbox.bytes, tag)? {
                        inbox.reward(spin_until > begun);
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let looked = now();
                    if looked < spin_until {
                        std::hint::spin_loop();
                        continue;
                    }
                    if spin_until > begun {
                        inbox.patience.looked_in_vain();
                        spin_until = begun;
                    }
                    let may_sleep = inbox.ring.as_ref().is_none_or(Receiver::sleep);
                    if may_sleep {
                        let slept = self.sleep(PollFlags::IN, deadline);
                        inbox.ring.iter().for_each(Receiver::wake);
                        slept?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Hands out the answers in the ring; whether this tag's was among them.
    fn read_ring(&self, inbox: &mut Inbox, tag: u16) -> Result<bool, String> {
        let Some(ring) = &mut inbox.ring else { return Ok(false) };
        let mut found = false;
        while ring.receive(&mut inbox.ring_bytes).map_err(|_| RING_BROKEN)? {
            found |= self.deliver(&mut inbox.ring_bytes, tag)?;
        }
        Ok(found)
    }

    /// Hands out the whole frames that were read; whether this tag's was among them.
    fn deliver(&self, bytes: &mut Vec<u8>, tag: u16) -> Result<bool, String> {
        let mut found = false;
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(head).ok_or("the daemon sent what is no frame")?;
            let first = at + HEADER_BYTES;
            let Some(message) = bytes.get(first..first + header.length as usize) else { break };
            at = first + message.len();
            if header.tag == 0 && header.kind == Kind::Failure && header.method == Method::Attach {
                return Err(super::attach::failure_text(message));
            }
            let mut state = self.state();
            if let Some(place) = state.answers.get_mut(&header.tag) {
                *place = Some((header.kind, message.to_vec()));
                found |= header.tag == tag;
                if header.tag != tag {
                    self.changed.notify_all();
                }
            }
        }
        bytes.drain(..at);
        Ok(found)
    }

    fn sleep(&self, flags: PollFlags, deadline: Instant) -> Result<(), String> {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err("no answer in time".to_owned());
        }
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&self.stream, flags)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn breaks(&self, why: &str) -> String {
        self.state().broken.get_or_insert(why.to_owned());
        self.changed.notify_all();
        why.to_owned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while filing an answer")
    }
}
