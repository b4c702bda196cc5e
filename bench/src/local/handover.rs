//! How long it takes to be told where a chain is: no byte of it is touched.
//!
//! In turns, a slice of the calls each: the raw socket with both ends spinning for 100 µs over rings and socket, the same without spinning, and the
//! same message over gRPC on the unix socket. The limit beside them is a word of memory handed to another thread and back:
//! nothing between two cores of this machine is faster, and what it shows at its worst is the machine's doing.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper_util::rt::TokioIo;
use kvtier_client::local::AcquireChain;
use kvtier_client::{LocalClient, LocalOptions};
use kvtier_proto::local::ATTACHMENT_HEADER;
use kvtier_proto::v1;
use kvtier_proto::v1::local_client::LocalClient as GrpcLocal;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::{Failure, Node, keys, put};
use crate::grpc::drive::Target;

const CHAINS: [usize; 3] = [1, 64, 1000];
const SLICES: usize = 10;

/// Markdown.
pub(super) fn table(node: &Node, folder: &Path, calls: usize) -> Result<String, Failure> {
    let settings = ["host.bytes=256MiB", "nvme.enabled=false", "local.spin=0s", "log.level=warn"];
    let sleeping = Node::start(&folder.join("sleeping"), &settings)?;
    sleeping.daemon.settle(256 << 20)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut table =
        String::from("| acquire a resident chain of | over | p50 µs | p99 µs | p99.9 µs |\n|--:|---|--:|--:|--:|\n");
    for blocks in CHAINS {
        let chain = keys(&format!("hand{blocks}"), blocks);
        for node in [node, &sleeping] {
            put(&node.writer()?, node.space, &chain, 4096, |block| block.fill(1))?;
        }
        let spinning = node.writer()?;
        let quiet = LocalOptions { spin: Duration::ZERO, ..LocalOptions::writer("bench", "bench") };
        let quiet = sleeping.attach(quiet)?;
        let mut grpc = runtime.block_on(Grpc::connect(node, &spinning, &chain))?;
        let mut histograms = [(); 4].map(|()| Histogram::<u64>::new_with_bounds(100, 10_000_000_000, 3));
        let echo = Echo::start();
        for _ in 0..SLICES {
            let count = calls / SLICES;
            let [socket, no_spin, over_grpc, limit] = &mut histograms;
            sample(count, socket.as_mut().map_err(|error| error.to_string())?, || acquire(&spinning, node, &chain))?;
            sample(count, no_spin.as_mut().map_err(|error| error.to_string())?, || acquire(&quiet, &sleeping, &chain))?;
            sample(count / 4, over_grpc.as_mut().map_err(|error| error.to_string())?, || {
                runtime.block_on(grpc.acquire())
            })?;
            let limit = limit.as_mut().map_err(|error| error.to_string())?;
            echo.wake();
            sample(count, limit, || {
                echo.round_trip();
                Ok(())
            })?;
            echo.sleep();
        }
        let names = ["ring, spinning", "ring, sleeping", "gRPC, unix socket", "limit: a word to a thread and back"];
        for (name, histogram) in names.into_iter().zip(histograms) {
            let histogram = histogram?;
            let at = |percentile| histogram.value_at_percentile(percentile) as f64 / 1000.0;
            writeln!(table, "| {blocks} | {name} | {:.2} | {:.1} | {:.1} |", at(50.0), at(99.0), at(99.9))?;
        }
    }
    Ok(table)
}

/// Between two calls: the daemon has done with the release of the last one.
const THINK: Duration = Duration::from_micros(30);

/// Times single calls. What they return is dropped outside.
fn sample<T>(
    count: usize,
    histogram: &mut Histogram<u64>,
    mut call: impl FnMut() -> Result<T, Failure>,
) -> Result<(), Failure> {
    for _ in 0..count {
        let started = Instant::now();
        let answer = call()?;
        histogram.record(u64::try_from(started.elapsed().as_nanos())?)?;
        drop(answer);
        let released = Instant::now();
        while released.elapsed() < THINK {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

fn acquire(client: &LocalClient, node: &Node, chain: &[Bytes]) -> Result<impl Drop + use<>, Failure> {
    let acquired = client.acquire(&AcquireChain::new(node.space, chain))?;
    if acquired.len() == chain.len() { Ok(acquired) } else { Err("a block is missing".into()) }
}

/// A thread that gives back the word it is given.
struct Echo {
    word: Arc<[AtomicU64; 2]>,
    thread: JoinHandle<()>,
}

const ASLEEP: u64 = 0;
const OVER: u64 = u64::MAX;

impl Echo {
    fn start() -> Self {
        let word = Arc::new([AtomicU64::new(ASLEEP), AtomicU64::new(ASLEEP)]);
        let theirs = Arc::clone(&word);
        let thread = std::thread::spawn(move || {
            loop {
                match theirs[0].load(Ordering::Acquire) {
                    OVER => return,
                    ASLEEP => std::thread::park(),
                    given => theirs[1].store(given, Ordering::Release),
                }
                std::hint::spin_loop();
            }
        });
        Self { word, thread }
    }

    /// It looks for a word from now on.
    fn wake(&self) {
        self.word[0].store(1, Ordering::Release);
        self.thread.thread().unpark();
    }

    fn sleep(&self) {
        self.word[0].store(ASLEEP, Ordering::Release);
    }

    fn round_trip(&self) {
        let next = self.word[1].load(Ordering::Relaxed) + 1;
        self.word[0].store(next, Ordering::Release);
        while self.word[1].load(Ordering::Acquire) != next {
            std::hint::spin_loop();
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.word[0].store(OVER, Ordering::Release);
        self.thread.thread().unpark();
    }
}

/// The same call as a gRPC message.
struct Grpc {
    client: GrpcLocal<Channel>,
    attachment: String,
    request: v1::AcquireRequest,
}

impl Grpc {
    async fn connect(node: &Node, attached: &LocalClient, chain: &[Bytes]) -> Result<Self, Failure> {
        let Target::Unix(socket) = node.daemon.unix() else { return Err("a daemon has a unix socket".into()) };
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
        let request = v1::AcquireRequest {
            space: node.space.0.to_vec(),
            keys: chain.concat(),
            key_bytes: 32,
            lease_ms: 10_000,
            ..v1::AcquireRequest::default()
        };
        Ok(Self { client: GrpcLocal::new(channel), attachment: attached.attachment()?, request })
    }

    async fn acquire(&mut self) -> Result<(), Failure> {
        let named = |message| -> Result<_, Failure> {
            let mut request = tonic::Request::new(message);
            request.metadata_mut().insert(ATTACHMENT_HEADER, self.attachment.parse()?);
            Ok(request)
        };
        let answer = self.client.acquire(named(self.request.clone())?).await?.into_inner();
        let mut request = tonic::Request::new(v1::ReleaseLeasesRequest { leases: vec![answer.lease] });
        request.metadata_mut().insert(ATTACHMENT_HEADER, self.attachment.parse()?);
        self.client.release_leases(request).await?;
        Ok(())
    }
}
