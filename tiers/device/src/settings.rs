//! What a person may set about a disk.

use std::path::PathBuf;

use crate::transfer::ALIGNMENT_BYTES;

/// How a disk is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// io_uring where the kernel allows it, else threads.
    #[default]
    Auto,
    /// io_uring, or fail.
    Uring,
    /// Threads.
    Pool,
}

/// Settings of one disk.
///
/// ```
/// use kvtier_device::DiskSettings;
///
/// let mut settings = DiskSettings::new("/var/lib/kvtier/nvme0");
/// assert!(settings.validate().is_empty());
/// settings.depth = 0;
/// assert_eq!(settings.validate(), ["depth = 0: must be 1 to 4096"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// A file or a block device.
    pub path: PathBuf,
    /// Size of the file, a multiple of 4 KiB: it is created, or grown, to this. `None`: it must exist and is used as
    /// it is. A block device may be given fewer bytes than it has, and is then used up to there.
    pub bytes: Option<u64>,
    /// Which driver.
    pub driver: Driver,
    /// Transfers at the device at once, 1 to 4096. Too low starves a fast device, too high makes loads wait.
    pub depth: u32,
    /// Transfers that may wait, per priority, 1 to 1,048,576; more are answered `Busy`.
    pub queue_count_max: u32,
    /// Longest single transfer in bytes, 4 KiB to 64 MiB, a multiple of 4 KiB. Longer operations are cut, neighbours are
    /// joined up to this. The default takes a block of 4 MiB with its header page in one.
    pub transfer_bytes_max: u32,
    /// Stores at the device at once in bytes, at least 4 KiB: what a load may find before it. The default keeps the drives
    /// measured so far busy, and is 2 to 7 ms of their time.
    pub store_bytes_in_flight_max: u64,
    /// Threads of the pool driver, 1 to 256.
    pub pool_thread_count: u32,
    /// Pieces in which an arena is registered with the ring, 1 MiB to 512 MiB, a multiple of 2 MiB or 1 MiB: small ones
    /// hold the ring up less while they are pinned.
    pub arena_chunk_bytes: u64,
}

impl DiskSettings {
    /// The defaults for a file or device at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bytes: None,
            driver: Driver::Auto,
            depth: 64,
            queue_count_max: 16_384,
            transfer_bytes_max: (4 << 20) + ALIGNMENT_BYTES as u32,
            store_bytes_in_flight_max: 16 << 20,
            pool_thread_count: 16,
            arena_chunk_bytes: 64 << 20,
        }
    }

    /// Every problem, each with the setting's name, value and remedy; empty if there is none.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |fine: bool, name: &str, value: u64, remedy: &str| {
            if !fine {
                problems.push(format!("{name} = {value}: must be {remedy}"));
            }
        };
        let aligned = |value: u64| value > 0 && value.is_multiple_of(ALIGNMENT_BYTES);
        let bytes = self.bytes.unwrap_or(ALIGNMENT_BYTES);
        require(aligned(bytes), "bytes", bytes, "a multiple of 4096, and not 0");
        require((1..=4096).contains(&self.depth), "depth", self.depth.into(), "1 to 4096");
        let queue = self.queue_count_max;
        require((1..=1 << 20).contains(&queue), "queue_count_max", queue.into(), "1 to 1048576");
        let transfer = u64::from(self.transfer_bytes_max);
        let fine = aligned(transfer) && transfer <= 64 << 20;
        require(fine, "transfer_bytes_max", transfer, "a multiple of 4096 from 4096 to 67108864");
        let stores = self.store_bytes_in_flight_max;
        require(stores >= ALIGNMENT_BYTES, "store_bytes_in_flight_max", stores, "at least 4096");
        let threads = self.pool_thread_count;
        require((1..=256).contains(&threads), "pool_thread_count", threads.into(), "1 to 256");
        let chunk = self.arena_chunk_bytes;
        let fine = chunk.is_multiple_of(1 << 20) && (1 << 20..=512 << 20).contains(&chunk);
        require(fine, "arena_chunk_bytes", chunk, "a multiple of 1048576 from 1048576 to 536870912");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_named_at_once() {
        let mut settings = DiskSettings::new("x");
        settings.bytes = Some(5000);
        settings.depth = 5000;
        settings.queue_count_max = 0;
        settings.transfer_bytes_max = 128 << 20;
        settings.store_bytes_in_flight_max = 1;
        settings.pool_thread_count = 0;
        settings.arena_chunk_bytes = 1000;
        let problems = settings.validate();
        let named = |name: &str| problems.iter().any(|problem| problem.starts_with(name));
        assert_eq!(problems.len(), 7, "{problems:?}");
        for name in ["bytes = 5000", "depth", "queue_count_max", "transfer_bytes_max", "pool_thread_count"] {
            assert!(named(name), "{name} in {problems:?}");
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(DiskSettings::new("x").validate(), Vec::<String>::new());
    }
}
