//! The index as blocking calls: one open RocksDB. [`crate::RocksIndex`] runs them on its own threads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kvtier_engine::place::Slot;
use kvtier_engine::port::{IndexChange, IndexEntry, IndexError, SpaceRecord};
use kvtier_identity::BlockId;
use rocksdb::properties::IS_WRITE_STOPPED;
use rocksdb::{ColumnFamily, DB, DBRawIterator, WriteBatch};

use crate::columns::{self, BLOCKS, META, QUARANTINE, SPACES};
use crate::lock::DirectoryLock;
use crate::opening::{self, Facts, Opened, all_columns, column, sealed};
use crate::settings::IndexSettings;
use crate::stall::Stall;
use crate::{BATCH_LEN_MAX, LOOKUP_LEN_MAX, codec, fault, tuning};

/// Blocks of one call into RocksDB; it sorts them and works through files in order.
const LOOKUP_CHUNK_LEN: usize = 1024;
/// Room made before a scan; more is made as entries come.
const SCAN_ROOM_LEN: usize = 1 << 16;

/// An open index. One thread at a time may apply and flush; any number may read. Dropping it flushes and closes.
pub struct Store {
    path: PathBuf,
    // Dropped before the lock.
    db: DB,
    facts: Facts,
    applied: AtomicU64,
    flushed: AtomicU64,
    free_bytes_min: u64,
    /// What all buffers hold at most: room for less, and a stall may never end.
    buffers_bytes: u64,
    _lock: DirectoryLock,
}

impl Store {
    /// Opens the index in `path`, or creates an empty one.
    pub fn open(path: &Path, settings: &IndexSettings) -> Result<Self, IndexError> {
        let opened = opening::open(path, settings)?;
        Ok(Self::from_opened(path, opened, settings.free_bytes_min, settings.buffers_bytes()))
    }

