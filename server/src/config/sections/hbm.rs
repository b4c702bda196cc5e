//! `[hbm]`: the tier in GPU memory.

use std::time::Duration;

use super::*;
use crate::config::unit;
use crate::config::value::choice;

choice! {
    /// Which GPUs there are.
    GpuDevice {
        /// Those of this machine.
        Auto = "auto",
        /// One that is host memory: for tests.
        Simulated = "simulated",
    }
}

section! {
    /// The HBM tier: GPU memory of local workers, and a pool of the daemon's own, which keeps blocks that are loaded again or
    /// pinned. Not yet verified on hardware. Without a GPU the daemon starts all the same and says why. The tier is on when
    /// `workers` is true or `bytes` is not off.
    Hbm at "hbm" {
        /// The daemon's own pool on each GPU: a size, a percentage of that GPU's memory (1% to 95%), or off. Rounded down
        /// to whole extents. A hard cap.
        bytes: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "too large leaves the inference engine no memory for its own KV cache, and it does not start";
        /// Whether local workers may lend the daemon their KV memory on a GPU and move blocks to and from it
        /// (ImportGpuMemory, Load, Save). The host tier's memory is pinned for the GPUs then.
        workers: bool = Kind::Flag, Preset::Text("false"), Bound::NONE,
            wrong "true: whoever may attach can make the daemon open GPU memory of any process of its user";
        /// Which GPUs: those of this machine, or "simulated", a GPU that is host memory, for tests. `status` says so.
        device: GpuDevice = GpuDevice::KIND, Preset::Text("auto"), Bound::NONE,
            wrong "simulated: nothing reaches a real GPU";
        /// After so long without progress a GPU counts as hung: its tier is poisoned until the daemon is started again, and
        /// whoever waits for it is told.
        hang_timeout: Duration = Kind::Time, Preset::Text("30s"), Bound::between(ms(100), seconds(3600)),
            wrong "too short: a GPU that is busy with long kernels of the engine is given up";
        /// From which length of a contiguous run on moves between host memory and a worker go through the GPU's copy engines;
        /// shorter runs go through a kernel. "0B": what is faster is measured on each GPU when its tier opens.
        copied_from: u64 = Kind::Size, Preset::Text("0B"), Bound::between(0, GIB),
            wrong "too small: thousands of small copies cost the CPU and are slow; too large: kernels take turns with the engine's";
        /// Size of the extents a pool is cut into; each extent holds blocks of one size. A block and its 4 KiB header must
        /// fit one extent.
        extent_bytes: u64 = Kind::Size, Preset::Text("32MiB"), Bound::between(MIB, GIB).multiple_of(MIB),
            wrong "smaller than a block: that block never gets to a GPU; too large: a small pool serves few sizes of block";
    }
}

/// How large the pool on each GPU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HbmPool {
    /// There is none.
    Off,
    /// So many bytes.
    Bytes(u64),
    /// A share of the GPU's memory.
    Percent(u32),
}

impl Hbm {
    /// What `bytes` says, or what is wrong with it.
    pub fn pool(&self) -> Result<HbmPool, String> {
        let Some(text) = &self.bytes else { return Ok(HbmPool::Off) };
        if !text.trim_end().ends_with('%') {
            let bytes = unit::parse_size(text)?;
            let least = unit::show_size(self.extent_bytes);
            let fits = bytes >= self.extent_bytes;
            return if fits {
                Ok(HbmPool::Bytes(bytes))
            } else {
                Err(format!("does not hold one extent, \"{least}\""))
            };
        }
        let percent = unit::parse_percent(text)? * 100.0;
        if (1.0..=95.0).contains(&percent) {
            Ok(HbmPool::Percent(percent as u32))
        } else {
            Err("is not between 1% and 95%".into())
        }
    }
}
