//! `[index]`: the metadata index.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

section! {
    /// The index of durable blocks on disk (RocksDB), from which a restart recovers.
    Index at "index" {
        /// Where it is.
        directory: PathBuf = Kind::Path,
            Preset::Computed { compute: |known| Value::Path(Some(inside(known, "index"))), words: "<data_directory>/index" },
            Bound::NONE,
            wrong "another directory: every durable block is forgotten";
        /// Cache of index pages in memory.
        cache_bytes: u64 = Kind::Size, Preset::Text("32MiB"), Bound::between(MIB, TIB),
            wrong "too small: lookups right after a restart read the disk";
        /// Memory for changes that have not been flushed.
        write_buffer_bytes: u64 = Kind::Size, Preset::Text("32MiB"), Bound::between(MIB, 64 * GIB),
            wrong "too small flushes and compacts too often; too large lengthens recovery";
        /// How often changes are flushed, so that the event log can forget them.
        flush_interval: Duration = Kind::Time, Preset::Text("10s"), Bound::between(ms(100), seconds(3600)),
            wrong "too long lengthens recovery and the log; too short writes more than needed";
    }
}
