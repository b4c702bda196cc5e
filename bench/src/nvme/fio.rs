//! fio as a contestant: one process a run, its JSON read.
//!
//! It gets what we have: glibc is asked to back its buffers with huge pages, which fio does not ask for by itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::cost::Cost;
use super::{Direction, Failure};

/// fio on one file, which it makes itself.
#[derive(Debug)]
pub(crate) struct Fio {
    path: PathBuf,
    verifies: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    error: i64,
    read: Moved,
    write: Moved,
    /// Per cent of `job_runtime`.
    usr_cpu: f64,
    sys_cpu: f64,
    /// Milliseconds.
    job_runtime: f64,
}

#[derive(Debug, Deserialize)]
struct Moved {
    io_bytes: u64,
    bw_bytes: f64,
}

impl Fio {
    /// A file beside the tier's; no byte of it is looked at.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("fio.data"), verifies: false }
    }

    /// Another file, whose blocks carry checksums: they are verified as they are read.
    pub(crate) fn verifying(folder: &Path) -> Self {
        Self { path: folder.join("fio-verified.data"), verifies: true }
    }

    /// Goes through `bytes` bytes of the file once.
    pub(crate) fn run(
        &self,
        direction: Direction,
        block_bytes: u32,
        bytes: u64,
        in_flight: usize,
    ) -> Result<Cost, Failure> {
        // It leaves the state of a verification in the folder it runs in.
        let folder = self.path.parent().ok_or("fio's file lies in no folder")?;
        let output = Command::new("fio")
            .current_dir(folder)
            .args(["--name=cell", "--ioengine=io_uring", "--direct=1", "--fixedbufs", "--registerfiles"])
            .args(["--scramble_buffers=0", "--clocksource=clock_gettime", "--output-format=json"])
            .args(self.verifies.then_some(["--verify=crc32c", "--verify_fatal=1"]).into_iter().flatten())
            .args((self.verifies && direction == Direction::Write).then_some("--do_verify=0"))
            .arg(format!("--filename={}", self.path.display()))
            .arg(format!("--rw={}", direction.name()))
            .arg(format!("--bs={block_bytes}"))
            .arg(format!("--size={bytes}"))
            .arg(format!("--iodepth={in_flight}"))
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("fio does not start: {error}; install the package fio"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("fio ended with {}: {}", output.status, words.trim()).into());
        }
        cost_of(&String::from_utf8(output.stdout)?, direction, bytes)
    }
}

fn cost_of(text: &str, direction: Direction, bytes: u64) -> Result<Cost, Failure> {
    // Warnings come before the document.
    let start = text.find('{').ok_or("fio answered no JSON")?;
    let answer: Answer = serde_json::from_str(&text[start..])?;
    let job = answer.jobs.first().ok_or("fio ran no job")?;
    let moved = match direction {
        Direction::Read => &job.read,
        Direction::Write => &job.write,
    };
    if job.error != 0 || moved.io_bytes != bytes {
        return Err(format!("fio moved {} of {bytes} bytes, error {}", moved.io_bytes, job.error).into());
    }
    let cpu_seconds = (job.usr_cpu + job.sys_cpu) / 100.0 * job.job_runtime / 1000.0;
    Ok(Cost { gb_per_s: moved.bw_bytes / 1e9, cpu_ms_per_gb: cpu_seconds * 1e3 / (bytes as f64 / 1e9) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"fio: a warning
        { "fio version": "fio-3.33", "jobs": [ { "error": 0, "usr_cpu": 2.5, "sys_cpu": 7.5, "job_runtime": 2000,
          "read": { "io_bytes": 4000000000, "bw_bytes": 2000000000 }, "write": { "io_bytes": 0, "bw_bytes": 0 } } ] }"#;

    #[test]
    fn throughput_and_cpu_are_read_from_its_answer() {
        let cost = cost_of(ANSWER, Direction::Read, 4_000_000_000).expect("a good answer");
        assert!((cost.gb_per_s - 2.0).abs() < 1e-9 && (cost.cpu_ms_per_gb - 50.0).abs() < 1e-9, "{cost:?}");
    }

    #[test]
    fn an_answer_about_other_bytes_is_no_figure() {
        assert!(cost_of(ANSWER, Direction::Write, 4_000_000_000).is_err());
        assert!(cost_of("fio: nothing", Direction::Read, 1).is_err());
    }
}
