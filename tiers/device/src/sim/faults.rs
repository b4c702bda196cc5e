//! What may go wrong, and how often.

/// How a write that was not synced survives a crash, if it survives at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tearing {
    /// Whole or not at all.
    Whole,
    /// Its first sectors.
    Prefix,
    /// Any of its sectors.
    #[default]
    Scattered,
}

/// The fault plan of a simulated machine. `…_one_in = n`: one such operation in `n` on average; 0: never.
///
/// A device that only crashes, the default, is honest: it may lose or tear what was not synced, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// What a crash does to un-synced writes.
    pub tearing: Tearing,
    /// Reads that fail (EIO).
    pub read_error_one_in: u32,
    /// Writes that fail (EIO) after some of their sectors got through.
    pub write_error_one_in: u32,
    /// Disk writes refused for lack of space (ENOSPC), as a thin device does.
    pub disk_full_one_in: u32,
    /// Syncs that fail. Some of what they should have made durable is, and the rest never will be: the next sync
    /// succeeds without it, as Linux does (INV-7).
    pub sync_error_one_in: u32,
    /// Syncs that succeed and do nothing: the device lies.
    pub lost_sync_one_in: u32,
    /// Disk reads that return another place's bytes.
    pub misdirected_read_one_in: u32,
    /// Disk writes that land in another place.
    pub misdirected_write_one_in: u32,
    /// Reads before which one bit of the stored range flips, for good.
    pub rot_one_in: u32,
    /// Operations that stall.
    pub stall_one_in: u32,
    /// Steps of the world a stalled operation waits, at most.
    pub stall_steps_max: u32,
    /// Bytes the files of one folder may have together; more is ENOSPC.
    pub folder_bytes_max: Option<u64>,
}

impl Faults {
    /// Everything that a single device of good will may do: tear, stall, fail to read, write and sync.
    pub fn ordinary() -> Self {
        Self {
            read_error_one_in: 200,
            write_error_one_in: 200,
            sync_error_one_in: 500,
            stall_one_in: 10,
            stall_steps_max: 50,
            ..Self::default()
        }
    }

    /// And what checksums are for: rot, misdirection, lies.
    pub fn hostile() -> Self {
        Self {
            lost_sync_one_in: 50,
            misdirected_read_one_in: 100,
            misdirected_write_one_in: 100,
            rot_one_in: 50,
            disk_full_one_in: 200,
            ..Self::ordinary()
        }
    }
}
