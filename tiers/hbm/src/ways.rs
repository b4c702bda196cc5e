//! Copy engines or kernel: which of them moves runs of a length faster between host and GPU, measured when a tier opens.
//!
//! It depends on the bus, the driver and the chip, so no constant would be right for every machine. Each way moves the same
//! bytes in runs of one length, in turn with the other, and the medians are compared.

use std::time::Duration;

use kvtier_engine::port::Moment;

use crate::gpu::{Gpu, GpuError, Lane, MemoryId, Place};
use crate::layout::{BLOCKS_MAX, Direction, Shape, Shuffle, ShuffleBlock};

/// From which length of a run on the copy engines move it between host and GPU; shorter ones go through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedFrom {
    /// To a worker.
    pub load: u64,
    /// From a worker.
    pub save: u64,
}

impl CopiedFrom {
    /// The same both ways.
    pub fn all(bytes: u64) -> Self {
        Self { load: bytes, save: bytes }
    }

    pub(crate) fn of(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Scatter => self.load,
            Direction::Gather => self.save,
        }
    }
}

/// Lengths that are measured. Shorter runs are the kernel's: each copy costs the driver a microsecond or so.
const RUN_BYTES: [u64; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Moved by one measurement.
const BYTES: u64 = 16 << 20;
/// A copy may be slower by one part in so many.
const MUCH: u32 = 20;
/// Rounds that count; one goes before, which does not.
const ROUNDS: usize = 5;

/// Tells the time.
pub(crate) type Now<'a> = &'a dyn Fn() -> Moment;

/// How long each way takes for runs of one length.
struct Race {
    run_bytes: u64,
    copied: Duration,
    shuffled: Duration,
}

/// Measures both directions. Takes 16 MiB of pinned memory and 32 MiB of the GPU meanwhile. After an error nothing is
/// under way and nothing is kept.
pub(crate) fn measure(gpu: &dyn Gpu, now: Now<'_>) -> Result<CopiedFrom, GpuError> {
    let pinned = gpu.pin(BYTES)?;
    let measured = gpu.allocate(2 * BYTES).and_then(|device| {
        let measured = measure_in(gpu, now, pinned, device);
        let quiet = gpu.quiesce();
        let released = gpu.release(device);
        measured.and_then(|measured| quiet.and(released).map(|()| measured))
    });
    let released = gpu.release(pinned);
    measured.and_then(|measured| released.map(|()| measured))
}

fn measure_in(gpu: &dyn Gpu, now: Now<'_>, pinned: MemoryId, device: MemoryId) -> Result<CopiedFrom, GpuError> {
    let threshold = |direction| {
        let races = RUN_BYTES.iter().map(|run_bytes| race(gpu, now, &shuffle(pinned, device, direction, *run_bytes)));
        Ok(choose(&races.collect::<Result<Vec<_>, GpuError>>()?))
    };
    Ok(CopiedFrom { load: threshold(Direction::Scatter)?, save: threshold(Direction::Gather)? })
}

/// Dense bytes on one side, runs with gaps as long as themselves on the other.
fn shuffle(pinned: MemoryId, device: MemoryId, direction: Direction, run_bytes: u64) -> Shuffle {
    let runs = BYTES / run_bytes;
    let blocks = runs.min(BLOCKS_MAX as u64);
    let surfaces = runs / blocks;
    let shape =
        Shape { counts: [1; 3], strides: [0; 3], run_bytes, surface_bytes: run_bytes, block_stride: 2 * run_bytes };
    let surface = |number| Place { memory: device, offset: number * blocks * shape.block_stride };
    let block = |number| {
        let canonical = Place { memory: pinned, offset: number * surfaces * run_bytes };
        ShuffleBlock { canonical, number }
    };
    Shuffle {
        direction,
        shape,
        surfaces: (0..surfaces).map(surface).collect(),
        first_surface: 0,
        blocks: (0..blocks).map(block).collect(),
    }
}

fn race(gpu: &dyn Gpu, now: Now<'_>, shuffle: &Shuffle) -> Result<Race, GpuError> {
    let lane = match shuffle.direction {
        Direction::Scatter => Lane::LoadIn,
        Direction::Gather => Lane::SaveOut,
    };
    let runs: Vec<_> = shuffle.runs().collect();
    let timed = |put: &dyn Fn() -> Result<(), GpuError>| {
        let begun = now();
        put()?;
        gpu.wait(gpu.mark(lane)?)?;
        Ok::<_, GpuError>(now().since(begun))
    };
    let (mut copied, mut shuffled) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        copied.push(timed(&|| gpu.copy(lane, &runs))?);
        shuffled.push(timed(&|| gpu.shuffle(lane, shuffle))?);
    }
    Ok(Race { run_bytes: shuffle.shape.run_bytes, copied: median(&copied[1..]), shuffled: median(&shuffled[1..]) })
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

/// The shortest length from which on copies are never slower, or not by much: they leave the multiprocessors to the engine. In
/// the order of lengths.
fn choose(races: &[Race]) -> u64 {
    let won = races.iter().rev().take_while(|race| race.copied <= race.shuffled + race.shuffled / MUCH);
    won.last().map_or(u64::MAX, |race| race.run_bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::simulated::{Faults, Machine, Simulated};

    /// A clock that goes on by a microsecond whenever it is looked at.
    fn ticking() -> impl Fn() -> Moment {
        let ticks = AtomicU64::new(0);
        move || Moment(Duration::from_micros(ticks.fetch_add(1, Ordering::Relaxed)))
    }

    fn chosen(times: &[(u64, u64)]) -> u64 {
        let race = |(at, (copied, shuffled)): (usize, &(u64, u64))| Race {
            run_bytes: RUN_BYTES[at],
            copied: Duration::from_micros(*copied),
            shuffled: Duration::from_micros(*shuffled),
        };
        choose(&times.iter().enumerate().map(race).collect::<Vec<_>>())
    }

    #[test]
    fn copies_are_chosen_from_where_they_never_lose_again() {
        assert_eq!(chosen(&[(9, 3), (5, 3), (3, 3), (2, 3), (2, 3)]), 64 << 10);
        assert_eq!(chosen(&[(1, 3), (5, 3), (3, 3), (4, 3), (2, 3)]), 1 << 20, "a win below a loss does not count");
        assert_eq!(chosen(&[(1, 3), (1, 3), (1, 3), (1, 3), (1, 3)]), 4 << 10);
        assert_eq!(chosen(&[(9, 3), (9, 3), (9, 3), (9, 3), (9, 3)]), u64::MAX);
        assert_eq!(chosen(&[(90, 30), (106, 100), (105, 100), (1, 3), (1, 3)]), 64 << 10, "slower, but not by much");
    }

    #[test]
    fn a_measurement_moves_every_byte_once_each_way_and_gives_all_memory_back() {
        for run_bytes in RUN_BYTES {
            let shuffle = shuffle(MemoryId(1), MemoryId(2), Direction::Scatter, run_bytes);
            assert_eq!((shuffle.check(), shuffle.bytes(), shuffle.run_count()), (Ok(()), BYTES, BYTES / run_bytes));
            let (mut from, mut to): (Vec<_>, Vec<_>) =
                shuffle.runs().map(|run| (run.from.offset, run.to.offset)).unzip();
            from.sort_unstable();
            to.sort_unstable();
            assert!(from.iter().zip(0..).all(|(at, number)| *at == number * run_bytes), "dense");
            assert!(to.iter().zip(0..).all(|(at, number)| *at == number * 2 * run_bytes), "with gaps, to the end");
        }
        let gpu = Simulated::new(&Machine::new(), 1, 64 << 20);
        // Both ways take the same by this clock.
        assert_eq!(measure(&gpu, &ticking()), Ok(CopiedFrom::all(4 << 10)));
        assert_eq!((gpu.memory_count(), gpu.released_in_use()), (0, 0));
        let full = Simulated::new(&Machine::new(), 1, BYTES);
        assert!(matches!(measure(&full, &ticking()), Err(GpuError::OutOfMemory { .. })));
        assert_eq!(full.memory_count(), 0);
        gpu.set_faults(Faults { refuse_copies: 1, ..Faults::default() });
        assert!(measure(&gpu, &ticking()).is_err());
        assert_eq!((gpu.memory_count(), gpu.released_in_use()), (0, 0));
    }
}
