//! What waiting for durability costs: durable puts with a window in flight, against the rate at which volatile puts are
//! written back to the same NVMe tier.

use std::cell::RefCell;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use kvtier_proto::v1::Durability;

use crate::contest::Contest;
use crate::daemon::Daemon;
use crate::grpc::drive::{Driver, Load};
use crate::report::{self, Facts};

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Block size in bytes.
    #[arg(long, default_value_t = 1 << 20)]
    block_bytes: u32,
    /// Blocks per run.
    #[arg(long, default_value_t = 512)]
    blocks: usize,
    /// Durable puts in flight.
    #[arg(long, default_value_t = 32)]
    window: usize,
    /// Rounds; a median needs at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Folder for the data; default: the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the table here (Markdown), and JSON beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs the contest.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(options.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let run_bytes = u64::from(options.block_bytes) * options.blocks as u64;
    let extent = 64 << 20;
    let settings = [
        format!("host.bytes={}B", (run_bytes * 3).next_multiple_of(extent)),
        format!("nvme.bytes={}B", (run_bytes * 4).next_multiple_of(extent)),
    ];
    let daemon = Daemon::start(folder.path(), &settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let driver = RefCell::new(runtime.block_on(Driver::connect(&daemon.unix(), options.block_bytes))?);
    let load = Load { block: vec![0x3c; options.block_bytes as usize].into(), count: options.blocks };
    let durable = || {
        let mut driver = driver.borrow_mut();
        let first = driver.claim(load.count);
        runtime.block_on(driver.put_window(&load, first, Durability::Durable, options.window))
    };
    let written_back = || {
        let mut driver = driver.borrow_mut();
        let first = driver.claim(load.count);
        runtime.block_on(async {
            let stored = driver.nvme_stores().await? + load.count as u64;
            let started = Instant::now();
            driver.put_window(&load, first, Durability::Volatile, options.window).await?;
            while driver.nvme_stores().await? < stored {
                if started.elapsed().as_secs() > 120 {
                    return Err("volatile blocks were not written back within 120 s".into());
                }
            }
            Ok(run_bytes as f64 / started.elapsed().as_secs_f64() / 1e9)
        })
    };
    let title = format!("durable put, {} KiB, {} in flight", options.block_bytes >> 10, options.window);
    let standing = Contest::new(title, "GB/s")
        .entry("durable", durable)
        .entry("volatile, until written back", written_back)
        .run(options.rounds)?;
    let notes = "kvtierd over its unix socket; the second row counts from the first put until every block is committed on NVMe.";
    report::publish("Durable puts", notes, &Facts::read(options.rounds), &[standing], options.out.as_deref())
}
