//! `[nvme]` and `[policy]`: the persistent tier, and who has to leave.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::machine::FileState;
use crate::config::value::choice;

choice! {
    /// How the NVMe tier talks to its devices.
    Io {
        /// io_uring where it is allowed, else threads.
        Auto = "auto",
        /// io_uring or do not start.
        IoUring = "io_uring",
        /// A pool of threads.
        Threads = "threads",
    }
}

choice! {
    /// Which blocks are written to NVMe.
    Admission {
        /// Every one.
        All = "all",
        /// Those that were asked for again.
        SecondTouch = "second-touch",
    }
}

choice! {
    /// Which block leaves a full tier.
    Eviction {
        /// The least recently used one without resident descendants.
        LeafLru = "leaf-lru",
        /// S3-FIFO among those without resident descendants.
        S3Fifo = "s3-fifo",
    }
}

section! {
    /// The NVMe tier: blocks that survive a restart.
    Nvme at "nvme" {
        /// Whether there is one. Without it a restart forgets every block, and durable puts are declined.
        enabled: bool = Kind::Flag, Preset::Text("true"), Bound::NONE,
            wrong "false: nothing survives a restart";
        /// One file or block device per physical drive. Files are created and preallocated; devices are overwritten.
        files: Vec<PathBuf> = Kind::Paths,
            Preset::Computed { compute: |known| Value::Paths(vec![inside(known, "nvme-0.kv")]), words: "[\"<data_directory>/nvme-0.kv\"]" },
            Bound::NONE,
            wrong "a block device named by mistake loses what is on it; two files on one drive share its speed";
        /// Size of the extents a file is cut into; each extent holds blocks of one size. Fixed when a file is created.
        extent_bytes: u64 = Kind::Size, Preset::Text("64MiB"), Bound::between(MIB, GIB).multiple_of(MIB),
            wrong "smaller than a block: that block is declined for NVMe; too large: few sizes of block fit a small file";
        /// Size of each file: 1 MiB and whole extents, what is left over is not used. A hard cap. A percentage is divided among the files.
        bytes: u64 = Kind::SizeOf(Whole::Disk),
            Preset::Computed { compute: file_bytes, words: "what the first file already has; for a new one 20% of the free disk divided among the files, at most 256GiB in all" },
            Bound::between(16 * MIB, 256 * TIB),
            wrong "over the free space: the start is refused; too small: blocks are evicted before they are asked for again";
        /// Operations at one device at a time.
        queue_depth: u64 = Kind::Count, Preset::Text("64"), Bound::between(1, 4096),
            wrong "too low leaves the drive idle; too high makes loads wait behind stores inside the drive";
        /// How devices are driven.
        io: Io = Io::KIND, Preset::Text("auto"), Bound::NONE,
            wrong "io_uring does not start where the kernel or a container profile forbids it; threads use more CPU";
        /// Which blocks are written back without being put as durable.
        admission: Admission = Admission::KIND, Preset::Text("all"), Bound::NONE,
            wrong "all wears the drive most; second-touch forgets at a restart what was asked for only once";
        /// How fast idle time is used to verify stored blocks; 0 switches the scrubber off.
        scrub_bytes_per_second: u64 = Kind::Size, Preset::Text("16MiB"), Bound::between(0, 64 * GIB),
            wrong "0: damage is found only when a block is asked for; too high competes with loads";
        /// Failed or corrupt reads within `breaker_window` that close the tier for `breaker_cooldown`.
        breaker_failures: u64 = Kind::Count, Preset::Text("16"), Bound::between(1, 10_000),
            wrong "too low closes a tier over a single bad spot; too high keeps asking a dying drive";
        /// The window in which failures are counted.
        breaker_window: Duration = Kind::Time, Preset::Text("10s"), Bound::between(ms(100), seconds(3600)),
            wrong "too long: old failures count against a healthy drive";
        /// How long a closed tier is left alone before it is tried again.
        breaker_cooldown: Duration = Kind::Time, Preset::Text("30s"), Bound::between(ms(100), seconds(600)),
            wrong "too long: hits are lost after the drive has recovered";
    }
}

section! {
    /// Who has to leave when a tier is full.
    Policy at "policy" {
        /// The eviction policy of every tier. No policy removes a block before its descendants.
        eviction: Eviction = Eviction::KIND, Preset::Text("leaf-lru"), Bound::NONE,
            wrong "only the hit rate depends on it";
    }
}

/// What a file holds before its first extent (docs/FORMAT-nvme.md).
pub(crate) const HEAD_BYTES: u64 = MIB;

/// A size once taken stays: an existing first file keeps what it has, or each start would shrink the tier.
fn file_bytes(known: &Known<'_>) -> Value {
    let files: Vec<PathBuf> = known.values.find("nvme.files").expect("nvme.files is above nvme.bytes");
    let extent = size(known, "nvme.extent_bytes").max(MIB);
    let first = files.first().expect("a list of paths is never empty");
    if let FileState::File { bytes, .. } | FileState::Device { bytes } = known.machine.file(first)
        && bytes >= extent + HEAD_BYTES
    {
        return Value::Size(round_down(bytes, extent).max(extent + HEAD_BYTES));
    }
    let free = known.machine.disk(first).map_or(0, |disk| disk.free_bytes);
    let share = (free / 5).min(256 * GIB) / files.len() as u64;
    Value::Size(round_down(share, extent).max(extent + HEAD_BYTES))
}
