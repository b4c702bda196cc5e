//! The generated client, connected and with a word or two for what tests do all the time.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use kvtier_proto::v1::kv_tier_client::KvTierClient;
use kvtier_proto::{tuning, v1};
use tokio::net::UnixStream;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use v1::get_response::Answer;
use v1::put_response::Outcome;

use crate::Block;
use crate::daemon::Endpoints;

/// The generated client.
pub type Client = KvTierClient<Channel>;
/// Longest wait for one answer of a daemon that works.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connected client.
#[derive(Clone)]
pub struct Wire {
    /// The generated client, for everything that has no word here.
    pub client: Client,
    /// Its connection, for other services of the daemon.
    pub channel: Channel,
    /// Sent as `x-kvtier-client`.
    pub name: Option<&'static str>,
}

/// One block of a get.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    /// Its bytes, checksum and the tier it was found in.
    Block(Bytes, v1::Tier),
    /// Why it is not there.
    Miss(v1::Miss),
}

/// Fails instead of waiting for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?}"))
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(tuning::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(tuning::CONNECTION_WINDOW_BYTES)
}

impl Wire {
    /// Connects over TCP.
    pub async fn tcp(endpoints: &Endpoints) -> Self {
        let address = endpoints.tcp.expect("the daemon listens on TCP");
        let endpoint = tuned(Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI"));
        let channel = within("connecting", endpoint.connect()).await.expect("a serving daemon takes connections");
        Self::over(channel)
    }

    /// Connects over the unix socket.
    pub async fn unix(endpoints: &Endpoints) -> Self {
        let path: PathBuf = endpoints.unix.clone().expect("the daemon listens on a unix socket");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = tuned(Endpoint::from_static("http://localhost"));
        let channel = within("connecting", endpoint.connect_with_connector(connector)).await;
        Self::over(channel.expect("a serving daemon takes connections"))
    }

    fn over(channel: Channel) -> Self {
        let client = Client::new(channel.clone())
            .max_decoding_message_size(tuning::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(64 << 20);
        Self { client, channel, name: None }
    }

    /// The same connection under a client name.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Wraps a message, with the client's name if it has one.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(name) = self.name {
            request.metadata_mut().insert("x-kvtier-client", name.parse().expect("a test's name is a header value"));
        }
        request
    }

    /// Opens a space of one part with blocks of at most `bytes` bytes.
    pub async fn open_space(&mut self, name: &str, bytes: u32) -> Vec<u8> {
        self.open_space_of(name, description(name, &[bytes])).await.expect("the space is good").space
    }

    /// Opens a space.
    pub async fn open_space_of(
        &mut self,
        name: &str,
        description: v1::SpaceDescription,
    ) -> Result<v1::OpenSpaceResponse, Status> {
        let request = v1::OpenSpaceRequest { name: name.to_owned(), description: Some(description) };
        within("open_space", self.client.open_space(request)).await.map(tonic::Response::into_inner)
    }

