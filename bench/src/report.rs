//! Where results go: a table for people, JSON for programs, both with what is needed to run them again.

use std::error::Error;
use std::path::Path;

use serde::Serialize;

use crate::contest::{MARKDOWN_HEAD, Standing};

/// What a result means nothing without.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Processor model and count.
    pub processor: String,
    /// Kernel release.
    pub kernel: String,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// The day, UTC.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Rounds behind every median.
    pub rounds: usize,
}

impl Facts {
    /// Reads the machine.
    pub fn read(rounds: usize) -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split(':').nth(1).unwrap_or_default().trim().to_owned()
        };
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let memory_kib = value(&file("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory_kib.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            processor: format!("{cpus} × {}", value(&file("/proc/cpuinfo"), "model name")),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: memory_kib >> 20,
            date: time::OffsetDateTime::now_utc().date().to_string(),
            command: format!("kvtier-bench {}", arguments.join(" ")),
            rounds,
        }
    }
}

/// Prints the table if everything in it was measured in turns, and writes it with the facts to `out` (Markdown) and beside it (JSON).
pub fn publish(
    title: &str,
    notes: &str,
    facts: &Facts,
    standings: &[Standing],
    out: Option<&Path>,
) -> Result<(), Box<dyn Error>> {
    standings.iter().try_for_each(Standing::check)?;
    let mut text = format!("# {title}\n\n{notes}\n\n");
    text += &format!(
        "Machine: {}, {} GiB, Linux {}. Date: {}. Command: `{}`. Medians of {} interleaved rounds.\n\n",
        facts.processor, facts.memory_gib, facts.kernel, facts.date, facts.command, facts.rounds
    );
    text += MARKDOWN_HEAD;
    standings.iter().for_each(|standing| text += &standing.markdown());
    println!("{text}");
    if let Some(out) = out {
        std::fs::write(out, &text)?;
        let json = serde_json::json!({ "title": title, "facts": facts, "standings": standings });
        std::fs::write(out.with_extension("json"), serde_json::to_vec_pretty(&json)?)?;
    }
    Ok(())
}
