//! The metadata index: every value of it, and making it again from the event log.
//!
//! The log is the whole truth as far back as it goes: an index made from it holds every block whose space was opened
//! within it. What was stored before the oldest kept record cannot be named any more, and is recomputed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kvtier_engine::place::TierKind;
use kvtier_engine::port::{Clock, Journal, Record};
use kvtier_index::{Contents, inspect, rebuild};
use kvtier_wal::{Mode, spawn_writer_thread};

use super::{Failure, Report, shown};
use crate::assemble;
use crate::config::Config;
use crate::home::Home;
use crate::runtime::SystemClock;

const PART: &str = "index";
const REMEDY: &str = "`kvtierd fsck --repair` makes it again from the event log, and keeps the old one beside it";
/// Records read at once.
const READ_COUNT: usize = 65_536;

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
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let settings = assemble::wal_settings(config, home);
    let log = spawn_writer_thread(&config.wal.directory, Mode::Blocking, clock, settings, 0)?;
    let first = log.wal.status().first_seq;
    let told = replay(&*log.wal, first.saturating_sub(1)).await;
    log.finish()?;
    let told = told?;
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

/// What the log's records come to.
#[derive(Default)]
struct Told {
    blocks: BTreeMap<kvtier_identity::BlockId, kvtier_engine::port::IndexEntry>,
    spaces: BTreeMap<u32, kvtier_engine::port::SpaceRecord>,
    quarantined: Vec<kvtier_engine::place::Slot>,
    covered: u64,
}

async fn replay(log: &dyn Journal, mut after: u64) -> Result<Told, Failure> {
    let mut told = Told { covered: after, ..Told::default() };
    loop {
        let records = log.read(after, READ_COUNT).await?;
        let Some((last, _)) = records.last() else { break };
        after = last.seq;
        records.into_iter().for_each(|(_, record)| told.apply(record));
        told.covered = after;
    }
    let Told { blocks, spaces, .. } = &mut told;
    blocks.retain(|_, entry| spaces.contains_key(&entry.space));
    Ok(told)
}

impl Told {
    fn apply(&mut self, record: Record) {
        match record {
            Record::StoredNvme { block, entry } => drop(self.blocks.insert(block, entry)),
            Record::Removed { block, tier: TierKind::Nvme, .. } => drop(self.blocks.remove(&block)),
            Record::SpaceOpened(space) => drop(self.spaces.insert(space.number, *space)),
            Record::SpaceDropped { space, .. } => drop(self.spaces.remove(&space)),
            Record::Quarantined { slot } => self.quarantined.push(slot),
            Record::Removed { .. } | Record::StoredHost { .. } | Record::Reset { .. } => {}
        }
    }
}
