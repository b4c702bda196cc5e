//! The handle: one connection that is made anew when it breaks.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvtier_proto::local::{Kind, Method, frame};
use prost::Message;

use super::LocalOptions;
use super::acquired::Acquired;
use super::ahead::{Acquiring, Committing};
use super::attach::{Attachment, attach, endpoint, status_of};
use super::chain::{self, AcquireChain, Lengths, ReserveChain};
use super::link::{Link, now};
use super::slots::{self, Commitment, Committed, Slot};
use crate::call::Call;
use crate::decode::decode as explain;
use crate::why::{self, Outcome, report_request};
use crate::{ClientError, SpaceDigest, wire};

const RESERVE: Call = Call::changing("reserve");
pub(super) const COMMIT: Call = Call::changing("commit");
pub(super) const ACQUIRE: Call = Call::reading("acquire");
const POLL: Call = Call::reading("poll");
const WHY: Call = Call::reading("why");
/// When to try again after the connection was lost.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Words for the daemon that wait for a free moment. More would mean that nobody has asked it anything for long.
const NOTES_MAX: usize = 65_536;

/// A worker's handle to the daemon of its machine, for any number of threads. Calls block at most as long as
/// [`LocalOptions`] says. Clones are the same client.
#[derive(Debug, Clone)]
pub struct LocalClient {
    shared: Arc<Shared>,
}

/// What the client's reservations and leases keep alive. When the last of them is gone the client detaches.
#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    pub(super) options: LocalOptions,
    line: Mutex<Option<Line>>,
    notes: Mutex<Vec<Note>>,
}

/// A connection and the memory that came with it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    link: Arc<Link>,
    attachment: Arc<Attachment>,
}

impl Line {
    pub(super) fn attachment(&self) -> &Arc<Attachment> {
        &self.attachment
    }
}

impl Asked {
    pub(super) fn attachment(&self) -> &Arc<Attachment> {
        &self.line.attachment
    }
}

/// A request that was sent. Its answer must be taken: its tag is not given to another request before.
#[derive(Debug)]
pub(super) struct Asked {
    line: Line,
    call: Call,
    tag: u16,
    deadline: Instant,
    timeout: Duration,
}

/// What the daemon is told without waiting for an answer.
#[derive(Debug)]
enum Note {
    Release { attachment: [u8; 16], lease: Vec<u8> },
    Abort { attachment: [u8; 16], number: u64 },
    Fence { attachment: [u8; 16] },
    Report(Box<wire::ReportRequest>),
    ReleaseGpu { attachment: [u8; 16], memory: u64 },
    ForgetLoad { attachment: [u8; 16], load: u64 },
}

