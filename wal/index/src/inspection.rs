//! What `kvtier fsck` sees of an index: everything is read and checked, nothing is changed.

use std::path::Path;

use kvtier_engine::port::{IndexEntry, IndexError, SpaceRecord};

use crate::store::Store;
use crate::{codec, columns};

/// The most damaged values that are listed one by one; all are counted.
pub const BAD_LISTED_MAX: usize = 100;

/// A report. Counts include damaged values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Format version of the directory.
    pub format: u32,
    /// Journal position the index covers.
    pub covered: u64,
    /// Identity of the data directory, if one was stored.
    pub node: Option<[u8; 16]>,
    /// Blocks.
    pub block_count: u64,
    /// Payload bytes of the blocks that decode.
    pub payload_bytes: u64,
    /// Spaces.
    pub space_count: u64,
    /// Quarantined slots.
    pub quarantined_count: u64,
    /// Values that do not decode.
    pub bad_count: u64,
    /// The first [`BAD_LISTED_MAX`] of them.
    pub bad: Vec<BadValue>,
    /// Column families that could not be read to their end, and why: their counts are lower bounds.
    pub unreadable: Vec<String>,
}

/// A value that does not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// Its column family.
    pub column: &'static str,
    /// Its key in hexadecimal digits.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Inspection {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.bad_count == 0 && self.unreadable.is_empty()
    }
}

/// Reads the whole index in `path`, which nobody may have open.
///
/// Errors: as [`crate::RocksIndex::open`], when not even a report can be made.
pub fn inspect(path: &Path) -> Result<Inspection, IndexError> {
    let store = Store::open_read_only(path)?;
    let facts = store.facts();
    let mut report = Inspection {
        format: facts.format,
        covered: facts.covered,
        node: facts.node,
        block_count: 0,
        payload_bytes: 0,
        space_count: 0,
        quarantined_count: 0,
        bad_count: 0,
        bad: Vec::new(),
        unreadable: Vec::new(),
    };
    let mut payload_bytes = 0;
    report.block_count = report.read(&store, columns::BLOCKS, |key, value| {
        columns::block_of(key).ok_or("not a key")?;
        let entry = codec::decode::<IndexEntry>(key, value).map_err(|error| error.to_string())?;
        payload_bytes += u64::from(entry.length);
        Ok(())
    });
    report.payload_bytes = payload_bytes;
    report.space_count = report.read(&store, columns::SPACES, |key, value| {
        let space = codec::decode::<SpaceRecord>(key, value).map_err(|error| error.to_string())?;
        if columns::space_key(space.number) == *key { Ok(()) } else { Err("not a key".into()) }
    });
    report.quarantined_count = report.read(&store, columns::QUARANTINE, |key, value| {
        columns::slot_of(key).ok_or("not a key")?;
        codec::decode::<()>(key, value).map_err(|error| error.to_string())
    });
    Ok(report)
}

impl Inspection {
    fn read(
        &mut self,
        store: &Store,
        column: &'static str,
        mut check: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
    ) -> u64 {
        let mut count = 0;
        let end = store.walk(column, &[], |key, value| {
            count += 1;
            if let Err(problem) = check(key, value) {
                self.note(column, key, problem);
            }
            Ok(true)
        });
        if let Err(error) = end {
            self.unreadable.push(format!("{column}: {error}"));
        }
        count
    }

    fn note(&mut self, column: &'static str, key: &[u8], problem: String) {
        self.bad_count += 1;
        if self.bad.len() < BAD_LISTED_MAX {
            let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
            self.bad.push(BadValue { column, key, problem });
        }
    }
}
