//! What a person may say about the arena.

use std::fmt;
use std::str::FromStr;

use kvtier_engine::place::PAGE_BYTES;

/// Smallest extent in bytes.
pub const EXTENT_BYTES_MIN: u64 = 64 << 10;
/// Largest extent in bytes. A slot lies in one extent, so this also bounds blocks.
pub const EXTENT_BYTES_MAX: u64 = 1 << 30;
/// Largest arena in bytes.
pub const ARENA_BYTES_MAX: u64 = 64 << 40;

/// How much the owner wants something the machine may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// Do not even try.
    Off,
    /// Take it if it can be had; the report says why not.
    #[default]
    Auto,
    /// Fail to start without it.
    Require,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Require => "require",
        })
    }
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "require" => Ok(Self::Require),
            other => Err(format!("{other:?} is not one of off, auto, require")),
        }
    }
}

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

/// Size and kind of the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaSettings {
    /// Hard cap of the host tier in bytes; a whole number of extents. Default 1 GiB, at most 64 TiB and at most what
    /// the machine (or the container) has. Too small: blocks are evicted before they are reused. Too large: the
    /// machine swaps or the kernel kills the daemon.
    pub bytes: u64,
    /// Bytes of one extent; each extent serves one size of slots at a time. Default 64 MiB, 64 KiB to 1 GiB, a
    /// multiple of 4 KiB (of 2 MiB with `huge_pages = require`). Must hold the largest block and its header page.
    /// Larger extents waste more when many block sizes are in use, smaller ones waste a larger tail each.
    pub extent_bytes: u64,
    /// Whether to back the arena with 2 MiB pages: fewer TLB misses, less kernel memory. `auto` takes reserved huge
    /// pages (`vm.nr_hugepages`) if enough are free, else asks for transparent ones, else makes huge pages of small ones
    /// while prefaulting (Linux 6.1); `require` insists on reserved ones. Default auto.
    pub huge_pages: Wish,
    /// Whether to keep the arena from being swapped out. Needs `CAP_IPC_LOCK` or a memlock limit (`LimitMEMLOCK` in
    /// systemd) of at least `bytes`. Default auto.
    pub mlock: Wish,
    /// Whether to touch all pages in the background after start, so that the first puts do not pay for page faults.
    /// Default true; it takes one core 0.1 s per GiB of 2 MiB pages and 0.8 s per GiB of 4 KiB pages, and the memory is
    /// then in use at once.
    pub prefault: bool,
}

impl Default for ArenaSettings {
    fn default() -> Self {
        Self { bytes: 1 << 30, extent_bytes: 64 << 20, huge_pages: Wish::Auto, mlock: Wish::Auto, prefault: true }
    }
}

impl ArenaSettings {
    /// Checks every setting and returns *all* problems; changes nothing.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut refuse = |setting, message| problems.push(Problem { setting, message });
        let extent = self.extent_bytes;
        if !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent) {
            refuse("extent_bytes", format!("{extent} is not between {EXTENT_BYTES_MIN} and {EXTENT_BYTES_MAX}"));
        } else if !extent.is_multiple_of(PAGE_BYTES) {
            refuse("extent_bytes", format!("{extent} is not a multiple of {PAGE_BYTES}"));
        } else if self.bytes != 0 && !self.bytes.is_multiple_of(extent) {
            let below = self.bytes / extent * extent;
            let right = if below == 0 { extent } else { below };
            refuse("bytes", format!("{} is not a whole number of extents of {extent}; {right} would be", self.bytes));
        }
        if self.bytes == 0 {
            refuse("bytes", "0 leaves no room for any block; use at least one extent".into());
        }
        if self.bytes > ARENA_BYTES_MAX {
            refuse("bytes", format!("{} is more than {ARENA_BYTES_MAX}", self.bytes));
        }
        if self.huge_pages == Wish::Require && !self.bytes.is_multiple_of(HUGE_PAGE_BYTES) {
            refuse("bytes", format!("{} is not a multiple of {HUGE_PAGE_BYTES}, which huge_pages needs", self.bytes));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// Bytes of a huge page.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(ArenaSettings::default().validate(), Ok(()));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let settings =
            ArenaSettings { bytes: u64::MAX, extent_bytes: 100, huge_pages: Wish::Require, ..Default::default() };
        let problems = settings.validate().unwrap_err();
        let named: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
        assert_eq!(named, ["extent_bytes", "bytes", "bytes"], "{problems:?}");
    }

    #[test]
    fn a_partial_extent_is_refused_with_the_size_that_would_do() {
        let settings = ArenaSettings { bytes: (64 << 20) + 1, ..Default::default() };
        let problems = settings.validate().unwrap_err();
        assert!(problems[0].message.contains("67108864 would be"), "{problems:?}");
    }

    #[test]
    fn zero_bytes_and_odd_extents_are_refused() {
        for (bytes, extent_bytes) in [(0, 64 << 20), (1 << 20, (64 << 10) + 1), (1 << 30, 2 << 30)] {
            let settings = ArenaSettings { bytes, extent_bytes, ..Default::default() };
            assert_eq!(settings.validate().unwrap_err().len(), 1, "{settings:?}");
        }
    }

    #[test]
    fn a_wish_reads_as_it_prints() {
        for wish in [Wish::Off, Wish::Auto, Wish::Require] {
            assert_eq!(wish.to_string().parse(), Ok(wish));
        }
        assert!("on".parse::<Wish>().unwrap_err().contains("off, auto, require"));
    }
}
