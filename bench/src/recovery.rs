//! How soon a killed daemon answers again, and what an idle one costs.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kvtier_proto::v1::Durability;

use crate::daemon::Daemon;
use crate::grpc::drive::{Driver, Load};
use crate::process::{cpu_seconds, resident_bytes};
use crate::report::Facts;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Durable blocks before the kill.
    #[arg(long, default_value_t = 100_000)]
    blocks: usize,
    /// Block size in bytes.
    #[arg(long, default_value_t = 4096)]
    block_bytes: u32,
    /// Kills; medians need at least 5.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Folder for the data; default: the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the table here (Markdown).
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Arena of the measured daemon.
const HOST_BYTES: u64 = 256 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

/// Fills, kills, restarts, measures.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(options.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let slot = u64::from(options.block_bytes).next_multiple_of(4096) + 4096;
    let settings = [
        format!("host.bytes={HOST_BYTES}B"),
        format!("nvme.bytes={}B", (slot * options.blocks as u64 * 9 / 8).next_multiple_of(64 << 20) + (64 << 20)),
    ];
    let mut daemon = Daemon::start(folder.path(), &settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load =
        Load { block: vec![0x77; options.block_bytes as usize].into(), count: options.blocks, message_bytes: 1 << 20 };
    let one = Load { count: 1, ..load.clone() };
    let filled = runtime.block_on(async {
        let mut driver = Driver::connect(&daemon.unix(), options.block_bytes).await?;
        let started = Instant::now();
        driver.put_window(&load, 0, Durability::Durable, 1024).await?;
        Ok::<_, Box<dyn Error>>(started.elapsed())
    })?;
    println!("{} durable blocks of {} bytes in {filled:.1?}", options.blocks, options.block_bytes);
    let (mut first_hits, mut completes) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let key = (round * 7919 % options.blocks) as u64;
        let started = Instant::now();
        daemon.kill_and_restart()?;
        let first_hit = runtime.block_on(first_hit(&daemon, options.block_bytes, &one, key, started))?;
        let complete = runtime.block_on(complete(&daemon, options.block_bytes, started))?;
        println!("round {round}: first hit after {first_hit:.0?}, RAM index complete after {complete:.0?}");
        first_hits.push(first_hit.as_secs_f64());
        completes.push(complete.as_secs_f64());
    }
    daemon.settle(HOST_BYTES)?;
    let (cpu, resident) = idle(&daemon)?;
    publish(options, median(first_hits), median(completes), cpu, resident)
}

async fn first_hit(
    daemon: &Daemon,
    block_bytes: u32,
    one: &Load,
    key: u64,
    started: Instant,
) -> Result<Duration, Box<dyn Error>> {
    loop {
        let hit = async { Driver::connect(&daemon.unix(), block_bytes).await?.get_keys(one, key).await };
        match hit.await {
            Ok(_) => return Ok(started.elapsed()),
            Err(error) if started.elapsed() > DEADLINE => return Err(error),
            Err(_) => {}
        }
    }
}

async fn complete(daemon: &Daemon, block_bytes: u32, started: Instant) -> Result<Duration, Box<dyn Error>> {
    let mut driver = Driver::connect(&daemon.unix(), block_bytes).await?;
    while driver.is_filling().await? {
        if started.elapsed() > DEADLINE {
            return Err("the RAM index is not complete after 120 s".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(started.elapsed())
}

/// CPU share and resident bytes of a daemon nobody talks to, over 10 seconds.
fn idle(daemon: &Daemon) -> Result<(f64, u64), Box<dyn Error>> {
    let before = cpu_seconds(daemon.id())?;
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(10));
    let share = (cpu_seconds(daemon.id())? - before) / started.elapsed().as_secs_f64();
    Ok((share * 100.0, resident_bytes(daemon.id())?))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn publish(options: &Options, first_hit: f64, complete: f64, cpu: f64, resident: u64) -> Result<(), Box<dyn Error>> {
    let facts = Facts::read(options.rounds);
    let text = format!(
        "# Recovery after kill -9, and idling\n\nMachine: {}, {} GiB, Linux {}. Date: {}. Command: `{}`. Medians of {} kills.\n\n\
         | what | figure |\n|---|--:|\n| durable blocks | {} × {} B |\n| process start to first correct hit | {:.3} s |\n\
         | process start to RAM index complete | {:.3} s |\n| idle CPU, one core = 100 % | {cpu:.2} % |\n\
         | idle RSS with a 256 MiB arena | {:.0} MiB |\n",
        facts.processor,
        facts.memory_gib,
        facts.kernel,
        facts.date,
        facts.command,
        facts.rounds,
        options.blocks,
        options.block_bytes,
        first_hit,
        complete,
        resident as f64 / f64::from(1 << 20),
    );
    println!("{text}");
    if let Some(out) = &options.out {
        std::fs::write(out, text)?;
    }
    Ok(())
}
