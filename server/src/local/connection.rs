//! One connection: the raw socket and the rings beside it, their bytes in and out, and the requests in them.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use futures::future::BoxFuture;
use kvtier_proto::local::{ATTACH_BYTES_MAX, HEADER_BYTES, Header, Kind, Method, bell, frame};
use kvtier_proto::v1;
use kvtier_ring::Sent;
use prost::Message;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tonic::{Code, Status};

use super::peer::LocalPeer;
use super::ring::Rings;
use super::session::Session;

/// Requests of one connection that wait for something. The next one is read when one is answered.
const IN_FLIGHT_MAX: usize = 64;
/// Bytes a client has not taken yet. More requests are read when it has.
const OUTBOX_BYTES_MAX: usize = 4 << 20;
/// Buffers that were grown for a long chain are given back above this, so that an idle client costs little.
const KEPT_BYTES_MAX: usize = 4096;

/// A connection.
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) peer: LocalPeer,
    pub(super) session: Option<Arc<Session>>,
    /// From its attachment on, if it wants them.
    pub(super) rings: Option<Rings>,
    /// Why it will not be attached.
    pub(super) refusal: Option<Status>,
    /// The beginning of a frame whose end has not come.
    inbox: Vec<u8>,
    /// Answers the socket has not taken, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    pub(super) in_flight: usize,
    /// What epoll was told to watch: reading, writing.
    pub(super) watched: (bool, bool),
}

/// A request that was read.
pub(super) struct Request {
    pub(super) header: Header,
    /// The message.
    pub(super) payload: Vec<u8>,
}

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client has gone.
    Closed,
    /// It does not speak the protocol.
    Garbage(&'static str),
}

impl Connection {
    pub(super) fn new(stream: UnixStream, peer: LocalPeer, refusal: Option<Status>) -> Self {
        let (inbox, outbox) = (Vec::new(), Vec::new());
        Self {
            stream,
            peer,
            session: None,
            rings: None,
            refusal,
            inbox,
            outbox,
            sent: 0,
            in_flight: 0,
            watched: (true, false),
        }
    }

    /// Whether more requests may be read.
    pub(super) fn may_read(&self) -> bool {
        self.in_flight < IN_FLIGHT_MAX && self.outbox.len() - self.sent < OUTBOX_BYTES_MAX
    }

    /// Whether answers wait for the socket.
    pub(super) fn must_write(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Reads once; whether there was something.
    pub(super) fn fill(&mut self, scratch: &mut [u8]) -> Result<bool, Broken> {
        match (&self.stream).read(scratch) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                self.inbox.extend_from_slice(&scratch[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(Broken::Closed),
        }
    }

    /// The next whole request in the ring, else among the bytes that were read from the socket.
    pub(super) fn next(&mut self) -> Result<Option<Request>, Broken> {
        let is_attached = self.session.is_some();
        if let Some(rings) = &mut self.rings {
            let frames = rings.frames()?;
            if !frames.is_empty() {
                let request = take_request(frames, is_attached)?;
                return request.map(Some).ok_or(Broken::Garbage("an entry of its ring ends within a frame"));
            }
        }
        let request = take_request(&mut self.inbox, is_attached)?;
        if request.is_none() {
            self.give_back_memory();
        }
        Ok(request)
    }

    fn give_back_memory(&mut self) {
        if self.inbox.is_empty() && self.inbox.capacity() > KEPT_BYTES_MAX {
            self.inbox = Vec::new();
        }
    }

    /// Sends a frame: through the ring if it takes it, else over the socket.
    pub(super) fn send(&mut self, frame: &[u8]) -> Result<(), Broken> {
        match self.rings.as_mut().map_or(Ok(Sent::No), |rings| rings.send(frame))? {
            Sent::Looked => Ok(()),
            Sent::RingBell => self.send_on_socket(&bell(Kind::Answer)),
            Sent::No => self.send_on_socket(frame),
        }
    }

    /// Sends a frame, or keeps what the socket does not take.
    pub(super) fn send_on_socket(&mut self, frame: &[u8]) -> Result<(), Broken> {
        let taken = if self.must_write() { 0 } else { self.write(frame)? };
        self.outbox.extend_from_slice(&frame[taken..]);
        Ok(())
    }

    /// Sends what was kept.
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        let outbox = std::mem::take(&mut self.outbox);
        let taken = self.write(&outbox[self.sent..])?;
        self.sent += taken;
        self.outbox = outbox;
        if self.sent == self.outbox.len() {
            self.sent = 0;
            self.outbox.clear();
            self.outbox.shrink_to(KEPT_BYTES_MAX);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut taken = 0;
        while taken < bytes.len() {
            match (&self.stream).write(&bytes[taken..]) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken::Closed),
            }
        }
        Ok(taken)
    }

