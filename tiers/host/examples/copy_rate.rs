//! What `Memory::write` costs against a plain copy, and what creating and prefaulting an arena costs.
//!
//! `cargo run --release -p kvtier-host --example copy_rate`. Interleaved, medians of 9.

use std::hint::black_box;
use std::time::Instant;

use kvtier_engine::place::Slot;
use kvtier_engine::port::Memory;
use kvtier_host::{Arena, ArenaSettings, Prefault};

const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS: usize = 512;
const REPEATS: usize = 9;

#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let settings = ArenaSettings { bytes: 1 << 30, ..Default::default() };
    let begin = now();
    let arena = Arena::create(&settings).expect("1 GiB is to be had");
    println!("create 1 GiB: {:?}; {}", begin.elapsed(), arena.report());
    let begin = now();
    while arena.prefault_step().state == Prefault::Working {}
    println!("prefault 1 GiB: {:?}", begin.elapsed());
    let tiny = ArenaSettings { bytes: 8 << 20, extent_bytes: 64 << 10, ..Default::default() };
    let begin = now();
    (0..1000).for_each(|_| drop(Arena::create(&tiny).expect("8 MiB are to be had")));
    println!("create and drop 8 MiB: {:?} each", begin.elapsed() / 1000);
    rates(&arena);
}

fn rates(arena: &Arena) {
    let source: Vec<u8> = (0..BLOCK_BYTES * BLOCKS).map(|at| ((at * 7) >> 3) as u8).collect();
    let slots: Vec<_> = (0..BLOCKS as u64)
        .map(|at| Slot { device: 0, offset: at * (BLOCK_BYTES as u64 + 4096), bytes: BLOCK_BYTES as u32 + 4096 })
        .collect();
    let mut target = vec![1u8; BLOCK_BYTES * BLOCKS];
    let mut seconds: [Vec<f64>; 4] = Default::default();
    for _ in 0..REPEATS {
        let begin = now();
        source.chunks(BLOCK_BYTES).zip(target.chunks_mut(BLOCK_BYTES)).for_each(|(from, to)| to.copy_from_slice(from));
        seconds[0].push(begin.elapsed().as_secs_f64());
        let begin = now();
        for (from, to) in source.chunks(BLOCK_BYTES).zip(target.chunks_mut(BLOCK_BYTES)) {
            to.copy_from_slice(from);
            black_box(crc32fast::hash(to));
        }
        seconds[1].push(begin.elapsed().as_secs_f64());
        let begin = now();
        source.chunks(BLOCK_BYTES).zip(&slots).for_each(|(from, &slot)| {
            black_box(arena.write(slot, 0, from));
        });
        seconds[2].push(begin.elapsed().as_secs_f64());
        let begin = now();
        slots.iter().for_each(|&slot| {
            black_box(arena.checksum(slot, 0, BLOCK_BYTES as u32));
        });
        seconds[3].push(begin.elapsed().as_secs_f64());
    }
    let names = ["plain copy", "copy, then checksum of the whole MiB", "Memory::write", "Memory::checksum"];
    for (name, mut seconds) in names.into_iter().zip(seconds) {
        seconds.sort_by(f64::total_cmp);
        println!("{name}: {:.1} GB/s", source.len() as f64 / seconds[REPEATS / 2] / 1e9);
    }
}
