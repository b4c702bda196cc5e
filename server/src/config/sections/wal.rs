//! `[wal]`: the event log.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

section! {
    /// The event log: at once the commit log of durable blocks and the stream that subscribers read.
    Wal at "wal" {
        /// Where its segments are.
        directory: PathBuf = Kind::Path,
            Preset::Computed { compute: |known| Value::Path(Some(inside(known, "wal"))), words: "<data_directory>/wal" },
            Bound::NONE,
            wrong "another directory than the index was written with: every durable block is forgotten";
        /// How long a record may wait for others to share its sync. Also what a power cut may cost of what was not
        /// acknowledged as durable.
        group_commit_max_delay: Duration = Kind::Time, Preset::Text("5ms"), Bound::between(0, seconds(1)),
            wrong "too short wears the drive with syncs; too long delays every durable put";
        /// Bytes of waiting records that start a sync at once.
        group_commit_max_bytes: u64 = Kind::Size, Preset::Text("1MiB"), Bound::between(64 * KIB, 64 * MIB),
            wrong "too low syncs too often under load";
        /// Bytes of records that may wait for the disk; more puts are told to try again.
        buffer_bytes_max: u64 = Kind::Size, Preset::Text("32MiB"), Bound::between(MIB, GIB),
            wrong "too low throttles bursts; too high costs memory";
        /// Size of one segment file.
        segment_bytes: u64 = Kind::Size, Preset::Text("64MiB"), Bound::between(MIB, GIB),
            wrong "too small makes many files; too large makes retention coarse";
        /// Segments the index no longer needs are kept for subscribers up to this many bytes.
        retain_bytes: u64 = Kind::Size, Preset::Text("1GiB"), Bound::between(0, 64 * TIB),
            wrong "too low: a subscriber that was away starts over with a snapshot";
        /// And up to this age.
        retain_age: Duration = Kind::Time, Preset::Text("24h"), Bound::between(0, seconds(366 * 86_400)),
            wrong "too short: a subscriber that was away starts over with a snapshot";
        /// Hard cap of the whole log. At the cap durable puts are declined until the index has caught up.
        bytes_max: u64 = Kind::Size, Preset::Text("4GiB"), Bound::between(4 * MIB, 64 * TIB),
            wrong "below retain_bytes and four segments it is refused; too high may fill the disk";
    }
}
