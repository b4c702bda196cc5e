//! The event log: every frame of every segment.

use std::path::Path;

use kvtier_wal::{BlockingFolder, WalError, fsck};

use super::{Failure, Report, shown};

const PART: &str = "event log";
const REMEDY: &str = "`kvtierd fsck --repair` cuts the log there; blocks that became durable behind it are recomputed";

/// Reads the whole log. `covered_seq` is what the index says it holds of it. Returns the first record's number, 0 if
/// there is none.
pub(super) async fn examine(path: &Path, covered_seq: u64, report: &mut Report) -> Result<u64, Failure> {
    if !path.is_dir() {
        if covered_seq > 0 {
            let what = format!("{} is missing, and the index holds records up to {covered_seq}", shown(path));
            report.problem(PART, what, "put the directory back, or repair: a new epoch begins", true);
        }
        return Ok(0);
    }
    let found = match fsck::inspect(&BlockingFolder::new(path), covered_seq).await {
        Ok(found) => found,
        Err(error @ WalError::Unsupported { .. }) => {
            report.problem(PART, error, "start the newer kvtierd that wrote it", true);
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    for damage in &found.damage {
        report.problem(PART, damage, REMEDY, true);
    }
    for stranger in &found.strangers {
        report.fine(format!("event log: {stranger} is not a segment; it is left alone"));
    }
    if found.damage.is_empty() {
        let torn = match found.torn_tail_bytes {
            0 => String::new(),
            bytes => format!("; {bytes} bytes at the end were being written in a crash, the next start cuts them off"),
        };
        // A clean stop leaves nothing behind the index; a crash does.
        let behind = match found.last_seq > covered_seq {
            true => "; the next start brings those into the index that it does not cover",
            false => "",
        };
        report.fine(format!(
            "event log: {} records in {} segments, up to {}{torn}{behind}",
            found.record_count,
            found.segments.len(),
            found.last_seq
        ));
    }
    Ok(if found.record_count > 0 { found.first_seq } else { 0 })
}

/// Cuts the log before its first damage.
pub(super) async fn repair(path: &Path, covered_seq: u64, unix_ms: u64, report: &mut Report) -> Result<(), Failure> {
    if !path.is_dir() {
        std::fs::create_dir_all(path)?;
    }
    let done = fsck::repair(&BlockingFolder::new(path), covered_seq, unix_ms).await?;
    if done.found.damage.is_empty() {
        return Ok(());
    }
    let cut = done.cut.map_or_else(String::new, |(file, bytes)| format!(", {file} was cut to {bytes} bytes"));
    let deleted = match done.deleted.len() {
        0 => String::new(),
        count => format!(", {count} segments behind the damage were deleted"),
    };
    report.repaired.push(format!("event log: kept up to record {}{cut}{deleted}", done.kept_seq));
    Ok(())
}
