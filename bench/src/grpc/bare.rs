//! The bare server: tonic, the same messages, the same tuning, no storage. Or the least that storing can cost: every byte
//! copied once into memory that was touched before, and summed.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::Stream;
use kvtier_proto::tuning;
use kvtier_proto::v1::kv_tier_server::{KvTier, KvTierServer};
use kvtier_proto::v1::{self, get_response, put_response};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

/// Answers puts and gets without storing anything.
#[derive(Debug, Clone)]
pub struct Bare {
    block: Bytes,
    crc: u32,
    kept: Option<Arc<Mutex<Kept>>>,
    /// Where gets read from: one block over and over, which stays in the cache, or as much memory as a daemon has.
    pool: Bytes,
}

/// Memory that puts are copied into, round and round.
#[derive(Debug)]
struct Kept {
    memory: Vec<u8>,
    at: usize,
}

impl Kept {
    /// Copies and sums in pieces that fit the cache, as the arena does.
    fn take(&mut self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for chunk in bytes.chunks(COPY_CHUNK_BYTES) {
            if self.at + chunk.len() > self.memory.len() {
                self.at = 0;
            }
            let to = &mut self.memory[self.at..self.at + chunk.len()];
            to.copy_from_slice(chunk);
            crc.update(to);
            self.at += chunk.len();
        }
        crc.finalize()
    }
}

const COPY_CHUNK_BYTES: usize = 256 << 10;

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Bare {
    /// A server whose gets send `block`.
    pub fn new(block: Bytes) -> Self {
        let crc = crc32fast::hash(&block);
        Self { pool: block.clone(), block, crc, kept: None }
    }

    /// The same, which copies the bytes of every put into memory of this size, and sends each block of a get from another
    /// place of so much memory.
    pub fn keeping(block: Bytes, kept_bytes: usize) -> Self {
        let memory = vec![1; kept_bytes.max(COPY_CHUNK_BYTES)];
        let pool = Bytes::from(block.repeat((kept_bytes / block.len().max(1)).max(1)));
        Self { kept: Some(Arc::new(Mutex::new(Kept { memory, at: 0 }))), pool, ..Self::new(block) }
    }

    /// What the n-th block of a get is sent from.
    fn block_at(&self, index: usize) -> Bytes {
        let first = index * self.block.len() % self.pool.len();
        self.pool.slice(first..first + self.block.len())
    }

    /// The tuned service, ready to be served.
    pub fn into_service(self) -> KvTierServer<Self> {
        KvTierServer::new(self)
            .max_decoding_message_size(tuning::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(tuning::MESSAGE_BYTES_MAX)
    }
}

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("the bare server only answers open, put and get"))
}

#[tonic::async_trait]
impl KvTier for Bare {
    type PutStream = BoxStream<v1::PutResponse>;
    type GetStream = BoxStream<v1::GetResponse>;
    type SubscribeStream = BoxStream<v1::SubscribeResponse>;
    type ScrubStream = BoxStream<v1::ScrubResponse>;

    async fn open_space(&self, _: Request<v1::OpenSpaceRequest>) -> Answer<v1::OpenSpaceResponse> {
        Ok(Response::new(v1::OpenSpaceResponse { space: vec![0; 32], created: true }))
    }

    async fn put(&self, request: Request<Streaming<v1::PutRequest>>) -> Answer<Self::PutStream> {
        let mut tag = 0;
        let mut missing = 0;
        let kept = self.kept.clone();
        let answers = request.into_inner().filter_map(move |message| {
            let message = match message {
                Ok(message) => message,
                Err(status) => return Some(Err(status)),
            };
            if let Some(begin) = message.begin {
                (tag, missing) = (begin.tag, begin.length);
            }
            missing -= message.data.len() as u64;
            let keep = |kept: &Arc<Mutex<Kept>>| kept.lock().expect("nobody panics while copying").take(&message.data);
            let crc32 = kept.as_ref().map_or(0, keep);
            let stored = v1::Stored { crc32, durability: v1::Durability::Volatile.into() };
            let outcome = Some(put_response::Outcome::Stored(stored));
            (missing == 0).then_some(Ok(v1::PutResponse { tag, outcome }))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<Self::GetStream> {
        let count = match request.into_inner().from {
            Some(v1::get_request::From::Keys(list)) => list.keys.len(),
            _ => return Err(Status::invalid_argument("the bare server gets by keys")),
        };
        let (bare, crc) = (self.clone(), self.crc);
        let frames = (0..count).flat_map(move |index| {
            let block = bare.block_at(index);
            (0..block.len()).step_by(tuning::DATA_BYTES_MAX).map(move |offset| {
                let end = block.len().min(offset + tuning::DATA_BYTES_MAX);
                let frame = v1::BlockFrame {
                    length: block.len() as u32,
                    crc32: crc,
                    offset: offset as u32,
                    data: block.slice(offset..end),
                    tier: v1::Tier::Host.into(),
                };
                Ok(v1::GetResponse { index: index as u32, answer: Some(get_response::Answer::Frame(frame)) })
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(frames))))
    }

    async fn list_spaces(&self, _: Request<v1::ListSpacesRequest>) -> Answer<v1::ListSpacesResponse> {
        absent()
    }
    async fn drop_space(&self, _: Request<v1::DropSpaceRequest>) -> Answer<v1::DropSpaceResponse> {
        absent()
    }
    async fn lookup(&self, _: Request<v1::LookupRequest>) -> Answer<v1::LookupResponse> {
        absent()
    }
    async fn prefetch(&self, _: Request<v1::PrefetchRequest>) -> Answer<v1::PrefetchResponse> {
        absent()
    }
    async fn pin(&self, _: Request<v1::PinRequest>) -> Answer<v1::PinResponse> {
        absent()
    }
    async fn unpin(&self, _: Request<v1::UnpinRequest>) -> Answer<v1::UnpinResponse> {
        absent()
    }
    async fn report(&self, _: Request<v1::ReportRequest>) -> Answer<v1::ReportResponse> {
        absent()
    }
    async fn why(&self, _: Request<v1::WhyRequest>) -> Answer<v1::WhyResponse> {
        absent()
    }
    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        absent()
    }
    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        absent()
    }
    async fn subscribe(&self, _: Request<v1::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        absent()
    }
    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        absent()
    }
    async fn scrub(&self, _: Request<v1::ScrubRequest>) -> Answer<Self::ScrubStream> {
        absent()
    }
    async fn drain(&self, _: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        absent()
    }
}