    /// Sends a short frame with descriptors, as the first one of a connection.
    pub(super) fn send_with(&self, frame: &[u8], descriptors: &[OwnedFd]) -> Result<(), Broken> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "the space is for three descriptors");
        let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL);
        match sent {
            Ok(count) if count == frame.len() => Ok(()),
            // Nothing was sent before, so the socket has room for a short frame; a client without it is none.
            _ => Err(Broken::Closed),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Takes the first whole request out of what was read.
fn take_request(inbox: &mut Vec<u8>, is_attached: bool) -> Result<Option<Request>, Broken> {
    let Some((head, rest)) = inbox.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::decode(head).ok_or(Broken::Garbage("it is no frame of kvtier's local protocol"))?;
    if header.kind != Kind::Request {
        return Err(Broken::Garbage("a client sends requests only"));
    }
    let length = header.length as usize;
    if !is_attached && (header.method != Method::Attach || length > ATTACH_BYTES_MAX) {
        return Err(Broken::Garbage("the first frame is Attach"));
    }
    if rest.len() < length {
        return Ok(None);
    }
    let payload = rest[..length].to_vec();
    inbox.drain(..HEADER_BYTES + length);
    Ok(Some(Request { header, payload }))
}

/// Begins a request of an attached client; resolves to the frame that answers it.
pub(super) fn begin(session: Arc<Session>, request: Request) -> Result<BoxFuture<'static, Vec<u8>>, Status> {
    let Request { header: Header { method, tag, .. }, payload } = request;
    macro_rules! answer {
        ($message:ty, $call:ident) => {{
            let message = decode::<$message>(&payload)?;
            Box::pin(async move { framed(method, tag, session.$call(message).await) })
        }};
        ($message:ty, now $call:expr) => {{
            let message = decode::<$message>(&payload)?;
            let answer = framed(method, tag, $call(&session, &message));
            Box::pin(std::future::ready(answer))
        }};
    }
    session.desk.note_request();
    Ok(match method {
        Method::Reserve => answer!(v1::ReserveRequest, reserve),
        Method::Commit => answer!(v1::CommitRequest, commit),
        Method::Acquire => answer!(v1::AcquireRequest, acquire),
        Method::Poll => answer!(v1::PollRequest, poll),
        Method::ImportGpuMemory => answer!(v1::ImportGpuMemoryRequest, import_gpu_memory),
        Method::ReleaseGpuMemory => answer!(v1::ReleaseGpuMemoryRequest, release_gpu_memory),
        Method::Load => answer!(v1::LoadRequest, load),
        Method::WaitLoad => answer!(v1::WaitLoadRequest, wait_load),
        Method::Save => answer!(v1::SaveRequest, save),
        Method::Abort => {
            answer!(v1::AbortRequest, now |session: &Arc<Session>, message| Ok::<_, Status>(session.abort(message)))
        }
        Method::ReleaseLeases => {
            answer!(v1::ReleaseLeasesRequest, now |session: &Arc<Session>, message| session.release(message))
        }
        Method::Fence => answer!(v1::FenceRequest, now |session: &Arc<Session>, message| session.fence(message)),
        Method::Report => answer!(v1::ReportRequest, now |session: &Arc<Session>, message| session.report(message)),
        Method::Why => answer!(v1::WhyRequest, now |session: &Arc<Session>, message| session.why(message)),
        Method::Attach | Method::Detach | Method::Bell => {
            return Err(Status::new(Code::FailedPrecondition, "this connection is attached"));
        }
    })
}

pub(super) fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::new(Code::InvalidArgument, format!("the message is damaged: {error}")))
}

fn framed(method: Method, tag: u16, answer: Result<impl Message, Status>) -> Vec<u8> {
    match answer {
        Ok(message) => frame(method, Kind::Answer, tag, &message),
        Err(status) => failure(method, tag, &status),
    }
}

/// The frame of a request that failed.
pub(super) fn failure(method: Method, tag: u16, status: &Status) -> Vec<u8> {
    let failure = v1::LocalFailure {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: status.details().to_vec(),
    };
    frame(method, Kind::Failure, tag, &failure)
}