    /// Sends messages on one put stream and collects the answers.
    pub async fn put_raw(&mut self, messages: Vec<v1::PutRequest>) -> Result<Vec<v1::PutResponse>, Status> {
        let request = self.request(tokio_stream::iter(messages));
        within("put", async {
            let mut answers = self.client.put(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.message().await? {
                all.push(answer);
            }
            Ok(all)
        })
        .await
    }

    /// Puts blocks, tagged with their place, and returns the outcomes in that order.
    pub async fn put(&mut self, space: &[u8], blocks: &[Block], durability: v1::Durability) -> Vec<Outcome> {
        let messages = blocks.iter().enumerate().flat_map(|(tag, block)| whole(space, tag as u64, block, durability));
        let mut answers = self.put_raw(messages.collect()).await.expect("puts are answered under their tags");
        answers.sort_by_key(|answer| answer.tag);
        assert_eq!(answers.len(), blocks.len(), "every block is answered once: {answers:?}");
        answers.into_iter().map(|answer| answer.outcome.expect("an answer has an outcome")).collect()
    }

    /// Puts blocks and fails unless all are stored.
    pub async fn store(&mut self, space: &[u8], blocks: &[Block], durability: v1::Durability) {
        for (outcome, block) in self.put(space, blocks, durability).await.into_iter().zip(blocks) {
            match outcome {
                Outcome::Stored(stored) => assert_eq!(stored.crc32, block.crc(), "checksum of {:?}", block.key),
                other => panic!("{:?} was not stored: {other:?}", block.key),
            }
        }
    }

    /// Looks a chain up.
    pub async fn lookup(
        &mut self,
        space: &[u8],
        keys: &[Bytes],
        lease_ms: Option<u32>,
    ) -> Result<v1::LookupResponse, Status> {
        let request = self.request(v1::LookupRequest {
            space: space.to_vec(),
            keys: keys.to_vec(),
            lease_ms,
            ..Default::default()
        });
        within("lookup", self.client.lookup(request)).await.map(tonic::Response::into_inner)
    }

    /// Length of the resident prefix.
    pub async fn resident(&mut self, space: &[u8], keys: &[Bytes]) -> usize {
        self.lookup(space, keys, None).await.expect("a lookup of good keys is answered").prefix.len()
    }

    /// Gets blocks by key.
    pub async fn get_keys(&mut self, space: &[u8], keys: &[Bytes]) -> Result<Vec<Got>, Status> {
        let list = v1::KeyList { space: space.to_vec(), keys: keys.to_vec() };
        self.get(v1::get_request::From::Keys(list)).await
    }

    /// Gets all blocks of a lease.
    pub async fn get_lease(&mut self, lease: &[u8]) -> Result<Vec<Got>, Status> {
        self.get(v1::get_request::From::Lease(lease.to_vec())).await
    }

    async fn get(&mut self, from: v1::get_request::From) -> Result<Vec<Got>, Status> {
        let request = self.request(v1::GetRequest { from: Some(from), first: 0, count: 0 });
        within("get", async {
            let mut answers = self.client.get(request).await?.into_inner();
            let mut all: Vec<Got> = Vec::new();
            let mut open: Vec<u8> = Vec::new();
            while let Some(answer) = answers.next().await {
                let answer = answer?;
                assert_eq!(answer.index as usize, all.len(), "blocks come in order");
                match answer.answer.expect("an answer holds something") {
                    Answer::Miss(miss) => all.push(Got::Miss(miss)),
                    Answer::Frame(frame) => all.extend(gather(&mut open, frame)),
                }
            }
            assert!(open.is_empty(), "the stream ended inside a block");
            Ok(all)
        })
        .await
    }

    /// Gets blocks by key and fails unless all come, with the right bytes; returns their tiers.
    pub async fn expect_blocks(&mut self, space: &[u8], blocks: &[Block]) -> Vec<v1::Tier> {
        if blocks.is_empty() {
            return Vec::new();
        }
        let got = self.get_keys(space, &crate::block::keys(blocks)).await.expect("a get of good keys is answered");
        assert_eq!(got.len(), blocks.len(), "every key is answered");
        let right = |(got, block): (Got, &Block)| match got {
            Got::Block(bytes, tier) => {
                assert!(bytes == block.payload, "wrong bytes for {:?}", block.key);
                tier
            }
            Got::Miss(miss) => panic!("{:?} missed: {miss:?}", block.key),
        };
        got.into_iter().zip(blocks).map(right).collect()
    }

    /// The node's status.
    pub async fn status(&mut self) -> v1::StatusResponse {
        within("status", self.client.status(v1::StatusRequest {})).await.expect("status is answered").into_inner()
    }

    /// Asks for the status until it is as wanted.
    pub async fn status_until(
        &mut self,
        what: &str,
        wanted: impl Fn(&v1::StatusResponse) -> bool,
    ) -> v1::StatusResponse {
        within(what, async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                breathe().await;
            }
        })
        .await
    }
}

/// A pause between two questions of a poll that is bounded elsewhere.
#[expect(clippy::disallowed_methods, reason = "polling a real process needs a pause; the caller bounds it")]
pub async fn breathe() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Adds a frame; the block once it is complete and its checksum agrees.
fn gather(open: &mut Vec<u8>, frame: v1::BlockFrame) -> Option<Got> {
    assert_eq!(frame.offset as usize, open.len(), "frames come in order");
    assert!(frame.data.len() <= tuning::DATA_BYTES_MAX, "a frame of {} bytes", frame.data.len());
    open.extend_from_slice(&frame.data);
    if open.len() < frame.length as usize {
        return None;
    }
    let bytes = Bytes::from(std::mem::take(open));
    assert_eq!(crc32fast::hash(&bytes), frame.crc32, "the checksum on the wire is the block's");
    Some(Got::Block(bytes, frame.tier()))
}

/// The description of a test's space.
pub fn description(model: &str, part_bytes: &[u32]) -> v1::SpaceDescription {
    v1::SpaceDescription {
        tenant: "test".to_owned(),
        model: model.to_owned(),
        tokens_per_block: 16,
        part_bytes: part_bytes.to_vec(),
        ..v1::SpaceDescription::default()
    }
}

/// The message that announces a block.
pub fn begin(space: &[u8], tag: u64, block: &Block, durability: v1::Durability) -> v1::PutBegin {
    v1::PutBegin {
        tag,
        space: space.to_vec(),
        key: block.key.to_vec(),
        parent: block.parent.as_ref().map(|parent| parent.to_vec()),
        part: 0,
        length: block.payload.len() as u64,
        crc32: Some(block.crc()),
        durability: durability.into(),
    }
}

/// A block's messages: begin with the first bytes, then the rest.
pub fn whole(space: &[u8], tag: u64, block: &Block, durability: v1::Durability) -> Vec<v1::PutRequest> {
    let frames = block.payload.chunks(1 << 20).map(|frame| block.payload.slice_ref(frame));
    let mut messages: Vec<_> = frames.map(|data| v1::PutRequest { begin: None, data }).collect();
    if messages.is_empty() {
        messages.push(v1::PutRequest::default());
    }
    messages[0].begin = Some(begin(space, tag, block, durability));
    messages
}
