//! Measures one disk as fio does: a fixed number of operations in flight, one size, for some seconds. One line of JSON.
//!
//! Compare with `fio --ioengine=io_uring --direct=1 --fixedbufs --registerfiles`.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use futures::stream::{FuturesUnordered, StreamExt};
use kvtier_device::conformance::block_on;
use kvtier_device::sim::Dice;
use kvtier_device::{AlignedBuffer, Disk, DiskOp, DiskSettings, Driver, Priority, open_disk};

#[derive(Parser)]
struct Arguments {
    /// File or block device.
    path: PathBuf,
    /// Size of the file in MiB; it is created if missing.
    #[arg(long, default_value_t = 2048)]
    file_mib: u64,
    /// Operation.
    #[arg(long, value_enum, default_value_t = Kind::Read)]
    kind: Kind,
    /// Places in random order instead of one after the other.
    #[arg(long)]
    random: bool,
    /// Bytes of an operation, in KiB.
    #[arg(long, default_value_t = 1024)]
    block_kib: u64,
    /// Operations in flight.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Driver.
    #[arg(long, value_enum, default_value_t = Drive::Uring)]
    driver: Drive,
    /// Do not register the buffers.
    #[arg(long)]
    plain: bool,
    /// Longest single transfer, in KiB.
    #[arg(long)]
    transfer_kib: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Read,
    Write,
    /// Writes the whole file once, and syncs it.
    Fill,
}

#[derive(Clone, Copy, ValueEnum)]
enum Drive {
    Uring,
    Pool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let mut settings = DiskSettings::new(&arguments.path);
    settings.bytes = Some(arguments.file_mib << 20);
    settings.driver = match arguments.driver {
        Drive::Uring => Driver::Uring,
        Drive::Pool => Driver::Pool,
    };
    if let Some(transfer_kib) = arguments.transfer_kib {
        settings.transfer_bytes_max = transfer_kib << 10;
    }
    let disk = open_disk(&settings)?;
    let block_bytes = (arguments.block_kib << 10) as usize;
    let arena = AlignedBuffer::zeroed(block_bytes * arguments.depth);
    arena.copy_in(0, &(0..arena.size()).map(|index| (index >> 8) as u8).collect::<Vec<_>>());
    if !arguments.plain {
        disk.register_arena(arena.arena());
        let mode = disk.mode();
        let wanted = format!("{0} of {0} MiB", arena.size() >> 20);
        while matches!(arguments.driver, Drive::Uring) && !disk.mode().contains(&wanted) && disk.mode() == mode {
            std::thread::yield_now();
        }
    }
    let outcome = block_on(run(&disk, &arguments, &arena));
    println!("{}", serde_json::to_string(&outcome?)?);
    Ok(())
}

async fn run(
    disk: &dyn Disk,
    arguments: &Arguments,
    arena: &AlignedBuffer,
) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let block_bytes = arguments.block_kib << 10;
    let place_count = disk.bytes() / block_bytes;
    let mut dice = Dice::new(1);
    let mut next = 0;
    let mut start_one = |slot: usize| {
        let place = if arguments.random { dice.below(place_count) } else { next % place_count };
        next += 1;
        let offset = place * block_bytes;
        let buffer = arena.part(slot * block_bytes as usize, block_bytes as usize);
        let (op, priority) = match arguments.kind {
            Kind::Read => (DiskOp::Read { offset, into: buffer }, Priority::Load),
            Kind::Write | Kind::Fill => (DiskOp::Write { offset, from: buffer }, Priority::Store),
        };
        let call = disk.submit(vec![op], priority);
        async move { (slot, call.await) }
    };
    let seconds = Duration::from_secs_f64(arguments.seconds);
    let usage = cpu_seconds();
    let began = Instant::now();
    let mut flying: FuturesUnordered<_> = (0..arguments.depth).map(&mut start_one).collect();
    let (mut done, mut started) = (0_u64, arguments.depth as u64);
    while let Some((slot, answers)) = flying.next().await {
        answers.into_iter().collect::<Result<Vec<()>, _>>()?;
        done += 1;
        let goes_on = match arguments.kind {
            Kind::Fill => started < place_count,
            Kind::Read | Kind::Write => began.elapsed() < seconds,
        };
        if goes_on {
            started += 1;
            flying.push(start_one(slot));
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - usage;
    if arguments.kind != Kind::Read {
        disk.sync().await?;
    }
    let gigabytes = (done * block_bytes) as f64 / 1e9;
    Ok(serde_json::json!({
        "gb_per_s": gigabytes / elapsed,
        "cpu_s_per_gb": cpu / gigabytes,
        "ops": done,
        "seconds": elapsed,
        "mode": disk.mode(),
    }))
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    // Ticks of 10 ms are too coarse; the scheduler's own figure is in nanoseconds, per thread.
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0)
    };
    threads.map(|thread| of(thread.path())).sum::<f64>() / 1e9
}