    /// Opens an existing index for reading alone.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, IndexError> {
        Ok(Self::from_opened(path, opening::open_read_only(path)?, 0, 0))
    }

    fn from_opened(path: &Path, opened: Opened, free_bytes_min: u64, buffers_bytes: u64) -> Self {
        let Opened { db, lock, facts } = opened;
        Self {
            path: path.to_owned(),
            db,
            facts,
            applied: AtomicU64::new(facts.covered),
            flushed: AtomicU64::new(facts.covered),
            free_bytes_min,
            buffers_bytes,
            _lock: lock,
        }
    }

    /// Position of the last applied batch.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Position known to be on stable storage: of the last flush, or of the open. RocksDB's own flushes may be ahead.
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Format version of the directory.
    pub(crate) fn facts(&self) -> Facts {
        self.facts
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A RocksDB property of one column family; 0 if it is not known.
    pub(crate) fn property(&self, column_name: &str, property: &str) -> u64 {
        self.db.property_int_value_cf(self.column(column_name), property).ok().flatten().unwrap_or(0)
    }

    /// Applies a batch; all of it or nothing.
    pub fn apply(&self, changes: &[IndexChange], covers: u64) -> Result<(), IndexError> {
        let applied = self.applied();
        if covers < applied {
            let what = format_args!("a batch covers position {covers}, but {applied} has been applied already");
            return Err(fault::unavailable(&self.path, what));
        }
        if changes.len() > BATCH_LEN_MAX {
            let what = format_args!("a batch has {} changes, at most {BATCH_LEN_MAX} are allowed", changes.len());
            return Err(fault::unavailable(&self.path, what));
        }
        // RocksDB can live through a full disk, but only a flush that has room keeps what was applied.
        self.check_room(self.free_bytes_min)?;
        let mut stall = Stall::new();
        while let Err(error) = self.db.write_opt(self.batch(changes, covers), &tuning::write()) {
            if !fault::is_stall(&error) {
                return Err(fault::running(&self.path, &error));
            }
            self.wait_out(&mut stall)?;
        }
        self.applied.store(covers, Ordering::Release);
        Ok(())
    }

    fn wait_out(&self, stall: &mut Stall) -> Result<(), IndexError> {
        let has_room = || self.check_room(self.buffers_bytes);
        stall.wait(|| self.is_stopped(), has_room, |patience| fault::stalled(&self.path, patience))
    }

    /// Whether RocksDB takes no writes until a flush has ended.
    fn is_stopped(&self) -> bool {
        self.db.property_int_value(IS_WRITE_STOPPED).ok().flatten().unwrap_or(0) > 0
    }

    fn check_room(&self, free_bytes_min: u64) -> Result<(), IndexError> {
        if free_bytes_min == 0 {
            return Ok(());
        }
        let stat = rustix::fs::statvfs(&self.path).map_err(|error| fault::unavailable(&self.path, error))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < free_bytes_min {
            let what = format_args!("{free_bytes} bytes are free, the index needs {free_bytes_min}");
            return Err(fault::full(&self.path, what));
        }
        Ok(())
    }

    fn batch(&self, changes: &[IndexChange], covers: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        let mut value = Vec::with_capacity(256);
        for change in changes {
            self.add(&mut batch, &mut value, change);
        }
        batch.put_cf(self.column(META), columns::COVERED, sealed(columns::COVERED, &covers.to_le_bytes()));
        batch
    }

    fn add(&self, batch: &mut WriteBatch, value: &mut Vec<u8>, change: &IndexChange) {
        match change {
            IndexChange::Put(block, entry) => {
                let key = columns::block_key(*block);
                codec::encode(&key, entry, value);
                batch.put_cf(self.column(BLOCKS), key, value);
            }
            IndexChange::Remove(block) => batch.delete_cf(self.column(BLOCKS), columns::block_key(*block)),
            IndexChange::PutSpace(space) => {
                let key = columns::space_key(space.number);
                codec::encode(&key, space, value);
                batch.put_cf(self.column(SPACES), key, value);
            }
            IndexChange::RemoveSpace(number) => batch.delete_cf(self.column(SPACES), columns::space_key(*number)),
            IndexChange::Quarantine(slot) => {
                let key = columns::slot_key(*slot);
                codec::encode(&key, &(), value);
                batch.put_cf(self.column(QUARANTINE), key, value);
            }
        }
    }

    /// Looks blocks up, in their order.
    pub fn get_many(&self, blocks: &[BlockId]) -> Result<Vec<Option<IndexEntry>>, IndexError> {
        if blocks.len() > LOOKUP_LEN_MAX {
            let what = format_args!("a lookup has {} blocks, at most {LOOKUP_LEN_MAX} are allowed", blocks.len());
            return Err(fault::unavailable(&self.path, what));
        }
        let mut entries = Vec::with_capacity(blocks.len());
        for chunk in blocks.chunks(LOOKUP_CHUNK_LEN) {
            self.get_chunk(chunk, &mut entries)?;
        }
        Ok(entries)
    }

    fn get_chunk(&self, blocks: &[BlockId], entries: &mut Vec<Option<IndexEntry>>) -> Result<(), IndexError> {
        let keys: Vec<[u8; 16]> = blocks.iter().map(|block| columns::block_key(*block)).collect();
        let values = self.db.batched_multi_get_cf_opt(self.column(BLOCKS), &keys, false, &tuning::lookup());
        for (key, value) in keys.iter().zip(values) {
            let value = value.map_err(|error| fault::running(&self.path, &error))?;
            entries.push(value.map(|value| self.decode_entry(key, &value)).transpose()?);
        }
        Ok(())
    }

    fn decode_entry(&self, key: &[u8], value: &[u8]) -> Result<IndexEntry, IndexError> {
        codec::decode(key, value).map_err(|error| self.damaged(BLOCKS, key, &error))
    }

    /// Up to `count_max` entries above `after`, in id order. Fewer means that there are no more.
    pub fn scan(&self, after: Option<BlockId>, count_max: usize) -> Result<Vec<(BlockId, IndexEntry)>, IndexError> {
        let start = match after {
            None => Some(0),
            Some(BlockId(last)) => last.checked_add(1),
        };
        let Some(start) = start else { return Ok(Vec::new()) };
        let mut entries = Vec::with_capacity(count_max.min(SCAN_ROOM_LEN));
        if count_max == 0 {
            return Ok(entries);
        }
        self.walk(BLOCKS, &start.to_be_bytes(), |key, value| {
            let block = columns::block_of(key).ok_or_else(|| self.damaged(BLOCKS, key, &"not a key"))?;
            entries.push((block, self.decode_entry(key, value)?));
            Ok(entries.len() < count_max)
        })?;
        Ok(entries)
    }

    /// Every space, by number.
    pub fn spaces(&self) -> Result<Vec<SpaceRecord>, IndexError> {
        let mut spaces = Vec::new();
        self.walk(SPACES, &[], |key, value| {
            spaces.push(codec::decode(key, value).map_err(|error| self.damaged(SPACES, key, &error))?);
            Ok(true)
        })?;
        Ok(spaces)
    }

    /// Every quarantined slot, by device and offset.
    pub fn quarantined(&self) -> Result<Vec<Slot>, IndexError> {
        let mut slots = Vec::new();
        self.walk(QUARANTINE, &[], |key, value| {
            codec::decode::<()>(key, value).map_err(|error| self.damaged(QUARANTINE, key, &error))?;
            slots.push(columns::slot_of(key).ok_or_else(|| self.damaged(QUARANTINE, key, &"not a key"))?);
            Ok(true)
        })?;
        Ok(slots)
    }

    /// Shows `see` every key and value from `start` on until it says `false`.
    pub(crate) fn walk(
        &self,
        column_name: &str,
        start: &[u8],
        mut see: impl FnMut(&[u8], &[u8]) -> Result<bool, IndexError>,
    ) -> Result<(), IndexError> {
        let mut iterator: DBRawIterator<'_> = self.db.raw_iterator_cf_opt(self.column(column_name), tuning::scan());
        iterator.seek(start);
        while let Some((key, value)) = iterator.item() {
            if !see(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        // An iterator ends at an error as it ends at the end: only the status tells "no more" from "could not tell".
        iterator.status().map_err(|error| fault::running(&self.path, &error))
    }

    /// Flushes every column family in one step; returns the position now on stable storage.
    pub fn flush(&self) -> Result<u64, IndexError> {
        let applied = self.applied();
        if self.is_stopped() {
            // A flush would wait like a write, and cannot be told not to: RocksDB's C interface has the option, its Rust one not.
            // One that would only make the buffers full may still wait for the end of a recovery.
            self.wait_out(&mut Stall::new())?;
        }
        self.db
            .flush_cfs_opt(&all_columns(&self.db), &tuning::flush())
            .map_err(|error| fault::running(&self.path, &error))?;
        self.flushed.store(applied, Ordering::Release);
        Ok(applied)
    }

    fn damaged(&self, column_name: &str, key: &[u8], what: &dyn std::fmt::Display) -> IndexError {
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        fault::corrupt(&self.path, format_args!("the value of {column_name}/{key}: {what}"))
    }

    fn column(&self, name: &str) -> &ColumnFamily {
        column(&self.db, name)
    }
}
