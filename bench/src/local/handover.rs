//! How long it takes to be told where a chain is: no byte of it is touched.
//!
//! In turns, a slice of the calls each: the raw socket with both ends spinning for 100 µs over rings and socket, the same without spinning, and the
//! same message over gRPC on the unix socket.

use std::fmt::Write;
use std::path::Path;
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
        let mut histograms = [(); 3].map(|()| Histogram::<u64>::new_with_bounds(100, 10_000_000_000, 3));
        for _ in 0..SLICES {
            let count = calls / SLICES;
            let [socket, no_spin, over_grpc] = &mut histograms;
            sample(count, socket.as_mut().map_err(|error| error.to_string())?, || acquire(&spinning, node, &chain))?;
            sample(count, no_spin.as_mut().map_err(|error| error.to_string())?, || acquire(&quiet, &sleeping, &chain))?;
            sample(count / 4, over_grpc.as_mut().map_err(|error| error.to_string())?, || {
                runtime.block_on(grpc.acquire())
            })?;
        }
        let names = ["raw socket, spinning", "raw socket, sleeping", "gRPC, unix socket"];
        for (name, histogram) in names.into_iter().zip(histograms) {
            let histogram = histogram?;
            let at = |percentile| histogram.value_at_percentile(percentile) as f64 / 1000.0;
            writeln!(table, "| {blocks} | {name} | {:.1} | {:.1} | {:.1} |", at(50.0), at(99.0), at(99.9))?;
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
