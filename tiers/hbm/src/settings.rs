//! What a person may say about the tier.

use std::fmt;
use std::time::Duration;

use crate::ways::CopiedFrom;

/// How large the daemon's own pool on each GPU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolSize {
    /// There is none.
    #[default]
    Off,
    /// So many bytes.
    Bytes(u64),
    /// A share of the GPU's memory, 1 to 95.
    Percent(u32),
}

/// Smallest and largest extent in bytes.
pub const EXTENT_BYTES_MIN: u64 = 64 << 10;
/// A slot lies in one extent, so this also bounds blocks.
pub const EXTENT_BYTES_MAX: u64 = 1 << 30;
/// More would leave nothing for the engine's activations.
pub const POOL_PERCENT_MAX: u32 = 95;

/// One thing that is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

/// Size and bounds of the tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbmSettings {
    /// The pool on each GPU; rounded down to whole extents. Default off. Too large: the inference engine finds no memory
    /// for its own KV cache and does not start.
    pub pool: PoolSize,
    /// Bytes of one extent; each serves one size of slots at a time. Default 32 MiB, 64 KiB to 1 GiB, a multiple of 4 KiB.
    /// Must hold the largest block and its header page.
    pub extent_bytes: u64,
    /// Operations that wait for one GPU at most; further ones are answered Busy (INV-5). Default 4,096.
    pub queue_operations: usize,
    /// From which length of a contiguous run on host copies go through the copy engines; shorter ones through a kernel
    /// that reads and writes host memory itself. Default 64 KiB, until [`HbmTier::measure_ways`](crate::HbmTier::measure_ways)
    /// has found what is faster on this machine.
    pub copied_from: CopiedFrom,
    /// After so long without any progress of a lane that has work, the GPU counts as hung: its tier is poisoned and whoever
    /// waits for it is told. Default 30 s. Too short: a GPU that is busy with large kernels of the engine is given up.
    pub hang_timeout: Duration,
}

impl Default for HbmSettings {
    fn default() -> Self {
        Self {
            pool: PoolSize::Off,
            extent_bytes: 32 << 20,
            queue_operations: 4096,
            copied_from: CopiedFrom::all(64 << 10),
            hang_timeout: Duration::from_secs(30),
        }
    }
}

impl HbmSettings {
    /// Checks every setting and returns *all* problems; changes nothing.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut refuse = |setting, message| problems.push(Problem { setting, message });
        let extent = self.extent_bytes;
        if !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent) || !extent.is_multiple_of(4096) {
            let between = format!("a multiple of 4096 between {EXTENT_BYTES_MIN} and {EXTENT_BYTES_MAX}");
            refuse("extent_bytes", format!("{extent} is not {between}"));
        }
        match self.pool {
            PoolSize::Bytes(bytes) if bytes < extent => {
                refuse("pool", format!("{bytes} bytes hold no extent of {extent}; use at least one, or off"));
            }
            PoolSize::Percent(percent) if !(1..=POOL_PERCENT_MAX).contains(&percent) => {
                refuse("pool", format!("{percent} % is not between 1 and {POOL_PERCENT_MAX}"));
            }
            _ => {}
        }
        if self.queue_operations == 0 {
            refuse("queue_operations", "0 lets nothing through; use at least 1".into());
        }
        if self.hang_timeout.is_zero() {
            refuse("hang_timeout", "0 gives up every GPU at once; use some seconds".into());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Bytes of the pool on a GPU of that size: a whole number of extents.
    pub fn pool_bytes(&self, total_bytes: u64) -> u64 {
        let asked = match self.pool {
            PoolSize::Off => 0,
            PoolSize::Bytes(bytes) => bytes,
            PoolSize::Percent(percent) => (u128::from(total_bytes) * u128::from(percent) / 100) as u64,
        };
        asked / self.extent_bytes * self.extent_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_whole_number_of_extents_and_off_unless_asked_for() {
        let sized = |pool| HbmSettings { pool, ..HbmSettings::default() }.pool_bytes(141 << 30);
        assert_eq!(sized(PoolSize::Off), 0);
        assert_eq!(sized(PoolSize::Bytes((100 << 20) + 1)), 96 << 20);
        assert_eq!(sized(PoolSize::Percent(10)), (141u64 << 30) / 10 / (32 << 20) * (32 << 20));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let settings =
            HbmSettings { pool: PoolSize::Percent(99), extent_bytes: 5000, queue_operations: 0, ..Default::default() };
        let named: Vec<_> = settings.validate().unwrap_err().iter().map(|problem| problem.setting).collect();
        assert_eq!(named, ["extent_bytes", "pool", "queue_operations"]);
        assert_eq!(HbmSettings::default().validate(), Ok(()));
    }
}
