//! Making an index again from what is known elsewhere: the slot headers and the journal.
//!
//! The new index is built beside the old one and takes its place with two renames:
//!
//! ```text
//!   1. delete   index.rebuilding and index.damaged, left by an earlier rebuild
//!   2. build    index.rebuilding                        a crash leaves the old index as it was
//!   3. rename   index            -> index.damaged       a crash leaves no index: open refuses, rebuild goes on
//!   4. rename   index.rebuilding -> index               done; index.damaged stays until the next rebuild
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kvtier_engine::place::Slot;
use kvtier_engine::port::{IndexChange, IndexEntry, IndexError, SpaceRecord};
use kvtier_identity::BlockId;

use crate::fault;
use crate::lock::DirectoryLock;
use crate::settings::IndexSettings;
use crate::store::Store;

/// Changes of one batch while building.
const BATCH_LEN: usize = 4096;

/// What the new index shall hold.
#[derive(Debug, Clone)]
pub struct Contents<Entries> {
    /// The blocks, in any order; of two with one id the later wins.
    pub entries: Entries,
    /// The spaces.
    pub spaces: Vec<SpaceRecord>,
    /// The slots that must not be used.
    pub quarantined: Vec<Slot>,
    /// The journal position all this covers.
    pub covered: u64,
}

/// Replaces the index in `path`, damaged or missing, and says how many blocks were put. The old one stays beside it as
/// `<path>.damaged`. Blocks; nobody may have the index open.
///
/// A failure or crash before the renames leaves the old index as it was, one between them an error at the next open
/// that says to run this again.
pub fn rebuild<Entries>(path: &Path, contents: Contents<Entries>, settings: &IndexSettings) -> Result<u64, IndexError>
where
    Entries: IntoIterator<Item = (BlockId, IndexEntry)>,
{
    let damaged = beside(path, ".damaged");
    let building = beside(path, ".rebuilding");
    let failed = |error: io::Error| fault::unavailable(path, format_args!("rebuild: {error}"));
    let _lock = if path.is_dir() { Some(DirectoryLock::take(path)?) } else { None };
    remove(&building).map_err(failed)?;
    let count = build(&building, contents, settings)?;
    if path.exists() {
        remove(&damaged).map_err(failed)?;
        fs::rename(path, &damaged).map_err(failed)?;
    }
    fs::rename(&building, path).map_err(failed)?;
    sync_parent(path).map_err(failed)?;
    Ok(count)
}

/// An error if a rebuild stopped between its renames: an empty index here would be taken for the truth.
pub(crate) fn refuse_interrupted(path: &Path) -> Result<(), IndexError> {
    if !path.exists() && (beside(path, ".damaged").exists() || beside(path, ".rebuilding").exists()) {
        return Err(fault::corrupt(path, "a rebuild of the index was interrupted"));
    }
    Ok(())
}

fn build<Entries>(path: &Path, contents: Contents<Entries>, settings: &IndexSettings) -> Result<u64, IndexError>
where
    Entries: IntoIterator<Item = (BlockId, IndexEntry)>,
{
    let store = Store::open(path, settings)?;
    let spaces = contents.spaces.into_iter().map(|space| IndexChange::PutSpace(Box::new(space)));
    let slots = contents.quarantined.into_iter().map(IndexChange::Quarantine);
    let mut count = 0;
    let blocks = contents.entries.into_iter().map(|(block, entry)| {
        count += 1;
        IndexChange::Put(block, entry)
    });
    let mut batch = Vec::with_capacity(BATCH_LEN);
    for change in spaces.chain(slots).chain(blocks) {
        batch.push(change);
        if batch.len() == BATCH_LEN {
            store.apply(&batch, 0)?;
            batch.clear();
        }
    }
    store.apply(&batch, contents.covered)?;
    store.flush()?;
    Ok(count)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.components().as_path().into();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
