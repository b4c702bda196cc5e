//! `kvtierd fsck`: what is on disk, what is wrong with it, and what to do. With no daemon running.
//!
//! ```text
//!   lock ─► index: every value ─► event log: every frame ─► data files: superblock, and every block of both
//!                │                      │
//!    --repair    └─ made again from     └─ cut before the damage; the next start begins a new epoch
//!                   the event log
//! ```
//!
//! Looking changes nothing but what opening always does (RocksDB tidies its own files). Repair gives up what cannot be
//! trusted and nothing else: a block whose slot does not verify needs no repair, its next reader misses.
//!
//! A crash during a repair leaves something that the next `fsck` still reports, and can repair again.
//!
//! Exit codes: 0 sound, or repaired; 1 damaged; 2 wrong settings; 3 it could not be looked at.

mod blocks;
mod index;
mod log;
mod told;

use std::path::Path;

use kvtier_engine::port::Clock;
use serde::Serialize;

use crate::assemble;
use crate::config::Config;
use crate::ground::with_causes;
use crate::home::Home;
use crate::runtime::SystemClock;

/// Exit code when something is damaged.
pub const EXIT_DAMAGED: u8 = 1;
/// Exit code when the disk could not be looked at.
pub const EXIT_UNKNOWN: u8 = 3;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// Give up what is damaged, so that the daemon starts again.
    #[arg(long)]
    pub repair: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Do not read the blocks themselves.
    #[arg(long)]
    pub quick: bool,
}

/// Everything found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What is fine, one sentence each.
    pub sound: Vec<String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What a repair did.
    pub repaired: Vec<String>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `index`, `event log` or a data file's path.
    pub part: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Whether the daemon does not start because of it.
    pub stops_the_start: bool,
}

impl Report {
    fn fine(&mut self, sentence: String) {
        self.sound.push(sentence);
    }

    fn problem(&mut self, part: &str, what: impl ToString, remedy: &str, stops_the_start: bool) {
        let (part, what, remedy) = (part.to_owned(), what.to_string(), remedy.to_owned());
        self.problems.push(Problem { part, what, remedy, stops_the_start });
    }

    /// For people.
    fn text(&self) -> String {
        let fine = self.sound.iter().map(|sentence| format!("  ok      {sentence}\n"));
        let wrong = self.problems.iter().map(|problem| {
            let Problem { part, what, remedy, stops_the_start } = problem;
            let stops = if *stops_the_start { "; the daemon does not start" } else { "" };
            format!("  DAMAGED {part}: {what}{stops}\n          {remedy}\n")
        });
        let done = self.repaired.iter().map(|sentence| format!("  done    {sentence}\n"));
        fine.chain(wrong).chain(done).collect()
    }
}

/// Looks at everything, and repairs if asked to. Text for standard output, and the exit code.
pub fn run(config: &Config, options: Options) -> (String, u8) {
    match examine(config, options) {
        Ok(report) => {
            let code = if report.problems.is_empty() { 0 } else { EXIT_DAMAGED };
            if options.json {
                let text = serde_json::to_string_pretty(&report).expect("a report is made of strings");
                return (format!("{text}\n"), code);
            }
            let verdict = match (code, report.repaired.is_empty()) {
                (0, true) => "sound\n",
                (0, false) => "repaired\n",
                _ => "damaged\n",
            };
            (format!("{}{verdict}", report.text()), code)
        }
        Err(error) => (format!("kvtierd fsck: {}\n", with_causes(&*error)), EXIT_UNKNOWN),
    }
}

type Failure = Box<dyn std::error::Error>;

fn examine(config: &Config, options: Options) -> Result<Report, Failure> {
    if !config.data_directory.is_dir() {
        return Err(format!(
            "data_directory = \"{}\" does not exist; name the daemon's with --data-directory or --config",
            config.data_directory.display()
        )
        .into());
    }
    if !config.data_directory.join("FORMAT").is_file() {
        return Err(format!("{} is not a data directory: it has no FORMAT", config.data_directory.display()).into());
    }
    let home = Home::open(&config.data_directory, false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut report = Report::default();
        let mut covered = metadata(config, &mut report).await?;
        if options.repair && !report.problems.is_empty() {
            report = repair(config, &home, covered).await?;
            covered = metadata(config, &mut report).await?;
        }
        if let Some(covered) = covered.filter(|_| config.nvme.enabled) {
            let settings = assemble::index_settings(config, &home);
            blocks::examine(config, settings, covered, options.quick, &mut report).await?;
        }
        Ok(report)
    })
}

/// Index and log; the log position the index covers, or nothing if the index cannot be used.
async fn metadata(config: &Config, report: &mut Report) -> Result<Option<u64>, Failure> {
    let covered = index::examine(&config.index.directory, report);
    let first = log::examine(&config.wal.directory, covered.unwrap_or(0), report).await?;
    match covered {
        // Only what an index covers is ever taken from the front of the log.
        Some(0) if first > 1 => {
            index::lost(first, report);
            Ok(None)
        }
        covered => Ok(covered),
    }
}

/// The log first: what is left of it is what an index can be made from.
async fn repair(config: &Config, home: &Home, covered: Option<u64>) -> Result<Report, Failure> {
    let mut report = Report::default();
    let clock = SystemClock::default();
    log::repair(&config.wal.directory, covered.unwrap_or(0), clock.unix_ms(), &mut report).await?;
    if covered.is_none() {
        index::make_again(config, home, &mut report).await?;
    }
    Ok(report)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
