//! The raw socket without the client library: what a client could do that ours does not.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use kvtier_proto::local::{HEADER_BYTES, Header, Kind, Method, frame};
use kvtier_proto::v1;
use kvtier_tests::{Block, World};
use prost::Message;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// An attached connection.
pub struct Raw {
    stream: UnixStream,
    tag: u16,
    pub attachment: Vec<u8>,
    pub arena: OwnedFd,
    pub generations: OwnedFd,
}

/// A connection that has not said anything.
pub fn connect(world: &World) -> UnixStream {
    let path = world.daemon.endpoints().local.clone().expect("the local path is on");
    let stream = UnixStream::connect(path).expect("a serving daemon listens");
    stream.set_read_timeout(Some(kvtier_tests::wire::PATIENCE)).expect("a timeout can be set");
    stream
}

impl Raw {
    pub fn writer(world: &World) -> Self {
        Self::attach(world, v1::LocalRole::Writer, "test").expect("our own user may attach")
    }

    pub fn attach(world: &World, role: v1::LocalRole, tenant: &str) -> Result<Self, v1::LocalFailure> {
        let (raw, files) = Self::attach_as(world, role, tenant, false)?;
        assert!(files.is_empty(), "nobody asked for rings");
        Ok(raw)
    }

    /// A reader with rings; its file is the client's to map as it likes.
    pub fn with_rings(world: &World) -> (Self, OwnedFd) {
        let attached = Self::attach_as(world, v1::LocalRole::Reader, "test", true);
        let (raw, mut files) = attached.expect("our own user may attach");
        (raw, files.pop().expect("the rings' file"))
    }

    fn attach_as(
        world: &World,
        role: v1::LocalRole,
        tenant: &str,
        ring: bool,
    ) -> Result<(Self, Vec<OwnedFd>), v1::LocalFailure> {
        let mut stream = connect(world);
        let request = v1::AttachRequest { client: "raw".into(), role: role.into(), tenant: tenant.into(), ring };
        stream.write_all(&frame(Method::Attach, Kind::Request, 1, &request)).expect("sent");
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let got = rustix::net::recvmsg(&stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("answered");
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        let (head, rest) = bytes[..got.bytes].split_first_chunk::<HEADER_BYTES>().expect("a header");
        let header = Header::decode(head).expect("a header");
        let message = &rest[..header.length as usize];
        if header.kind == Kind::Failure {
            return Err(v1::LocalFailure::decode(message).expect("a failure"));
        }
        let answer = v1::AttachResponse::decode(message).expect("an answer");
        assert_eq!(files.len(), 2 + usize::from(answer.ring));
        let rest = files.split_off(2);
        let [arena, generations] = <[OwnedFd; 2]>::try_from(files).expect("two descriptors");
        Ok((Self { stream, tag: 1, attachment: answer.attachment, arena, generations }, rest))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// Waits for the next frame on the socket; `None`: the daemon has closed the connection.
    pub fn hear(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).ok()?;
        let header = Header::decode(&head).expect("a header");
        let mut message = vec![0; header.length as usize];
        self.stream.read_exact(&mut message).expect("a whole frame");
        Some((header, message))
    }

    pub fn ask<A: Message + Default>(&mut self, method: Method, request: &impl Message) -> Result<A, v1::LocalFailure> {
        self.tag += 1;
        self.stream.write_all(&frame(method, Kind::Request, self.tag, request)).expect("sent");
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).expect("answered");
        let header = Header::decode(&head).expect("a header");
        assert_eq!((header.tag, header.method), (self.tag, method));
        let mut message = vec![0; header.length as usize];
        self.stream.read_exact(&mut message).expect("answered");
        match header.kind {
            Kind::Answer => Ok(A::decode(&message[..]).expect("an answer")),
            _ => Err(v1::LocalFailure::decode(&message[..]).expect("a failure")),
        }
    }

    /// Reserves blocks one after the other in a chain; the answer.
    pub fn reserve(&mut self, world: &World, chain: &[Block]) -> v1::ReserveResponse {
        self.ask(Method::Reserve, &reserve(world, chain)).expect("a good request")
    }

    /// Commits reservations.
    pub fn commit(&mut self, reservations: &[u64]) -> v1::CommitResponse {
        let request = v1::CommitRequest { reservations: reservations.to_vec() };
        self.ask(Method::Commit, &request).expect("a good request")
    }

    /// Writes to the arena behind everybody's back.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> rustix::io::Result<usize> {
        rustix::io::pwrite(&self.arena, bytes, offset)
    }
}

/// The request for a chain's slots.
pub fn reserve(world: &World, chain: &[Block]) -> v1::ReserveRequest {
    v1::ReserveRequest {
        space: world.space.clone(),
        keys: chain.iter().flat_map(|block| block.key.to_vec()).collect(),
        key_lengths: chain.iter().map(|block| block.key.len() as u32).collect(),
        lengths: chain.iter().map(|block| block.payload.len() as u32).collect(),
        ..v1::ReserveRequest::default()
    }
}
