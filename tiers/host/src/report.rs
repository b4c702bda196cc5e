//! What the arena got from the machine and why not more, for the log and `status`.

use std::fmt;

/// Which pages back the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved 2 MiB pages.
    Reserved,
    /// The kernel was asked for transparent huge pages and will give them where it can.
    Transparent {
        /// Why not reserved ones.
        why_not_reserved: String,
    },
    /// 4 KiB pages, each 2 MiB of which is put into a huge page while it is prefaulted;
    /// [`PrefaultProgress`](crate::PrefaultProgress) says how many have been.
    Collapsed {
        /// Why neither reserved nor transparent ones.
        why: String,
    },
    /// 4 KiB pages.
    Small {
        /// Why not larger ones.
        why: String,
    },
}

/// Whether the arena can be swapped out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locking {
    /// Each page is locked once it has been touched.
    Locked,
    /// Reserved huge pages are never swapped.
    NotNeeded,
    /// It may be swapped out.
    Swappable {
        /// Why.
        why: String,
    },
}

/// What was got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaReport {
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Pages.
    pub huge_pages: HugePages,
    /// Locking.
    pub locking: Locking,
}

impl HugePages {
    /// Whether prefaulting makes huge pages of small ones.
    pub(crate) fn are_collapsed(&self) -> bool {
        matches!(self, Self::Transparent { .. } | Self::Collapsed { .. })
    }
}

impl fmt::Display for ArenaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in extents of {}, ", shown(self.bytes), shown(self.extent_bytes))?;
        match &self.huge_pages {
            HugePages::Reserved => f.write_str("reserved 2 MiB pages")?,
            HugePages::Transparent { why_not_reserved } => {
                write!(f, "transparent huge pages (reserved ones: {why_not_reserved})")?;
            }
            HugePages::Collapsed { why } => write!(f, "4 KiB pages put into 2 MiB ones while prefaulted ({why})")?,
            HugePages::Small { why } => write!(f, "4 KiB pages ({why})")?,
        }
        match &self.locking {
            Locking::Locked => f.write_str(", locked in memory"),
            Locking::NotNeeded => f.write_str(", never swapped"),
            Locking::Swappable { why } => write!(f, ", may be swapped ({why})"),
        }
    }
}

/// An extent is a multiple of 4 KiB.
fn shown(bytes: u64) -> String {
    match bytes.is_multiple_of(1 << 20) {
        true => format!("{} MiB", bytes >> 20),
        false => format!("{} KiB", bytes >> 10),
    }
}
