//! `[host]`: the tier in this machine's memory.

use super::*;
use crate::config::value::choice;

choice! {
    /// Whether the host arena is made of huge pages.
    HugePages {
        /// When the machine has enough of them.
        Auto = "auto",
        /// Never.
        Off = "off",
        /// Or do not start.
        Require = "require",
    }
}

choice! {
    /// Whether the host arena is locked in memory.
    MemoryLock {
        /// When the process may.
        Auto = "auto",
        /// Never.
        Off = "off",
        /// Or do not start.
        Require = "require",
    }
}

section! {
    /// The host tier: blocks in this machine's memory, where every block arrives and from where every block leaves.
    Host at "host" {
        /// Size of the extents the arena is cut into; each extent holds blocks of one size. A block and its 4 KiB
        /// header must fit one extent.
        extent_bytes: u64 = Kind::Size, Preset::Text("32MiB"), Bound::between(MIB, GIB).multiple_of(2 * MIB),
            wrong "smaller than a block: that block is declined; too large: a small arena serves few sizes of block";
        /// Size of the arena, or of all domains' arenas together; rounded down to whole extents. A hard cap.
        bytes: u64 = Kind::SizeOf(Whole::Memory),
            Preset::Computed { compute: host_bytes, words: "an eighth of memory, from 256MiB to 64GiB" },
            Bound::between(16 * MIB, 64 * TIB),
            wrong "too large drives the machine out of memory; too small: blocks leave before anybody asks for them";
        /// Huge pages for the arena: fewer TLB misses and a faster start.
        huge_pages: HugePages = HugePages::KIND, Preset::Text("auto"), Bound::NONE,
            wrong "require does not start unless vm.nr_hugepages leaves enough free";
        /// Lock the arena so that it is never swapped out.
        mlock: MemoryLock = MemoryLock::KIND, Preset::Text("auto"), Bound::NONE,
            wrong "off on a machine with swap: a hit may wait for the disk; require needs LimitMEMLOCK or CAP_IPC_LOCK";
        /// Touch every page of the arena at start, so that no put pays for it later.
        prefault: bool = Kind::Flag, Preset::Text("true"), Bound::NONE,
            wrong "false: the first put into each page is slower, and memory that is not there is noticed late";
    }
}

fn host_bytes(known: &Known<'_>) -> Value {
    let bytes = (known.machine.memory_bytes() / 8).clamp(256 * MIB, 64 * GIB);
    let extent = size(known, "host.extent_bytes").max(MIB);
    Value::Size(round_down(bytes, extent).max(extent))
}
