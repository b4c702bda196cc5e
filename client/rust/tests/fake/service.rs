//! The calls of the fake.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use kvtier_client::wire::{self, kv_tier_server::KvTier};
use kvtier_client::{SpaceDigest, space};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::store::{Address, Fault, Store};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service over a store. Cloned for every connection.
#[derive(Clone)]
pub struct Service(pub Arc<Store>);

impl std::ops::Deref for Service {
    type Target = Arc<Store>;
    fn deref(&self) -> &Arc<Store> {
        &self.0
    }
}

impl Store {
    fn note_caller(&self, id: &str) {
        let mut callers = self.callers.lock().unwrap();
        if callers.last().is_none_or(|last| last != id) {
            callers.push(id.to_owned());
        }
    }

    async fn admit<T>(&self, request: Request<T>) -> Result<(String, T), Status> {
        let id = request.metadata().get("x-kvtier-client").and_then(|id| id.to_str().ok()).unwrap_or("").to_owned();
        self.note_caller(&id);
        self.peers.lock().unwrap().extend(request.remote_addr());
        match self.fault() {
            Fault::NeverAnswer => std::future::pending().await,
            Fault::Refuse(status) => Err(status()),
            _ => Ok((id, request.into_inner())),
        }
    }

    fn chain(&self, space: &[u8], keys: Vec<Vec<u8>>) -> Result<Vec<Address>, Status> {
        if self.part_bytes(space).is_none() {
            return Err(Status::not_found(format!("no space {space:02x?} is open; open it with OpenSpace")));
        }
        Ok(keys.into_iter().map(|key| (space.to_vec(), key)).collect())
    }

    fn prefix(&self, chain: &[Address]) -> Vec<(Address, Bytes)> {
        chain.iter().map_while(|address| Some((address.clone(), self.block(address)?))).collect()
    }
}

fn invalid(field: &str, value: &str, remedy: &str) -> Status {
    let mut details = ErrorDetails::with_bad_request_violation(field, format!("{value}: {remedy}"));
    let metadata = [("value".to_owned(), value.to_owned()), ("remedy".to_owned(), remedy.to_owned())];
    details.set_error_info("INVALID", "kvtier.v1", metadata);
    Status::with_error_details(tonic::Code::InvalidArgument, format!("{field} is {value}"), details)
}

fn vecs(keys: Vec<Bytes>) -> Vec<Vec<u8>> {
    keys.into_iter().map(Vec::from).collect()
}

