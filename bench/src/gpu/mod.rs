//! The HBM tier on a real GPU: what CI can only simulate. Checks first, then figures against the machine's own limits.
//!
//! ```text
//!   checks     the GPU port's suite, the Tier port's suite, CUDA IPC between two processes, kill -9 of a worker mid-copy
//!   figures    host <-> worker KV against one pinned copy; pool <-> worker KV against one copy on the device;
//!              CPU per call; moves beside a process that computes; NVMe -> worker KV against the slower of both links
//! ```
//!
//! `--simulated` runs the same harness on the simulated device, to prove the harness; its figures mean nothing. Nor do they on
//! the stand-in for the driver (`tests/hbm/driver`), which says by its name that it is no hardware. Writes `gpu.md` and `gpu.json`. Exit status: 0 all good; 1 a check failed; 3 the checks passed and a figure missed its bar; 4 no
//! GPU was found.

mod beside;
mod checks;
mod figures;
mod ground;
mod report;
mod serve;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use ground::{Machine, Site};
use report::Report;
pub use serve::serve_store;
pub use worker::{WorkerOptions, serve as serve_worker};

type Failure = Box<dyn Error>;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The simulated device, to prove the harness where there is no GPU.
    #[arg(long)]
    simulated: bool,
    /// A simulated device that refuses copies: the run must fail.
    #[arg(long, requires = "simulated")]
    plant_fault: bool,
    /// Only the checks in this process: for memory checkers, which are slow and follow no child.
    #[arg(long)]
    checks_only: bool,
    /// All checks, those with other processes too, and no figures.
    #[arg(long, conflicts_with = "checks_only")]
    no_figures: bool,
    /// What the checks make up follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of each figure; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Folder for a data file of 512 MiB; default: the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Folder for the report.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// Runs everything there is time and a device for.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let machine = match Machine::find(options.simulated) {
        Ok(machine) => machine,
        Err(absent) => {
            println!("no GPU was found: {absent}; nothing was verified on hardware");
            return Ok(ExitCode::from(4));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let site = Site::open(&machine, options, &runtime)?;
    let mut report = Report::new(&site);
    checks::run(&site, options, &runtime, &mut report);
    if !options.checks_only && !options.no_figures && report.failed() == 0 {
        figures::run(&site, options, &runtime, &mut report)?;
    }
    report.write(&options.out)?;
    Ok(report.verdict())
}
