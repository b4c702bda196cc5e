//! How RocksDB is set up, and why.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, FlushOptions, LogLevel, Options, ReadOptions,
    WriteOptions,
};

use crate::columns;
use crate::settings::IndexSettings;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Bits per key: one lookup in a hundred of an absent block reads a data block in vain.
const FILTER_BITS: f64 = 10.0;
/// A lookup of a scattered block reads and decompresses one data block, so small ones; bigger ones only help scans.
const DATA_BLOCK_BYTES: usize = 4 * KIB;
/// Keeps ten million entries in some forty files.
const FILE_BYTES: u64 = 32 << 20;
/// One read of a scan.
const SCAN_READAHEAD_BYTES: usize = MIB;
/// Write buffers of one column family: one being filled and two being flushed.
const WRITE_BUFFER_COUNT_MAX: i32 = 3;

/// Options of the database. `create`: make what is missing.
pub(crate) fn database(settings: &IndexSettings, create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    options.set_max_open_files(i32::try_from(settings.open_files_max).unwrap_or(i32::MAX));
    // Opening must not read every file: neither for statistics nor to check what every read checks again.
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_file_opening_threads(2);
    // One flush and one compaction at a time: the data path needs the cores more.
    options.set_max_background_jobs(2);
    options.set_max_subcompactions(1);
    // The manifest is read at every open: keep it short.
    options.set_max_manifest_file_size(MIB);
    options.set_bytes_per_sync(MIB as u64);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 * MIB);
    options
}

/// Descriptors of every column family; they share one cache.
pub(crate) fn descriptors(settings: &IndexSettings) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(usize::try_from(settings.cache_bytes).unwrap_or(usize::MAX));
    columns::ALL.into_iter().map(|name| ColumnFamilyDescriptor::new(name, column(name, settings, &cache))).collect()
}

fn column(name: &str, settings: &IndexSettings, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table(cache));
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_target_file_size_base(FILE_BYTES);
    options.set_max_bytes_for_level_base(4 * FILE_BYTES);
    options.set_max_write_buffer_number(WRITE_BUFFER_COUNT_MAX);
    options.set_write_buffer_size(write_buffer_bytes(name, settings));
    options
}

/// A full buffer of any column family flushes all. Every batch puts some 60 bytes into `meta` and some 180 per block into
/// `blocks`, so half the size keeps batches of single blocks from being flushed by `meta` alone.
fn write_buffer_bytes(name: &str, settings: &IndexSettings) -> usize {
    let bytes = usize::try_from(settings.write_buffer_bytes).unwrap_or(usize::MAX);
    match name {
        columns::BLOCKS => bytes,
        columns::META => bytes / 2,
        _ => bytes.min(MIB),
    }
}

fn table(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(DATA_BLOCK_BYTES);
    // Ribbon where files live long (a third less RAM), bloom in level 0 (three times faster to build).
    table.set_hybrid_ribbon_filter(FILTER_BITS, 1);
    // Indexes and filters are charged to the cache, so RAM has one bound.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    table
}

/// How batches are written: never to RocksDB's own log, and refused instead of kept waiting (see [`crate::stall`]).
pub(crate) fn write() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options.set_no_slowdown(true);
    options
}

/// How lookups read.
pub(crate) fn lookup() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

/// How scans read: in id order, ahead, and past the cache, which lookups need.
pub(crate) fn scan() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.set_total_order_seek(true);
    options.fill_cache(false);
    options.set_readahead_size(SCAN_READAHEAD_BYTES);
    options
}

/// How the index is flushed: the caller waits until everything is on stable storage.
pub(crate) fn flush() -> FlushOptions {
    let mut options = FlushOptions::default();
    options.set_wait(true);
    options
}
