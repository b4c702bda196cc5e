//! `kvtier-bench`: runs of jobs in fio's format, and figures as ratios against a named rival or a physical limit.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "kvtier-bench",
    version,
    about = "Measures kvtier: without arguments the canonical workload, with a job file or flags another one, with a \
             subcommand a comparison, interleaved, medians of at least 5",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(flatten)]
    run: kvtier_bench::launch::Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cold chains from NVMe against fio.
    Cold(kvtier_bench::cold::Options),
    /// What a stream of stores does to gets.
    Mixed(kvtier_bench::mixed::Options),
    /// Rivals side by side on this machine: Redis, Mooncake, files, fio and memcpy; installs what it needs.
    Compare(kvtier_bench::compare::Options),
    /// The HBM tier on this machine's GPU: checks, and figures against its own limits.
    Gpu(kvtier_bench::gpu::Options),
    /// A process whose GPU memory `gpu` opens; started by it.
    #[command(hide = true)]
    GpuWorker(kvtier_bench::gpu::WorkerOptions),
    /// Keeps blocks for a worker that is not ours: JSON lines on standard input and output.
    #[command(hide = true)]
    GpuStore,
    /// gRPC put and get against a bare tonic stream and Redis, TCP and unix socket.
    Grpc(kvtier_bench::grpc::Options),
    /// Durable puts against the write-back rate of volatile ones.
    Durable(kvtier_bench::durable::Options),
    /// The local path: reading and writing in place against plain memory, hand-over latency, idle clients, a soak.
    Local(kvtier_bench::local::Options),
    /// The NVMe tier and its bare disk against fio, throughput and CPU.
    Nvme(kvtier_bench::nvme::Options),
    /// Time to the first hit after kill -9, and what an idle daemon costs.
    Recovery(kvtier_bench::recovery::Options),
    /// The server the gRPC contest runs against; started by it.
    #[command(hide = true)]
    ServeBare {
        /// Port on 127.0.0.1.
        #[arg(long)]
        port: u16,
        /// Path of the unix socket.
        #[arg(long)]
        unix: PathBuf,
        /// Bytes of the block gets send.
        #[arg(long)]
        block_bytes: usize,
        /// Memory to copy puts into; 0 throws them away.
        #[arg(long, default_value_t = 0)]
        kept_bytes: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(command) = arguments.command else { return kvtier_bench::launch::run(&arguments.run) };
    let ended = match command {
        Command::Gpu(options) => kvtier_bench::gpu::run(&options),
        command => contest(command).map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(why) => {
            eprintln!("kvtier-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn contest(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Cold(options) => kvtier_bench::cold::run(&options),
        Command::Mixed(options) => kvtier_bench::mixed::run(&options),
        Command::Compare(options) => kvtier_bench::compare::run(&options),
        Command::Gpu(options) => kvtier_bench::gpu::run(&options).map(drop),
        Command::GpuStore => kvtier_bench::gpu::serve_store(),
        Command::GpuWorker(options) => kvtier_bench::gpu::serve_worker(&options),
        Command::Grpc(options) => kvtier_bench::grpc::run(&options),
        Command::Durable(options) => kvtier_bench::durable::run(&options),
        Command::Local(options) => kvtier_bench::local::run(&options),
        Command::Nvme(options) => kvtier_bench::nvme::run(&options),
        Command::Recovery(options) => kvtier_bench::recovery::run(&options),
        Command::ServeBare { port, unix, block_bytes, kept_bytes } => {
            kvtier_bench::grpc::serve_bare(port, &unix, block_bytes, kept_bytes)
        }
    }
}
