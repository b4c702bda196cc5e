//! How the index behaves as it grows: fill rate, open time, first lookup, scan rate, RAM.
//!
//! ```text
//! cargo run --release -p kvtier-index --example fill_rate                     # 100 k, 1 M and 10 M entries
//! cargo run --release -p kvtier-index --example fill_rate -- 1000000 DIRECTORY
//! ```
//!
//! Filling and reading run in processes of their own, so that each figure of RAM is of that work alone. The lookup asks
//! for 1,000 blocks spread over all, half of them there. "cold" reads after the files were dropped from the page cache.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
#![allow(clippy::unwrap_used, reason = "a measurement that fails stops")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use futures::executor::block_on;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{Index, IndexChange, IndexEntry};
use kvtier_identity::{BlockId, Key};
use kvtier_index::{IndexSettings, RocksIndex};

const BATCH_LEN: u64 = 256;
const LOOKUP_LEN: u64 = 1000;
const SCAN_LEN: usize = 65_536;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => [100_000, 1_000_000, 10_000_000].into_iter().for_each(|count| measure(count, None)),
        [count] => measure(count.parse().unwrap(), None),
        ["fill", count, path] => fill(count.parse().unwrap(), Path::new(path)),
        ["read", count, path] => read(count.parse().unwrap(), Path::new(path)),
        [count, path] => measure(count.parse().unwrap(), Some(Path::new(path))),
        _ => panic!("usage: fill_rate [COUNT [DIRECTORY]]"),
    }
}

fn measure(count: u64, parent: Option<&Path>) {
    println!("== {count} entries");
    let directory = parent.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let run = |work: &str| {
        let program = std::env::current_exe().unwrap();
        let status = Command::new(program).args([work, &count.to_string()]).arg(directory.path()).status().unwrap();
        assert!(status.success());
    };
    run("fill");
    for cache in ["warm", "cold"] {
        if cache == "cold" {
            drop_page_cache(directory.path());
        }
        println!("-- {cache}");
        run("read");
    }
}

/// Ids as they are in life: spread evenly.
fn block(number: u64) -> BlockId {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let high = bits ^ (bits >> 31);
    BlockId(u128::from(high) << 64 | u128::from(high.wrapping_mul(0x2545_f491_4f6c_dd1d)))
}

/// An entry as an engine with 32-byte block hashes makes it.
fn entry(number: u64) -> IndexEntry {
    let key: Vec<u8> = [number, !number].into_iter().flat_map(|half| block(half).to_bytes()).collect();
    IndexEntry {
        space: 1,
        key: Key::new(&key).unwrap(),
        parent: Some(block(number.wrapping_sub(1))),
        length: 4096,
        crc: block(number).0 as u32,
        generation: number,
        slot: Slot { device: 0, offset: number * 8192, bytes: 8192 },
    }
}

fn fill(count: u64, path: &Path) {
    let index = RocksIndex::open(path, IndexSettings::default()).unwrap();
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let mut position = 0;
    while position < count {
        let end = count.min(position + BATCH_LEN);
        let batch = (position..end).map(|number| IndexChange::Put(block(number), entry(number))).collect();
        block_on(index.apply(batch, end)).unwrap();
        position = end;
    }
    let seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    assert_eq!(block_on(index.flush()), Ok(count));
    println!(
        "apply {:.0} k/s, batches of {BATCH_LEN} ({seconds:.2} s, {:.1} CPU-s with compaction), last flush {:.0} ms, \
         files {:.1} MB, peak RSS {} MB",
        count as f64 / seconds / 1e3,
        cpu_seconds() - cpu,
        started.elapsed().as_secs_f64() * 1e3,
        index.status().file_bytes as f64 / 1e6,
        status_mb("VmHWM:"),
    );
}

fn read(count: u64, path: &Path) {
    let started = Instant::now();
    let index = RocksIndex::open(path, IndexSettings::default()).unwrap();
    let opened = started.elapsed();
    assert_eq!(index.applied(), count);
    let asked: Vec<u64> = (0..LOOKUP_LEN).map(|number| number * (2 * count / LOOKUP_LEN)).collect();
    let look = || {
        let started = Instant::now();
        let answers = block_on(index.get_many(asked.iter().map(|number| block(*number)).collect())).unwrap();
        for (number, answer) in asked.iter().zip(answers) {
            assert_eq!(answer, (*number < count).then(|| entry(*number)));
        }
        started.elapsed()
    };
    let (first, second) = (look(), look());
    println!(
        "open {:.1} ms, first lookup of {LOOKUP_LEN} {:.1} ms, together {:.1} ms; again {:.1} ms; RSS {} MB",
        opened.as_secs_f64() * 1e3,
        first.as_secs_f64() * 1e3,
        (opened + first).as_secs_f64() * 1e3,
        second.as_secs_f64() * 1e3,
        status_mb("VmRSS:"),
    );
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let (mut after, mut seen) = (None, 0);
    loop {
        let chunk = block_on(index.scan(after, SCAN_LEN)).unwrap();
        after = chunk.last().map(|(block, _)| *block);
        seen += chunk.len() as u64;
        if chunk.len() < SCAN_LEN {
            break;
        }
    }
    assert_eq!(seen, count);
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "scan {:.0} k/s ({seconds:.2} s, {:.2} CPU-s), RSS {} MB",
        count as f64 / seconds / 1e3,
        cpu_seconds() - cpu,
        status_mb("VmRSS:")
    );
}

fn drop_page_cache(path: &Path) {
    for file in std::fs::read_dir(path).unwrap() {
        let file = std::fs::File::open(file.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

fn status_mb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// User and system time of this process, all threads.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
