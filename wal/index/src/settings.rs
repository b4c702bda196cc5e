//! What a person may set about the index.

use std::ops::RangeInclusive;

/// Settings of the index. [`IndexSettings::default`] suits a node with up to ten million blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSettings {
    /// RAM for blocks of the index files, in bytes, their filters and block indexes included. Default 32 MiB, 1 MiB to
    /// 64 GiB. Too small: lookups read filters from the disk again and again.
    pub cache_bytes: u64,
    /// RAM that collects changes before RocksDB flushes by itself, in bytes. Default 16 MiB, 64 KiB to 1 GiB. RocksDB may
    /// hold five times as much while it flushes. Too small: many small files and more disk writes.
    pub write_buffer_bytes: u64,
    /// Index files kept open. Default 256, 16 to 65,536. Too small: lookups open files; too large: the process runs out
    /// of file descriptors.
    pub open_files_max: u32,
    /// Threads that read. Default 2, 1 to 16.
    pub reader_threads: u32,
    /// Calls that may wait in each of the two queues; one more is refused as unavailable. Default 256, 1 to 65,536.
    pub queue_len_max: u32,
    /// The index refuses batches as `Full` while its file system has fewer free bytes than this, so that a flush of
    /// what it already holds still fits. Default 64 MiB, at most 1 TiB; 0 switches the check off.
    pub free_bytes_min: u64,
    /// Identity of the data directory the index belongs to. Stored at creation and compared at every open, so that an
    /// index is never read together with another node's journal. Default: not compared.
    pub node: Option<[u8; 16]>,
}

/// What is wrong with one setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("index setting {name} is {value}: allowed is {lowest} to {highest}")]
pub struct SettingProblem {
    /// Name of the setting.
    pub name: &'static str,
    /// The value as given.
    pub value: u64,
    /// Lowest allowed value.
    pub lowest: u64,
    /// Highest allowed value.
    pub highest: u64,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            cache_bytes: 32 * MIB,
            write_buffer_bytes: 16 * MIB,
            open_files_max: 256,
            reader_threads: 2,
            queue_len_max: 256,
            free_bytes_min: 64 * MIB,
            node: None,
        }
    }
}

impl IndexSettings {
    /// What all write buffers hold at most.
    pub(crate) fn buffers_bytes(&self) -> u64 {
        self.write_buffer_bytes.saturating_mul(5)
    }

    /// All problems, in the order of the fields; empty when there are none.
    pub fn validate(&self) -> Vec<SettingProblem> {
        let fields: [(&'static str, u64, RangeInclusive<u64>); 6] = [
            ("cache_bytes", self.cache_bytes, MIB..=64 * GIB),
            ("write_buffer_bytes", self.write_buffer_bytes, 64 * KIB..=GIB),
            ("open_files_max", self.open_files_max.into(), 16..=65_536),
            ("reader_threads", self.reader_threads.into(), 1..=16),
            ("queue_len_max", self.queue_len_max.into(), 1..=65_536),
            ("free_bytes_min", self.free_bytes_min, 0..=1024 * GIB),
        ];
        fields
            .into_iter()
            .filter(|(_, value, allowed)| !allowed.contains(value))
            .map(|(name, value, allowed)| SettingProblem {
                name,
                value,
                lowest: *allowed.start(),
                highest: *allowed.end(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problem() {
        assert_eq!(IndexSettings::default().validate(), []);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let settings = IndexSettings {
            cache_bytes: 0,
            write_buffer_bytes: 2 * GIB,
            open_files_max: 1,
            reader_threads: 0,
            queue_len_max: 0,
            free_bytes_min: u64::MAX,
            node: None,
        };
        let names: Vec<_> = settings.validate().into_iter().map(|problem| problem.name).collect();
        assert_eq!(
            names,
            [
                "cache_bytes",
                "write_buffer_bytes",
                "open_files_max",
                "reader_threads",
                "queue_len_max",
                "free_bytes_min"
            ]
        );
        assert_eq!(settings.validate()[3].to_string(), "index setting reader_threads is 0: allowed is 1 to 16");
    }
}
