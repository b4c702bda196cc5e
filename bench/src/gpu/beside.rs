//! Moves beside another process whose kernels keep the GPU busy, as an inference engine's do: contexts of different processes
//! take turns at the multiprocessors, and share the copy engines.

use kvtier_hbm::CopiedFrom;
use kvtier_hbm::chain::BlockPlace;
use kvtier_hbm::layout::Direction;

use super::Failure;
use super::figures::{Kind, Measure};
use super::report::{Figure, Report};
use super::worker::Worker;

/// What the other process works on.
const BYTES: u64 = 256 << 20;

impl Measure<'_> {
    /// No bars: nobody has promised what is left beside an engine.
    pub(super) fn beside_kernels(&self, report: &mut Report) -> Result<(), Failure> {
        if self.site.simulated.is_some() {
            // Nothing is shared between simulated processes.
            return Ok(());
        }
        let (mut other, _) = Worker::start(None, BYTES, 5)?;
        other.compute()?;
        let measured = self.moves_beside(report);
        other.kill()?;
        measured
    }

    fn moves_beside(&self, report: &mut Report) -> Result<(), Failure> {
        let worker = self.worker(Kind::Fused)?;
        let range = || 0..self.site.sizes.blocks;
        let (host, pool) =
            (self.chain(&worker, range(), BlockPlace::Host), self.chain(&worker, range(), BlockPlace::Pool));
        let tier = &self.site.ground.tier;
        let chosen = tier.copied_from(0).ok_or("the tier has no GPU")?;
        let ways = [
            ("host to worker KV by copy engines", CopiedFrom::all(0), &host),
            ("host to worker KV by the kernel", CopiedFrom::all(u64::MAX), &host),
            ("pool to worker KV", chosen, &pool),
        ];
        for (title, copied_from, blocks) in ways {
            tier.set_copied_from(copied_from);
            let value = self.speed(self.chain_bytes(), || self.go(&worker, Direction::Scatter, blocks))?;
            let name = format!("{title}, {}, beside a process that computes", Kind::Fused.name());
            report.figure(Figure { name, value, unit: "GB/s", bar: None });
        }
        tier.set_copied_from(chosen);
        Ok(())
    }
}
