//! What a person may say about the NVMe tier.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kvtier_engine::place::PAGE_BYTES;

use crate::layout::FIRST_EXTENT_OFFSET;

/// Most data files.
pub const PATHS_MAX: usize = 64;
/// Smallest and largest extent in bytes.
pub const EXTENT_BYTES_RANGE: (u64, u64) = (64 << 10, 1 << 30);
/// Largest data file in bytes.
pub const BYTES_MAX: u64 = 256 << 40;

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

/// Where the tier is, how large, and how hard it drives its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeSettings {
    /// One data file or block device each, at most 64, in an order that never changes: slots name devices by their
    /// place in it. Default `nvme-0.blocks` (the daemon puts relative paths below its data directory).
    pub paths: Vec<PathBuf>,
    /// Size of *each* data file in bytes: the tier's hard cap per device, allocated once. Default 4 GiB, at least
    /// 1 MiB and one extent, at most 256 TiB, a multiple of 4 KiB. The first MiB holds the superblock, the rest is cut
    /// into extents; what is left over stays unused. An existing file is neither grown nor shrunk.
    pub bytes: u64,
    /// Bytes of one extent; each extent serves one size of slots at a time. Default 64 MiB, 64 KiB to 1 GiB, a
    /// multiple of 4 KiB. Must hold the largest block and its header page. Fixed when the file is made.
    pub extent_bytes: u64,
    /// Operations at one device at a time. Default 64, 1 to 4096. Too low starves the device, too high makes loads
    /// wait behind stores that the device has already taken.
    pub queue_depth: u32,
    /// Loads, and as many stores again, that one device may have under way or waiting; the rest of a batch is answered
    /// `Busy`. Default 8192, 1 to 65536.
    pub queue_ops: u32,
    /// Failed or corrupt reads of one device within `breaker_window` that open its breaker. Default 32, 1 to 10000.
    /// Too low: a few bad sectors take the device away for a while. Too high: a dying device slows every load.
    pub breaker_errors: u32,
    /// The window. Default 10 s, 100 ms to 1 hour.
    pub breaker_window: Duration,
    /// First pause before an open breaker probes the device; doubles with every failed probe up to 64 times. Default
    /// 1 s, 10 ms to 10 minutes.
    pub breaker_pause: Duration,
    /// Bytes per second and device that verification in place (scrubbing) reads at most. Default 64 MiB, 4 KiB to
    /// 64 GiB. It also waits for idle time; a higher rate finds rot earlier and costs CPU.
    pub scrub_bytes_per_second: u64,
}

impl Default for NvmeSettings {
    fn default() -> Self {
        Self {
            paths: vec![PathBuf::from("nvme-0.blocks")],
            bytes: 4 << 30,
            extent_bytes: 64 << 20,
            queue_depth: 64,
            queue_ops: 8192,
            breaker_errors: 32,
            breaker_window: Duration::from_secs(10),
            breaker_pause: Duration::from_secs(1),
            scrub_bytes_per_second: 64 << 20,
        }
    }
}

impl NvmeSettings {
    /// Checks every setting and returns *all* problems; changes nothing and touches no file.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        self.check_paths(&mut problems);
        self.check_sizes(&mut problems);
        let mut bound = |setting, value: u64, low: u64, high: u64, unit: &str| {
            if !(low..=high).contains(&value) {
                let message = format!("{value}{unit} is not between {low}{unit} and {high}{unit}");
                problems.push(Problem { setting, message });
            }
        };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        bound("queue_depth", self.queue_depth.into(), 1, 4096, "");
        bound("queue_ops", self.queue_ops.into(), 1, 65536, "");
        bound("breaker_errors", self.breaker_errors.into(), 1, 10_000, "");
        bound("breaker_window", ms(self.breaker_window), 100, 3_600_000, " ms");
        bound("breaker_pause", ms(self.breaker_pause), 10, 600_000, " ms");
        bound("scrub_bytes_per_second", self.scrub_bytes_per_second, 4096, 64 << 30, "");
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn check_paths(&self, problems: &mut Vec<Problem>) {
        let mut refuse = |message| problems.push(Problem { setting: "paths", message });
        if self.paths.is_empty() {
            refuse("no data file is named; name at least one, or switch the tier off".into());
        }
        if self.paths.len() > PATHS_MAX {
            refuse(format!("{} data files are more than {PATHS_MAX}", self.paths.len()));
        }
        for (at, path) in self.paths.iter().enumerate() {
            if path.as_os_str().is_empty() {
                refuse(format!("path {at} is empty"));
            } else if self.paths[..at].contains(path) {
                refuse(format!("{} is named twice", path.display()));
            }
        }
    }

    fn check_sizes(&self, problems: &mut Vec<Problem>) {
        let (low, high) = EXTENT_BYTES_RANGE;
        let (bytes, extent) = (self.bytes, self.extent_bytes);
        let mut refuse = |setting, message| problems.push(Problem { setting, message });
        let extent_is_good = (low..=high).contains(&extent) && extent.is_multiple_of(PAGE_BYTES);
        if !extent_is_good {
            refuse("extent_bytes", format!("{extent} is not a multiple of {PAGE_BYTES} between {low} and {high}"));
        }
        if !bytes.is_multiple_of(PAGE_BYTES) {
            refuse("bytes", format!("{bytes} is not a multiple of {PAGE_BYTES}"));
        }
        let least = FIRST_EXTENT_OFFSET + if extent_is_good { extent } else { low };
        if !(least..=BYTES_MAX).contains(&bytes) {
            refuse("bytes", format!("{bytes} is not between {least} (1 MiB and one extent) and {BYTES_MAX}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(NvmeSettings::default().validate(), Ok(()));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let settings = NvmeSettings {
            paths: vec!["a".into(), "a".into(), "".into()],
            bytes: 4097,
            extent_bytes: 1,
            queue_depth: 0,
            queue_ops: 70_000,
            breaker_errors: 0,
            breaker_window: Duration::ZERO,
            breaker_pause: Duration::MAX,
            scrub_bytes_per_second: 0,
        };
        let problems = settings.validate().unwrap_err();
        let named: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
        let expected = [
            "paths",
            "paths",
            "extent_bytes",
            "bytes",
            "bytes",
            "queue_depth",
            "queue_ops",
            "breaker_errors",
            "breaker_window",
            "breaker_pause",
            "scrub_bytes_per_second",
        ];
        assert_eq!(named, expected, "{problems:#?}");
    }

    #[test]
    fn a_file_must_hold_the_first_mib_and_one_extent() {
        let least = NvmeSettings { bytes: (1 << 20) + (64 << 20), ..Default::default() };
        assert_eq!(least.validate(), Ok(()));
        let less = NvmeSettings { bytes: least.bytes - 4096, ..Default::default() };
        assert!(less.validate().unwrap_err()[0].to_string().contains("one extent"));
    }

    #[test]
    fn no_paths_and_too_many_paths_are_refused() {
        let none = NvmeSettings { paths: vec![], ..Default::default() };
        let many = (0..65).map(|at| format!("f{at}").into()).collect();
        let many = NvmeSettings { paths: many, ..Default::default() };
        for settings in [none, many] {
            assert_eq!(settings.validate().unwrap_err().len(), 1, "{settings:?}");
        }
    }
}