impl LocalClient {
    /// Attaches to the daemon that listens on the socket at `path` (`local.socket`).
    pub fn connect(path: impl AsRef<Path>, options: LocalOptions) -> Result<Self, ClientError> {
        options.validate()?;
        let (line, notes) = (Mutex::default(), Mutex::default());
        let shared = Shared { path: path.as_ref().to_owned(), options, line, notes };
        let client = Self { shared: Arc::new(shared) };
        client.shared.line()?;
        Ok(client)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The settings it was made with.
    pub fn options(&self) -> &LocalOptions {
        &self.shared.options
    }

    /// Asks for slots to write a chain's blocks, or one part of each, into. One answer per block.
    pub fn reserve<K: AsRef<[u8]>>(&self, wanted: &ReserveChain<'_, K>) -> Result<Vec<Slot>, ClientError> {
        let request = chain::reserve_request(wanted)?;
        let (line, message) = self.shared.ask(RESERVE, Method::Reserve, &request, self.shared.options.wait_timeout)?;
        let response = decoded(RESERVE, &message)?;
        let count = wanted.keys.len();
        let lengths = (0..count).map(|index| match wanted.lengths {
            Lengths::All(length) => length,
            Lengths::Each(lengths) => lengths[index],
        });
        slots::read_reserved(response, lengths, &line.attachment, &self.shared)
    }

    /// Says that slots are written. The daemon checksums them and makes complete blocks visible; durable ones are waited
    /// for. One answer per reservation; a reservation is used up whatever the answer is.
    pub fn commit(
        &self,
        written: impl IntoIterator<Item = impl Into<Commitment>>,
    ) -> Result<Vec<Committed>, ClientError> {
        self.begin_commit(written)?.wait()
    }

    /// The same without waiting: the daemon checksums these slots while the caller writes the next ones.
    pub fn begin_commit(
        &self,
        written: impl IntoIterator<Item = impl Into<Commitment>>,
    ) -> Result<Committing, ClientError> {
        let written: Vec<Commitment> = written.into_iter().map(Into::into).collect();
        let line = self.shared.line()?;
        if written.iter().any(|commitment| commitment.ticket().attachment.name != line.attachment.name) {
            // The daemon has given them up with their connection.
            return Err(self.shared.unavailable("the reservations were lost with their connection".to_owned()));
        }
        if written.is_empty() {
            return Ok(Committing::new(&self.shared, written, None));
        }
        let reservations = written.iter().map(|commitment| commitment.ticket().number).collect();
        let request = wire::CommitRequest { reservations };
        let timeout = self.shared.options.wait_timeout;
        let asked = self.shared.begin(line, COMMIT, Method::Commit, &request, timeout)?;
        Ok(Committing::new(&self.shared, written, Some(asked)))
    }

    /// Leases the longest resident prefix of a chain and brings it to host memory. With
    /// [`AcquireChain::poll`] it answers at once; ask again with [`LocalClient::poll`] while blocks are loading.
    pub fn acquire<K: AsRef<[u8]>>(&self, wanted: &AcquireChain<'_, K>) -> Result<Acquired, ClientError> {
        self.begin_acquire(wanted)?.wait()
    }

    /// The same without waiting: the daemon looks the chain up, and brings it to host memory, while the caller uses the
    /// one before. A daemon that has gone to sleep takes some 50 µs to wake; whoever reads chain after chain saves that.
    pub fn begin_acquire<K: AsRef<[u8]>>(&self, wanted: &AcquireChain<'_, K>) -> Result<Acquiring, ClientError> {
        let request = chain::acquire_request(wanted)?;
        let timeout = match wanted.poll {
            true => self.shared.options.call_timeout,
            false => self.shared.options.wait_timeout,
        };
        let asked = self.shared.begin(self.shared.line()?, ACQUIRE, Method::Acquire, &request, timeout)?;
        Ok(Acquiring::new(&self.shared, wanted.keys.len(), asked))
    }

    /// What has become of blocks that were loading; with `wait` only once they are there.
    pub fn poll(&self, mut acquired: Acquired, wait: bool) -> Result<Acquired, ClientError> {
        let line = self.shared.line()?;
        if acquired.attachment().name != line.attachment.name {
            return Err(self.shared.unavailable("the lease was lost with its connection".to_owned()));
        }
        let request = wire::PollRequest { lease: acquired.lease().to_vec(), wait };
        let timeout = if wait { self.shared.options.wait_timeout } else { self.shared.options.call_timeout };
        let message = self.shared.ask_on(&line, POLL, Method::Poll, &request, timeout)?;
        let later = Acquired::read(decoded(POLL, &message)?, usize::MAX, &line.attachment, &self.shared)?;
        acquired.forget_lease();
        Ok(later)
    }

    /// Adds what became of a request, for `kvtier why`. Never waits: the daemon is told at once if the connection is free,
    /// else with the next call, and if it is gone, the next one.
    pub fn report(&self, space: SpaceDigest, request: &str, outcome: Outcome<'_>) -> Result<(), ClientError> {
        self.shared.note(Note::Report(Box::new(report_request(space, request, outcome)?)));
        Ok(())
    }

    /// What the daemon remembers of one of the tenant's requests, oldest first.
    pub fn why(&self, request: &str) -> Result<wire::WhyResponse, ClientError> {
        let request = wire::WhyRequest { tenant: String::new(), request: why::name(Some(request))? };
        let (_, message) = self.shared.ask(WHY, Method::Why, &request, self.shared.options.call_timeout)?;
        decoded(WHY, &message)
    }

    /// What names this client's attachment in gRPC calls (`x-kvtier-attachment`). A secret: whoever has it can use this
    /// client's leases and reservations. Another one after every reconnect.
    pub fn attachment(&self) -> Result<String, ClientError> {
        Ok(self.shared.line()?.attachment.name.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Tells the daemon at once what it is told with the next request otherwise: leases dropped, reservations given up.
    pub fn flush(&self) -> Result<(), ClientError> {
        let line = self.shared.line()?;
        let sent = line.link.send(&self.shared.take_notes(&line.attachment), now() + self.shared.options.call_timeout);
        sent.map_err(|why| self.shared.lose(&line, why))
    }

    /// The same if the connection is free, else with the next request. Never waits, and costs nothing when there is
    /// nothing to tell.
    pub fn nudge(&self) {
        self.shared.tell();
    }
}

impl Shared {
    /// The connection, made anew if it is gone.
    pub(super) fn line(&self) -> Result<Line, ClientError> {
        let mut place = self.lock();
        if let Some(line) = &*place {
            return Ok(line.clone());
        }
        let (stream, rings, attachment) = attach(&self.path, &self.options)?;
        let link = Link::new(stream, rings, self.options.spin).map_err(|error| self.unavailable(error.to_string()))?;
        let line = Line { link: Arc::new(link), attachment: Arc::new(attachment) };
        *place = Some(line.clone());
        Ok(line)
    }

    pub(super) fn ask(
        &self,
        call: Call,
        method: Method,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<(Line, Vec<u8>), ClientError> {
        let line = self.line()?;
        let message = self.ask_on(&line, call, method, request, timeout)?;
        Ok((line, message))
    }

    /// One exchange. A broken connection is never used again: what it had reserved is fenced over the next one.
    pub(super) fn ask_on(
        &self,
        line: &Line,
        call: Call,
        method: Method,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        self.finish(&self.begin(line.clone(), call, method, request, timeout)?)
    }

    /// Sends a request whose answer will be asked for with [`Shared::finish`], once.
    fn begin(
        &self,
        line: Line,
        call: Call,
        method: Method,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<Asked, ClientError> {
        let deadline = now() + timeout;
        let tag = line.link.begin().map_err(|why| self.lose(&line, why))?;
        let mut bytes = self.take_notes(&line.attachment);
        bytes.append(&mut frame(method, Kind::Request, tag, request));
        match line.link.send(&bytes, deadline) {
            Ok(()) => Ok(Asked { line, call, tag, deadline, timeout }),
            Err(why) => Err(self.lost_in(&line, call, deadline, timeout, why)),
        }
    }

    /// Waits for an answer.
    pub(super) fn finish(&self, asked: &Asked) -> Result<Vec<u8>, ClientError> {
        let Asked { line, call, tag, deadline, timeout } = asked;
        match line.link.wait(*tag, *deadline) {
            Ok((Kind::Answer, message)) => Ok(message),
            Ok((_, failure)) => Err(explain(&endpoint(&self.path), *call, *timeout, &status_of(&failure))),
            Err(why) => Err(self.lost_in(line, *call, *deadline, *timeout, why)),
        }
    }

    fn lost_in(&self, line: &Line, call: Call, deadline: Instant, timeout: Duration, why: String) -> ClientError {
        let lost = self.lose(line, why.clone());
        match () {
            () if now() >= deadline => call.timed_out(timeout),
            () if call.changes => ClientError::Indeterminate { call: call.name, detail: why },
            () => lost,
        }
    }

    /// Gives a connection up.
    fn lose(&self, line: &Line, why: String) -> ClientError {
        line.attachment.lost.store(true, Ordering::SeqCst);
        let mut place = self.lock();
        if place.as_ref().is_some_and(|current| Arc::ptr_eq(&current.link, &line.link)) {
            *place = None;
        }
        drop(place);
        if line.attachment.open.load(Ordering::SeqCst) == 0 {
            self.fence(line.attachment.name);
        }
        self.unavailable(why)
    }

    pub(super) fn unavailable(&self, detail: String) -> ClientError {
        ClientError::Unavailable { endpoint: endpoint(&self.path), detail, retry_after: RETRY_AFTER }
    }

    /// A lease is not needed any more.
    pub(super) fn release(&self, attachment: [u8; 16], lease: Vec<u8>) {
        self.note(Note::Release { attachment, lease });
    }

    /// A slot will not be written any more.
    pub(super) fn abort(&self, attachment: [u8; 16], number: u64) {
        self.note(Note::Abort { attachment, number });
    }

    /// GPU memory is taken back.
    pub(super) fn release_gpu(&self, attachment: [u8; 16], memory: u64) {
        self.note(Note::ReleaseGpu { attachment, memory });
    }

    /// Nobody asks any more how a load ends.
    pub(super) fn forget_load(&self, attachment: [u8; 16], load: u64) {
        self.note(Note::ForgetLoad { attachment, load });
    }

    /// Nothing of an attachment will be written any more.
    pub(super) fn fence(&self, attachment: [u8; 16]) {
        self.note(Note::Fence { attachment });
    }

    /// Told at once if the connection is free, else with the next request. Never waits: values are dropped anywhere,
    /// and somebody else may be connecting anew for seconds. Whoever does, or asks, sends what is noted by then.
    fn note(&self, note: Note) {
        {
            let mut notes = self.notes();
            if notes.len() == NOTES_MAX {
                // What is forgotten ends at its deadline.
                notes.remove(0);
            }
            notes.push(note);
        }
        if self.options.notes_at_once {
            self.tell();
        }
    }

    fn tell(&self) {
        if self.notes().is_empty() {
            return;
        }
        let Some(line) = self.line.try_lock().ok().and_then(|line| line.clone()) else { return };
        let mut notes = self.notes();
        if !notes.is_empty() && line.link.try_send(&encode(&notes, &line.attachment)) {
            notes.clear();
        }
    }

    fn take_notes(&self, attachment: &Attachment) -> Vec<u8> {
        let notes = std::mem::take(&mut *self.notes());
        encode(&notes, attachment)
    }

    fn notes(&self) -> MutexGuard<'_, Vec<Note>> {
        self.notes.lock().expect("nobody panics while noting")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().expect("nobody panics while connecting")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nothing can be written any more: every reservation kept this alive.
        if let Some(line) = self.lock().take() {
            let mut bytes = self.take_notes(&line.attachment);
            bytes.append(&mut frame(Method::Detach, Kind::Request, 0, &()));
            line.link.try_send(&bytes);
        }
    }
}

/// Frames that say what was noted. What an attachment that is gone had leased or reserved ended with it.
fn encode(notes: &[Note], now: &Attachment) -> Vec<u8> {
    let (mut leases, mut reservations, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for note in notes {
        match note {
            Note::Release { attachment, lease } if *attachment == now.name => leases.push(lease.clone()),
            Note::Abort { attachment, number } if *attachment == now.name => reservations.push(*number),
            Note::ReleaseGpu { attachment, memory } if *attachment == now.name => {
                let request = wire::ReleaseGpuMemoryRequest { memory: *memory };
                bytes.append(&mut frame(Method::ReleaseGpuMemory, Kind::Request, 0, &request));
            }
            Note::ForgetLoad { attachment, load } if *attachment == now.name => {
                let request = wire::WaitLoadRequest { load: *load, range: None };
                bytes.append(&mut frame(Method::WaitLoad, Kind::Request, 0, &request));
            }
            Note::Release { .. } | Note::Abort { .. } | Note::ReleaseGpu { .. } | Note::ForgetLoad { .. } => {}
            Note::Report(report) => bytes.append(&mut frame(Method::Report, Kind::Request, 0, report.as_ref())),
            Note::Fence { attachment } => {
                let request = wire::FenceRequest { attachment: attachment.to_vec() };
                bytes.append(&mut frame(Method::Fence, Kind::Request, 0, &request));
            }
        }
    }
    if !leases.is_empty() {
        let request = wire::ReleaseLeasesRequest { leases };
        bytes.append(&mut frame(Method::ReleaseLeases, Kind::Request, 0, &request));
    }
    if !reservations.is_empty() {
        bytes.append(&mut frame(Method::Abort, Kind::Request, 0, &wire::AbortRequest { reservations }));
    }
    bytes
}

pub(super) fn decoded<M: Message + Default>(call: Call, message: &[u8]) -> Result<M, ClientError> {
    M::decode(message).map_err(|error| ClientError::protocol(call.name, format!("the answer is damaged: {error}")))
}