fn never_stored() -> wire::Miss {
    wire::Miss {
        reason: wire::MissReason::NeverStored as i32,
        detail: "never stored as far as is remembered".into(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl KvTier for Service {
    async fn open_space(
        &self,
        request: Request<wire::OpenSpaceRequest>,
    ) -> Result<Response<wire::OpenSpaceResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let description = space::from_wire(request.description.unwrap_or_default());
        let digest = description.digest().map_err(|error| invalid(error.field, &error.value, error.rule))?;
        let mut spaces = self.spaces.lock().unwrap();
        let created = match spaces.get(&request.name) {
            Some(known) if *known != description => {
                return Err(Status::already_exists(format!("space {:?} has another description", request.name)));
            }
            Some(_) => false,
            None => spaces.insert(request.name, description).is_none(),
        };
        Ok(Response::new(wire::OpenSpaceResponse { space: digest.0.to_vec(), created }))
    }

    async fn list_spaces(
        &self,
        request: Request<wire::ListSpacesRequest>,
    ) -> Result<Response<wire::ListSpacesResponse>, Status> {
        self.admit(request).await?;
        let blocks = self.blocks.lock().unwrap();
        let spaces = self.spaces.lock().unwrap();
        let spaces = spaces.iter().map(|(name, description)| {
            let digest: SpaceDigest = description.digest().unwrap();
            let sizes = blocks.iter().filter(|((space, _), _)| *space == digest.0).map(|(_, bytes)| bytes.len() as u64);
            wire::Space {
                name: name.clone(),
                space: digest.0.to_vec(),
                description: Some(space::to_wire(description)),
                blocks: sizes.clone().count() as u64,
                bytes: sizes.sum(),
            }
        });
        Ok(Response::new(wire::ListSpacesResponse { spaces: spaces.collect() }))
    }

    async fn drop_space(
        &self,
        request: Request<wire::DropSpaceRequest>,
    ) -> Result<Response<wire::DropSpaceResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        self.chain(&request.space, Vec::new())?;
        self.spaces.lock().unwrap().retain(|_, known| known.digest().unwrap().0 != *request.space);
        let mut blocks = self.blocks.lock().unwrap();
        let before = blocks.len();
        blocks.retain(|(space, _), _| *space != request.space);
        Ok(Response::new(wire::DropSpaceResponse { blocks: (before - blocks.len()) as u64 }))
    }

    type PutStream = ReceiverStream<Result<wire::PutResponse, Status>>;

    async fn put(&self, request: Request<Streaming<wire::PutRequest>>) -> Result<Response<Self::PutStream>, Status> {
        let (_, mut frames) = self.admit(request).await?;
        let (outcomes, answers) = mpsc::channel(4);
        let store = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut current: Option<(wire::PutBegin, BytesMut)> = None;
            while let Ok(Some(frame)) = frames.message().await {
                if let Some(begin) = frame.begin {
                    current = Some((begin, BytesMut::new()));
                }
                let Some((begin, bytes)) = &mut current else { break };
                bytes.extend_from_slice(&frame.data);
                if (bytes.len() as u64) < begin.length || matches!(store.fault(), Fault::SwallowOutcomes) {
                    continue;
                }
                let (begin, bytes) = current.take().unwrap();
                let tag = begin.tag;
                let outcome = Some(store.accept(begin, bytes.freeze()));
                if outcomes.send(Ok(wire::PutResponse { tag, outcome })).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn lookup(&self, request: Request<wire::LookupRequest>) -> Result<Response<wire::LookupResponse>, Status> {
        let (client, request) = self.admit(request).await?;
        let keys = request.keys.len();
        let prefix = self.prefix(&self.chain(&request.space, vecs(request.keys))?);
        let resident =
            |bytes: &Bytes| wire::ResidentBlock { tier: wire::Tier::Host as i32, length: bytes.len() as u32 };
        let mut response = wire::LookupResponse {
            prefix: prefix.iter().map(|(_, bytes)| resident(bytes)).collect(),
            miss: (prefix.len() < keys).then(never_stored),
            ..Default::default()
        };
        if request.lease_ms.is_some() && !prefix.is_empty() {
            let mut leases = self.leases.lock().unwrap();
            let number = self.leases_granted.fetch_add(1, Ordering::SeqCst);
            response.lease = format!("lease {number}").into_bytes();
            response.lease_deadline_unix_ms = 1_900_000_000_000;
            leases.insert(response.lease.clone(), (client, prefix.into_iter().map(|(address, _)| address).collect()));
        }
        Ok(Response::new(response))
    }

    type GetStream = Answers<wire::GetResponse>;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let (client, request) = self.admit(request).await?;
        let chain = match request.from {
            Some(wire::get_request::From::Keys(list)) => self.chain(&list.space, vecs(list.keys))?,
            Some(wire::get_request::From::Lease(lease)) => {
                let leases = self.leases.lock().unwrap();
                let (owner, chain) = leases.get(&lease).ok_or_else(|| Status::not_found("no such lease"))?;
                if *owner != client {
                    return Err(Status::permission_denied("the lease is another client's"));
                }
                chain.clone()
            }
            None => return Err(invalid("from", "absent", "name a lease or keys")),
        };
        let first = request.first;
        let count = if request.count == 0 { chain.len() as u32 - first } else { request.count };
        let indices = (first..first + count).collect::<Vec<_>>();
        let messages = self.messages(&chain, &indices);
        let stall = matches!(self.fault(), Fault::StallAfterFirst);
        let counted = OpenGet::new(self);
        let stream = async_stream(messages, stall, counted);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn prefetch(
        &self,
        request: Request<wire::PrefetchRequest>,
    ) -> Result<Response<wire::PrefetchResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let resident = self.prefix(&self.chain(&request.space, request.keys)?).len() as u32;
        Ok(Response::new(wire::PrefetchResponse { resident, started: 0, refused: 0 }))
    }

    async fn pin(&self, request: Request<wire::PinRequest>) -> Result<Response<wire::PinResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        if request.name.is_empty() {
            return Err(invalid("name", "empty", "a pin's name has 1 to 128 bytes"));
        }
        let prefix = self.prefix(&self.chain(&request.space, request.keys)?);
        let blocks = prefix.len() as u32;
        self.pins.lock().unwrap().insert((request.space, request.name), blocks);
        let bytes = prefix.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        Ok(Response::new(wire::PinResponse { blocks, bytes, deadline_unix_ms: 1_900_000_000_000 }))
    }

    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let mut notes = self.notes.lock().unwrap();
        let what = request.outcome.map(wire::request_note::What::Outcome);
        notes.push((request.request, wire::RequestNote { at_unix_ms: 1, what }));
        Ok(Response::new(wire::ReportResponse {}))
    }

    async fn why(&self, request: Request<wire::WhyRequest>) -> Result<Response<wire::WhyResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let notes = self.notes.lock().unwrap();
        let notes = notes.iter().filter(|(name, _)| *name == request.request).map(|(_, note)| note.clone()).collect();
        Ok(Response::new(wire::WhyResponse { notes, ..Default::default() }))
    }

    async fn unpin(&self, request: Request<wire::UnpinRequest>) -> Result<Response<wire::UnpinResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let existed = self.pins.lock().unwrap().remove(&(request.space, request.name)).is_some();
        Ok(Response::new(wire::UnpinResponse { existed }))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ReleaseResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let lease = self.leases.lock().unwrap().remove(&request.lease);
        lease.ok_or_else(|| Status::not_found("no such lease"))?;
        Ok(Response::new(wire::ReleaseResponse {}))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteResponse>, Status> {
        let (_, request) = self.admit(request).await?;
        let chain = self.chain(&request.space, request.keys)?;
        let mut blocks = self.blocks.lock().unwrap();
        let deleted = chain.iter().filter(|address| blocks.remove(address).is_some()).count() as u32;
        Ok(Response::new(wire::DeleteResponse { deleted }))
    }

    type SubscribeStream = Answers<wire::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (_, request) = self.admit(request).await?;
        let epoch = *self.epoch.lock().unwrap();
        let mut log = self.events.subscribe();
        let seq = log.borrow().len() as u64;
        let (first, mut at) = match request.from {
            Some(wire::subscribe_request::From::After(position)) if position.epoch == epoch => (vec![], position.seq),
            Some(wire::subscribe_request::From::Tail(_)) => (vec![], seq),
            _ => (snapshot(epoch, &log.borrow()), seq),
        };
        let (batches, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            for event in first {
                let position = Some(wire::Position { epoch, seq });
                if batches.send(Ok(wire::SubscribeResponse { position, events: vec![event] })).await.is_err() {
                    return;
                }
            }
            loop {
                let events: Vec<_> = log.borrow_and_update().iter().skip(at as usize).cloned().collect();
                for event in events {
                    at += 1;
                    let position = Some(wire::Position { epoch, seq: at });
                    if batches.send(Ok(wire::SubscribeResponse { position, events: vec![event] })).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = log.changed() => if changed.is_err() { return },
                    () = batches.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        self.admit(request).await?;
        let blocks = self.blocks.lock().unwrap();
        let used_bytes = blocks.values().map(|bytes| bytes.len() as u64).sum();
        let host = wire::TierStatus {
            tier: wire::Tier::Host as i32,
            state: "up".into(),
            detail: "a map in a test".into(),
            capacity_bytes: 1 << 30,
            used_bytes,
            blocks: blocks.len() as u64,
            ..Default::default()
        };
        Ok(Response::new(wire::StatusResponse {
            version: "0.1.0-fake".into(),
            state: "serving".into(),
            uptime_ms: 61_000,
            position: Some(wire::Position {
                epoch: *self.epoch.lock().unwrap(),
                seq: self.events.borrow().len() as u64,
            }),
            tiers: vec![host],
            spaces: self.spaces.lock().unwrap().len() as u64,
            data_directory: "/tmp/fake".into(),
            ..Default::default()
        }))
    }

    type ScrubStream = Answers<wire::ScrubResponse>;

    async fn scrub(&self, request: Request<wire::ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        self.admit(request).await?;
        let total_blocks = self.blocks.lock().unwrap().len() as u64;
        let report =
            |verified_blocks, done| Ok(wire::ScrubResponse { verified_blocks, corrupt_blocks: 0, total_blocks, done });
        Ok(Response::new(Box::pin(tokio_stream::iter([report(0, false), report(total_blocks, true)]))))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainResponse>, Status> {
        self.admit(request).await?;
        Ok(Response::new(wire::DrainResponse { written_back_blocks: 3, abandoned_blocks: 0 }))
    }
}

/// A Reset, every stored block, and the end: all at the position the log has now.
fn snapshot(epoch: u64, log: &[wire::Event]) -> Vec<wire::Event> {
    let reset = wire::Reset { epoch, reason: "a snapshot was asked for, or the position is of another epoch".into() };
    let stored = log.iter().filter_map(|event| event.kind.clone());
    let kinds = [wire::event::Kind::Reset(reset)].into_iter().chain(stored);
    let kinds = kinds.chain([wire::event::Kind::SnapshotEnd(wire::SnapshotEnd {})]);
    kinds.map(|kind| wire::Event { kind: Some(kind) }).collect()
}

impl Store {
    fn messages(&self, chain: &[Address], indices: &[u32]) -> Vec<wire::GetResponse> {
        let mut messages = Vec::new();
        for &index in indices {
            let address = match self.fault() {
                Fault::Substitute => &chain[(index as usize + 1) % chain.len()],
                _ => &chain[index as usize],
            };
            match self.block(address) {
                Some(block) => self.frames(index, &block, &mut messages),
                None => messages
                    .push(wire::GetResponse { index, answer: Some(wire::get_response::Answer::Miss(never_stored())) }),
            }
        }
        match self.fault() {
            Fault::Truncate => messages.truncate(1),
            Fault::WrongOrder => messages.reverse(),
            _ => {}
        }
        messages
    }

    fn frames(&self, index: u32, block: &Bytes, messages: &mut Vec<wire::GetResponse>) {
        let mut sent = block.clone();
        let mut length = block.len() as u32;
        match self.fault() {
            Fault::FlipBit(at) if at == index => {
                let mut bytes = block.to_vec();
                bytes[block.len() / 2] ^= 1;
                sent = bytes.into();
            }
            Fault::WrongLength => length -= 1,
            _ => {}
        }
        let frame_bytes = *self.frame_bytes.lock().unwrap();
        let mut offset = 0;
        while !sent.is_empty() {
            let data = sent.split_to(sent.len().min(frame_bytes));
            let (next, tier) = (offset + data.len() as u32, wire::Tier::Host as i32);
            let frame = wire::BlockFrame { length, crc32: crc32fast::hash(block), offset, data, tier };
            messages.push(wire::GetResponse { index, answer: Some(wire::get_response::Answer::Frame(frame)) });
            offset = next;
        }
    }
}

/// Counts the Get streams that are open, so that a test can see a cancelled one end.
struct OpenGet(Arc<Store>);

impl OpenGet {
    fn new(store: &Arc<Store>) -> Self {
        store.open_gets.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(store))
    }
}

impl Drop for OpenGet {
    fn drop(&mut self) {
        self.0.open_gets.fetch_sub(1, Ordering::SeqCst);
    }
}

fn async_stream(
    messages: Vec<wire::GetResponse>,
    stall: bool,
    counted: OpenGet,
) -> impl Stream<Item = Result<wire::GetResponse, Status>> + Send {
    futures::stream::unfold((messages.into_iter(), 0, counted), move |(mut messages, sent, counted)| async move {
        if stall && sent == 1 {
            std::future::pending::<()>().await;
        }
        let message = messages.next()?;
        Some((Ok(message), (messages, sent + 1, counted)))
    })
}
