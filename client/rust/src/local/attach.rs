//! Attaching: the first exchange of a connection, which brings the daemon's memory.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvtier_proto::local::{ATTACH_BYTES_MAX, HEADER_BYTES, Header, Kind, Method, frame};
use kvtier_ring::{Receiver, Sender};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tonic::{Code, Status};

use super::LocalOptions;
use super::link::now;
use super::mapping::Mapping;
use crate::decode::decode as explain;
use crate::{ClientError, call::Call, wire};

const ATTACH: Call = Call::reading("attach");
/// Pages of the arena per entry of the generation table.
const PAGE_BYTES: u32 = 4096;
/// When to try again after the daemon could not be reached.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The client's ends of the rings.
pub(super) type Rings = (Sender, Receiver);

/// The memory of one incarnation of the daemon, and this client's name there.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) name: [u8; 16],
    pub(super) arena: Arc<Mapping>,
    generations: Mapping,
    /// Reservations that are alive in this process.
    pub(super) open: AtomicUsize,
    /// Its connection is gone.
    pub(super) lost: AtomicBool,
}

impl Attachment {
    /// The generation of the slot whose payload begins at `offset`.
    pub(super) fn generation(&self, offset: u64) -> Option<u64> {
        // The slot's first page is the header's, before the payload's.
        self.generations.counter((offset / u64::from(PAGE_BYTES)).checked_sub(1)?)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

/// Connects and attaches.
pub(super) fn attach(
    path: &Path,
    options: &LocalOptions,
) -> Result<(UnixStream, Option<Rings>, Attachment), ClientError> {
    let at = endpoint(path);
    let unavailable =
        |detail: String| ClientError::Unavailable { endpoint: at.clone(), detail, retry_after: RETRY_AFTER };
    let deadline = now() + options.connect_timeout;
    let mut stream = UnixStream::connect(path).map_err(|error| unavailable(error.to_string()))?;
    let role = if options.writer { wire::LocalRole::Writer } else { wire::LocalRole::Reader };
    let request = wire::AttachRequest {
        client: options.client.clone(),
        role: role.into(),
        tenant: options.tenant.clone(),
        ring: options.ring,
    };
    let sent = stream.write_all(&frame(Method::Attach, Kind::Request, 1, &request));
    sent.map_err(|error| unavailable(error.to_string()))?;
    let (kind, message, mut files) = receive(&stream, deadline).map_err(|error| unavailable(error.to_string()))?;
    if kind == Kind::Failure {
        return Err(explain(&at, ATTACH, options.connect_timeout, &status_of(&message)));
    }
    let broken = |detail: String| ClientError::protocol(ATTACH.name, detail);
    let answer = wire::AttachResponse::decode(&message[..]).map_err(|error| broken(error.to_string()))?;
    let ring = if answer.ring { files.pop() } else { None };
    let rings =
        ring.map(|file| kvtier_ring::open(&file)).transpose().map_err(|error| unavailable(error.to_string()))?;
    let [arena, generations] = <[OwnedFd; 2]>::try_from(files)
        .map_err(|files| broken(format!("{} descriptors came instead of 2", files.len())))?;
    let name = answer.attachment[..].try_into().map_err(|_| broken("the attachment has no name".to_owned()))?;
    if answer.page_bytes != PAGE_BYTES {
        return Err(broken(format!("pages of {} bytes", answer.page_bytes)));
    }
    let arena = Mapping::of_file(&arena, answer.arena_bytes, options.writer);
    let generations = Mapping::of_file(&generations, answer.generation_bytes, false);
    let attachment = Attachment {
        name,
        arena: Arc::new(arena.map_err(|error| unavailable(error.to_string()))?),
        generations: generations.map_err(|error| unavailable(error.to_string()))?,
        open: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    };
    Ok((stream, rings, attachment))
}

/// Reads the first answer, with the descriptors that come with it.
fn receive(stream: &UnixStream, deadline: Instant) -> io::Result<(Kind, Vec<u8>, Vec<OwnedFd>)> {
    stream.set_nonblocking(true)?;
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    loop {
        if let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(head).filter(|header| header.length as usize <= ATTACH_BYTES_MAX);
            let header = header.ok_or_else(|| io::Error::other("what answers is no kvtierd"))?;
            if rest.len() >= header.length as usize {
                return Ok((header.kind, rest[..header.length as usize].to_vec(), files));
            }
        }
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
        }
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
        poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout))?;
        let mut part = [0; HEADER_BYTES + ATTACH_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut part)], &mut control, flags) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if got.bytes == 0 {
            return Err(io::Error::other("it closed the connection"));
        }
        bytes.extend_from_slice(&part[..got.bytes]);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
    }
}

/// The status a failure frame tells of.
pub(super) fn status_of(message: &[u8]) -> Status {
    match wire::LocalFailure::decode(message) {
        Ok(failure) => Status::with_details(Code::from_i32(failure.code), failure.message, failure.details.into()),
        Err(error) => Status::internal(format!("the daemon's failure is damaged: {error}")),
    }
}

pub(super) fn failure_text(message: &[u8]) -> String {
    status_of(message).message().to_owned()
}

/// A socket's path as errors name it.
pub(super) fn endpoint(path: &Path) -> String {
    format!("unix://{}", path.display())
}
