//! What a person may set, with units, defaults and bounds.

use crate::frame::GROUP_BYTES_FLOOR;

/// How far a new epoch's first sequence number lies beyond the last one seen on disk. A process may lose records that it
/// had numbered and not yet written; there are always fewer of them than this, so no number is used twice.
pub const EPOCH_SKIP: u64 = 1 << 20;
/// Records that may wait for the disk at the soft bound, whatever their size.
pub const QUEUE_RECORDS_SOFT: usize = 1 << 18;
/// Records that may wait at the hard bound; below [`EPOCH_SKIP`].
pub const QUEUE_RECORDS_HARD: usize = 1 << 19;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Settings of the log. Sizes in bytes, times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names a log that is made new; an existing one keeps its name. Must be random: it seeds the checksums, so that
    /// nobody can craft a key that looks like a frame, and no stray file of another log is taken for this one's.
    pub log_id: u128,
    /// Longest time a record waits for company before it is written. Default 5, at most 10,000. The loss bound of
    /// everything that nobody waited for.
    pub group_commit_ms_max: u64,
    /// A group this large is written at once; counted in memory, where a record takes three times its bytes on disk.
    /// Default 1 MiB, at least 64 KiB, at most `segment_bytes_max`.
    pub group_commit_bytes_max: u64,
    /// A segment is closed before it grows beyond this. Default 64 MiB, at least 64 KiB, at most 1 GiB.
    pub segment_bytes_max: u64,
    /// Covered segments are deleted, oldest first, while the log holds more than this. Default 1 GiB.
    pub retain_bytes: u64,
    /// Covered segments are deleted when their newest record is older than this. Default 7 days; 0: at once.
    pub retain_ms: u64,
    /// The log never grows beyond this: when uncovered segments fill it, the journal is suspended until the index
    /// catches up. Default 4 GiB, at least `retain_bytes` plus four segments.
    pub wal_bytes_max: u64,
    /// Soft bound of what waits for the disk: `ready` refuses at it. Default 16 MiB. The hard bound is twice this.
    pub queue_bytes_max: u64,
    /// Records kept in memory after they were written, so that readers of the tail need no disk. Default 16 MiB.
    pub recent_bytes_max: u64,
    /// First pause before a suspended journal tries again; doubles up to `retry_ms_max`. Default 100.
    pub retry_ms_min: u64,
    /// Longest such pause. Default 5,000.
    pub retry_ms_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log_id: 0,
            group_commit_ms_max: 5,
            group_commit_bytes_max: MIB,
            segment_bytes_max: 64 * MIB,
            retain_bytes: 1024 * MIB,
            retain_ms: 7 * 24 * 3600 * 1000,
            wal_bytes_max: 4096 * MIB,
            queue_bytes_max: 16 * MIB,
            recent_bytes_max: 16 * MIB,
            retry_ms_min: 100,
            retry_ms_max: 5000,
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}: {rule}")]
pub struct SettingProblem {
    /// Which setting.
    pub setting: &'static str,
    /// Its value.
    pub value: u64,
    /// What is allowed.
    pub rule: String,
}

impl Settings {
    /// All problems; empty when the settings can be used. Changes nothing.
    pub fn validate(&self) -> Vec<SettingProblem> {
        let wal_bytes_floor = self.retain_bytes.saturating_add(self.segment_bytes_max.saturating_mul(4));
        let bounds = [
            ("group_commit_ms_max", self.group_commit_ms_max, 0, 10_000),
            ("group_commit_bytes_max", self.group_commit_bytes_max, GROUP_BYTES_FLOOR, self.segment_bytes_max),
            ("segment_bytes_max", self.segment_bytes_max, 64 * KIB, 1024 * MIB),
            ("wal_bytes_max", self.wal_bytes_max, wal_bytes_floor, u64::MAX >> 2),
            ("queue_bytes_max", self.queue_bytes_max, 64 * KIB, 1024 * MIB),
            ("recent_bytes_max", self.recent_bytes_max, 0, 16 * 1024 * MIB),
            ("retry_ms_min", self.retry_ms_min, 1, self.retry_ms_max),
            ("retry_ms_max", self.retry_ms_max, 1, 3_600_000),
        ];
        bounds
            .into_iter()
            .filter(|(_, value, low, high)| value < low || value > high)
            .map(|(setting, value, low, high)| SettingProblem {
                setting,
                value,
                rule: format!("it must lie between {low} and {high}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().validate(), vec![]);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let settings = Settings {
            group_commit_ms_max: 60_000,
            wal_bytes_max: 1,
            retry_ms_min: 9000,
            queue_bytes_max: 1,
            ..Settings::default()
        };
        let named: Vec<_> = settings.validate().into_iter().map(|problem| problem.setting).collect();
        assert_eq!(named, ["group_commit_ms_max", "wal_bytes_max", "queue_bytes_max", "retry_ms_min"]);
    }

    #[test]
    fn fewer_records_can_be_lost_than_an_epoch_skips() {
        const { assert!((QUEUE_RECORDS_HARD as u64) < EPOCH_SKIP) };
        const { assert!(QUEUE_RECORDS_SOFT < QUEUE_RECORDS_HARD) };
    }
}
