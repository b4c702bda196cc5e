//! The metadata index: every value of it, and making it again from the event log.
//!
//! The log is the whole truth as far back as it goes: an index made from it holds every block whose space was opened
//! within it. What was stored before the oldest kept record cannot be named any more, and is recomputed.

use std::path::Path;

use kvtier_index::{Contents, inspect, rebuild};
use kvtier_wal::BlockingFolder;

use super::told::Told;
use super::{Failure, Report, shown};
use crate::assemble;
use crate::config::Config;
use crate::home::Home;

const PART: &str = "index";
const REMEDY: &str = "`kvtierd fsck --repair` makes it again from the event log, and keeps the old one beside it";

/// Reads the whole index; the log position it covers, or nothing if it cannot be used.
pub(super) fn examine(path: &Path, report: &mut Report) -> Option<u64> {
    if !path.exists() && !std::path::PathBuf::from(format!("{}.damaged", path.display())).exists() {
        report.fine(format!("index: there is none yet at {}", shown(path)));
        return Some(0);
    }
    let found = match inspect(path) {
        Ok(found) => found,
        Err(error) => {
            report.problem(PART, error, REMEDY, true);
            return None;
        }
    };
    for bad in &found.bad {
        report.problem(PART, format!("{} {}: {}", bad.column, bad.key, bad.problem), REMEDY, false);
    }
    for unreadable in &found.unreadable {
        report.problem(PART, unreadable, REMEDY, false);
    }
    if !found.is_sound() {
        return None;
    }
    report.fine(format!(
        "index: {} blocks, {} spaces, {} slots out of use, event log covered up to {}",
        found.block_count, found.space_count, found.quarantined_count, found.covered
    ));
    Some(found.covered)
}

/// Says that there is no index although there was one.
pub(super) fn lost(first_seq: u64, report: &mut Report) {
    let what =
        format!("it is empty, and the event log begins only with record {first_seq}: the index before it is gone");
    report.problem(PART, what, "put its directory back, or repair: it is made from what is left of the log", true);
}

/// Replaces the index by what the event log tells.
pub(super) async fn make_again(config: &Config, home: &Home, report: &mut Report) -> Result<(), Failure> {
    let folder = BlockingFolder::new(&config.wal.directory);
    let first = kvtier_wal::fsck::inspect(&folder, 0).await?.first_seq;
    let mut told = Told { covered: first.saturating_sub(1), ..Told::default() };
    kvtier_wal::replay(&folder, told.covered, &mut |seq, record| told.apply(seq, record)).await?;
    told.blocks.retain(|_, entry| told.spaces.contains_key(&entry.space));
    let (spaces, whole) = (told.spaces.len(), first <= 1);
    let contents = Contents {
        entries: told.blocks,
        spaces: told.spaces.into_values().collect(),
        quarantined: told.quarantined,
        covered: told.covered,
    };
    let count = rebuild(&config.index.directory, contents, &assemble::index_settings(config, home))?;
    let reach = if whole { "the log goes back to the beginning" } else { "what is older than the log is forgotten" };
    report
        .repaired
        .push(format!("index: made again from the event log with {count} blocks in {spaces} spaces; {reach}"));
    Ok(())
}
