//! The client side, the same for every gRPC contestant.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use kvtier_proto::tuning;
use kvtier_proto::v1::kv_tier_client::KvTierClient;
use kvtier_proto::v1::{self, get_request, get_response, put_response};
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

type Failure = Box<dyn Error>;

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Target {
    /// `http://127.0.0.1:port`
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// One connection and the space it puts to.
#[derive(Debug, Clone)]
pub struct Driver {
    client: KvTierClient<Channel>,
    space: Vec<u8>,
    next_key: u64,
}

/// What the blocks of one run look like.
#[derive(Debug, Clone)]
pub struct Load {
    /// Payload of every block.
    pub block: Bytes,
    /// Blocks per run.
    pub count: usize,
    /// Payload bytes in one message of a put.
    pub message_bytes: usize,
}

impl Driver {
    /// Connects, tuned, and opens a space of one part of `block_bytes`.
    pub async fn connect(target: &Target, block_bytes: u32) -> Result<Self, Failure> {
        let mut client = KvTierClient::new(channel(target).await?)
            .max_decoding_message_size(tuning::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(tuning::MESSAGE_BYTES_MAX);
        let description = v1::SpaceDescription {
            tenant: "bench".into(),
            model: format!("bench-{block_bytes}"),
            tokens_per_block: 16,
            part_bytes: vec![block_bytes],
            ..v1::SpaceDescription::default()
        };
        let request = v1::OpenSpaceRequest { name: format!("bench-{block_bytes}"), description: Some(description) };
        let space = client.open_space(request).await?.into_inner().space;
        Ok(Self { client, space, next_key: 0 })
    }

    /// Puts fresh blocks, all on one stream; returns bytes per second. Every outcome must be STORED.
    pub async fn put(&mut self, load: &Load) -> Result<f64, Failure> {
        self.next_key += load.count as u64;
        self.put_keys(load, self.next_key - load.count as u64, v1::Durability::Volatile).await
    }

    /// Reserves `count` fresh keys; returns the first.
    pub fn claim(&mut self, count: usize) -> u64 {
        self.next_key += count as u64;
        self.next_key - count as u64
    }

    /// Blocks stored on NVMe since the daemon started.
    pub async fn nvme_stores(&mut self) -> Result<u64, Failure> {
        let status = self.client.status(v1::StatusRequest {}).await?.into_inner();
        let nvme = status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Nvme);
        Ok(nvme.ok_or("the daemon has no NVMe tier")?.stores)
    }

    /// Whether the RAM index still fills.
    pub async fn is_filling(&mut self) -> Result<bool, Failure> {
        let status = self.client.status(v1::StatusRequest {}).await?.into_inner();
        Ok(status.index.ok_or("the daemon does not tell about its index")?.filling)
    }

    /// Puts blocks under the keys `first..first + count` with at most `window` unanswered.
    pub async fn put_window(
        &mut self,
        load: &Load,
        first: u64,
        durability: v1::Durability,
        window: usize,
    ) -> Result<f64, Failure> {
        let started = Instant::now();
        let (sender, receiver) = tokio::sync::mpsc::channel(window.max(1) * 4);
        let answers = self.client.put(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let mut next = 0;
        let mut send = async |upto: usize| {
            while next < upto.min(load.count) {
                let number = next as u64;
                for message in messages(&self.space, load, first + number, number, durability) {
                    sender.send(message).await.map_err(|_| "the put stream ended early")?;
                }
                next += 1;
            }
            Ok::<(), Failure>(())
        };
        let (sent, answers) = futures::join!(send(window), answers);
        sent?;
        let mut answers = answers?.into_inner();
        for done in 0..load.count {
            match answers.next().await.ok_or("the put stream ended early")??.outcome {
                Some(put_response::Outcome::Stored(_)) => send(done + 1 + window).await?,
                other => return Err(format!("a put was answered {other:?}").into()),
            }
        }
        Ok(rate(load, started))
    }

    /// The key after the newest block put.
    pub fn newest(&self) -> u64 {
        self.next_key
    }

    /// Puts blocks under the keys `first..first + count`.
    pub async fn put_keys(&mut self, load: &Load, first: u64, durability: v1::Durability) -> Result<f64, Failure> {
        let started = Instant::now();
        let (space, load_, count) = (self.space.clone(), load.clone(), load.count as u64);
        let requests = (0..count).flat_map(move |number| messages(&space, &load_, first + number, number, durability));
        let mut answers = self.client.put(tokio_stream::iter(requests)).await?.into_inner();
        let mut stored = 0;
        while let Some(answer) = answers.next().await {
            match answer?.outcome {
                Some(put_response::Outcome::Stored(_)) => stored += 1,
                other => return Err(format!("a put was answered {other:?}").into()),
            }
        }
        if stored != count {
            return Err(format!("{stored} of {count} blocks were answered").into());
        }
        Ok(rate(load, started))
    }

    /// Gets the blocks under the keys `first..first + count` on one stream, every byte summed.
    pub async fn get_keys(&mut self, load: &Load, first: u64) -> Result<f64, Failure> {
        let started = Instant::now();
        let keys = (0..load.count as u64).map(|number| Bytes::copy_from_slice(&key(first + number))).collect();
        let keys = v1::KeyList { space: self.space.clone(), keys };
        let request = v1::GetRequest { from: Some(get_request::From::Keys(keys)), first: 0, count: 0 };
        let mut answers = self.client.get(request).await?.into_inner();
        let (mut bytes, mut crc) = (0, crc32fast::Hasher::new());
        while let Some(answer) = answers.next().await {
            match answer?.answer {
                Some(get_response::Answer::Frame(frame)) => {
                    bytes += frame.data.len();
                    crc.update(&frame.data);
                    if frame.offset as usize + frame.data.len() == frame.length as usize
                        && std::mem::take(&mut crc).finalize() != frame.crc32
                    {
                        return Err("a block arrived with other bytes than its checksum says".into());
                    }
                }
                other => return Err(format!("a get was answered {other:?}").into()),
            }
        }
        if bytes != load.block.len() * load.count {
            return Err(format!("{bytes} bytes arrived").into());
        }
        Ok(rate(load, started))
    }
}

fn rate(load: &Load, started: Instant) -> f64 {
    (load.block.len() * load.count) as f64 / started.elapsed().as_secs_f64() / 1e9
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn messages(space: &[u8], load: &Load, name: u64, tag: u64, durability: v1::Durability) -> Vec<v1::PutRequest> {
    let (block, step) = (&load.block, load.message_bytes.clamp(1, tuning::DATA_BYTES_MAX));
    let begin = v1::PutBegin {
        tag,
        space: space.to_vec(),
        key: key(name).to_vec(),
        parent: None,
        part: 0,
        length: block.len() as u64,
        crc32: None,
        durability: durability.into(),
    };
    let mut begin = Some(begin);
    let frame = |offset: usize| block.slice(offset..block.len().min(offset + step));
    let offsets = (0..block.len()).step_by(step);
    offsets.map(|offset| v1::PutRequest { begin: begin.take(), data: frame(offset) }).collect()
}

async fn channel(target: &Target) -> Result<Channel, Failure> {
    let tuned = |endpoint: Endpoint| {
        endpoint
            .initial_stream_window_size(tuning::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(tuning::CONNECTION_WINDOW_BYTES)
            .buffer_size(tuning::CLIENT_BUFFER_COUNT)
            .tcp_nodelay(true)
    };
    match target {
        Target::Tcp(uri) => Ok(tuned(Endpoint::try_from(uri.clone())?).connect().await?),
        Target::Unix(path) => {
            let path = path.clone();
            let connect = tower::service_fn(move |_: tonic::transport::Uri| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            });
            Ok(tuned(Endpoint::from_static("http://unix")).connect_with_connector(connect).await?)
        }
    }
}
