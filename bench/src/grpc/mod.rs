//! What gRPC costs: kvtierd against a bare tonic stream of the same messages, and against Redis.
//!
//! The bare server speaks the same `kvtier.v1` messages and does nothing with them: puts are counted and thrown away, gets
//! send one block over and over. Client code, messages, tuning and process layout are the same, so that the ratio is
//! what kvtierd's work costs. A second bare server copies every byte into memory and sums it: a put that is kept and
//! checksummed cannot be faster than that; its gets read as much memory as ours do, where the bare one's stay in the cache.

mod bare;
pub(crate) mod drive;
mod rival;

use std::cell::RefCell;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use kvtier_proto::tuning;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

use crate::contest::{Contest, Standing};
use crate::daemon::Daemon;
use crate::process::{Process, free_port};
use crate::report::{self, Facts};
use drive::{Driver, Load, Target};
use rival::Redis;

type Failure = Box<dyn Error>;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Block size in bytes.
    #[arg(long, default_value_t = 1 << 20)]
    block_bytes: u32,
    /// Blocks per run.
    #[arg(long, default_value_t = 512)]
    blocks: usize,
    /// Payload bytes in one message of a put.
    #[arg(long, default_value_t = 1 << 20)]
    message_bytes: usize,
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Write the table here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

struct Servers {
    kvtierd: Daemon,
    _processes: [Process; 3],
    bare: [Target; 2],
    keeping: [Target; 2],
    redis: [String; 2],
}

/// Runs the contest.
pub fn run(options: &Options) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let servers = Servers::start(folder.path(), options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut standings = Vec::new();
    for (socket, name) in [(0, "tcp"), (1, "unix")] {
        standings.extend(compare(&runtime, &servers, socket, name, options)?);
    }
    let notes = "Host tier only (`nvme.enabled = false`); one client thread, one stream; every byte of a get is summed by the client.";
    report::publish("gRPC put and get", notes, &Facts::read(options.rounds), &standings, options.out.as_deref())
}

fn compare(
    runtime: &Runtime,
    servers: &Servers,
    socket: usize,
    name: &str,
    options: &Options,
) -> Result<Vec<Standing>, Failure> {
    let connect = |target: &Target| runtime.block_on(Driver::connect(target, options.block_bytes));
    let ours = [servers.kvtierd.tcp(), servers.kvtierd.unix()];
    let kvtier = RefCell::new(connect(&ours[socket])?);
    let bare = RefCell::new(connect(&servers.bare[socket])?);
    let keeping = RefCell::new(connect(&servers.keeping[socket])?);
    let redis = RefCell::new(Redis::connect(&servers.redis[socket])?);
    let block: Vec<u8> = (0..options.block_bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let load = Load { block: block.into(), count: options.blocks, message_bytes: options.message_bytes };
    let size = options.block_bytes >> 10;
    let put = Contest::new(format!("put {size} KiB, {name}"), "GB/s")
        .entry("kvtier", || runtime.block_on(kvtier.borrow_mut().put(&load)))
        .entry("bare tonic", || runtime.block_on(bare.borrow_mut().put(&load)))
        .entry("bare tonic, one copy and CRC32", || runtime.block_on(keeping.borrow_mut().put(&load)))
        .entry("redis pipelined", || redis.borrow_mut().put(&load.block, 0, load.count))
        .run(options.rounds)?;
    let newest = kvtier.borrow().newest() - load.count as u64;
    let get = Contest::new(format!("get {size} KiB, {name}"), "GB/s")
        .entry("kvtier", || runtime.block_on(kvtier.borrow_mut().get_keys(&load, newest)))
        .entry("bare tonic", || runtime.block_on(bare.borrow_mut().get_keys(&load, 0)))
        .entry("bare tonic, from as much memory", || runtime.block_on(keeping.borrow_mut().get_keys(&load, 0)))
        .entry("redis pipelined", || redis.borrow_mut().get(&load.block, 0, load.count))
        .run(options.rounds)?;
    Ok(vec![put, get])
}

impl Servers {
    fn start(folder: &Path, options: &Options) -> Result<Self, Failure> {
        let bytes = u64::from(options.block_bytes) * options.blocks as u64;
        // Room for two runs: the newest stays resident while the next evicts the oldest.
        let host_bytes = (bytes * 5 / 2).next_multiple_of(64 << 20);
        let kvtierd = Daemon::start(folder, &[format!("host.bytes={host_bytes}B"), "nvme.enabled=false".into()])?;
        kvtierd.settle(host_bytes)?;
        let (bare, bare_targets) = start_bare(&folder.join("bare.sock"), options, 0)?;
        let (keeping, keeping_targets) = start_bare(&folder.join("keeping.sock"), options, host_bytes)?;
        let port = free_port()?;
        let socket = folder.join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(&socket);
        let redis = Process::start(&mut command, || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        let redis_urls = [format!("redis://127.0.0.1:{port}"), format!("redis+unix://{}", socket.display())];
        Ok(Self {
            kvtierd,
            _processes: [bare, keeping, redis],
            bare: bare_targets,
            keeping: keeping_targets,
            redis: redis_urls,
        })
    }
}

fn start_bare(socket: &Path, options: &Options, kept_bytes: u64) -> Result<(Process, [Target; 2]), Failure> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve-bare", "--port", &port.to_string(), "--block-bytes", &options.block_bytes.to_string()]);
    command.args(["--kept-bytes", &kept_bytes.to_string()]).arg("--unix").arg(socket);
    let process = Process::start(&mut command, || std::os::unix::net::UnixStream::connect(socket).is_ok())?;
    Ok((process, [Target::Tcp(format!("http://127.0.0.1:{port}")), Target::Unix(socket.into())]))
}

/// Serves the bare service until killed.
pub fn serve_bare(port: u16, unix: &Path, block_bytes: usize, kept_bytes: usize) -> Result<(), Failure> {
    let block = Bytes::from(vec![0x5a; block_bytes]);
    let service = match kept_bytes {
        0 => bare::Bare::new(block).into_service(),
        _ => bare::Bare::keeping(block, kept_bytes).into_service(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let tcp = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let unix = tokio::net::UnixListener::bind(unix)?;
        let router = |service| {
            Server::builder()
                .initial_stream_window_size(tuning::STREAM_WINDOW_BYTES)
                .initial_connection_window_size(tuning::CONNECTION_WINDOW_BYTES)
                .max_frame_size(tuning::FRAME_BYTES_MAX)
                .tcp_nodelay(true)
                .add_service(service)
        };
        let tcp = tokio_stream::StreamExt::map(TcpListenerStream::new(tcp), |stream| {
            stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        });
        let both = futures::future::try_join(
            router(service.clone()).serve_with_incoming(tcp),
            router(service).serve_with_incoming(UnixListenerStream::new(unix)),
        );
        both.await?;
        Ok(())
    })
}
