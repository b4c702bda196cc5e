//! `[hbm]`: the tier in GPU memory.

use super::*;
use crate::config::unit;

section! {
    /// The HBM tier: blocks in the memory of this machine's GPUs. Not yet verified on hardware, and nothing is kept in it
    /// yet: the pool is taken and shown in `status`. Without a GPU the daemon starts all the same and says why.
    Hbm at "hbm" {
        /// The daemon's own pool on each GPU: a size, a percentage of that GPU's memory (1% to 95%), or off. Rounded down
        /// to whole extents. A hard cap.
        bytes: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "too large leaves the inference engine no memory for its own KV cache, and it does not start";
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
