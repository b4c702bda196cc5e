//! Durable appends per second on a real file, with 1, 32 and 256 in flight.
//!
//! `cargo run --release -p kvtier-wal --example commit_rate -- FOLDER [SECONDS] [REPEATS]`
//!
//! Each of the appenders appends one commit record, waits until it is durable, and begins again. Beside it, in the same
//! run and interleaved: what the file system does alone, one write of the same size and one fdatasync after the other. The
//! table shows medians.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement reads the clock, and stops when it fails"
)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{BoxFuture, Clock, IndexEntry, Journal, Moment, Record};
use kvtier_identity::{BlockId, Key};
use kvtier_wal::{Mode, Settings, spawn_writer_thread};

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.0.elapsed())
    }
    fn unix_ms(&self) -> u64 {
        std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
    }
    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(pause))
    }
}

fn record(number: u64) -> Record {
    Record::StoredNvme {
        block: BlockId(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
        entry: IndexEntry {
            space: 1,
            key: Key::new(&[7; 32]).unwrap(),
            parent: Some(BlockId(u128::MAX / 3)),
            length: 1 << 20,
            crc: 0xdead_beef,
            generation: number,
            slot: Slot { device: 0, offset: number << 20, bytes: (1 << 20) + 4096 },
        },
    }
}

/// What a run gave.
struct Rate {
    appends: f64,
    groups: f64,
    p50: Duration,
    p99: Duration,
}

fn run_journal(folder: &Path, mode: Mode, in_flight: usize, time: Duration) -> Rate {
    let path = folder.join("journal");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    let clock = Arc::new(SystemClock(Instant::now()));
    let thread = spawn_writer_thread(&path, mode, clock, Settings { log_id: 1, ..Settings::default() }, 0).unwrap();
    let wal = Arc::clone(&thread.wal);
    let begin = Instant::now();
    let mut latencies = Vec::new();
    let mut groups = 0_u64;
    block_on(async {
        let append = |number: u64| {
            let wal = Arc::clone(&wal);
            async move {
                let start = Instant::now();
                let position = wal.append(vec![record(number)]).unwrap();
                wal.durable(position.seq).await.unwrap();
                start.elapsed()
            }
        };
        let mut number = 0;
        let mut flying: FuturesUnordered<_> = FuturesUnordered::new();
        for _ in 0..in_flight {
            flying.push(append(number));
            number += 1;
        }
        let mut durable_seq = 0;
        while let Some(latency) = flying.next().await {
            latencies.push(latency);
            let now = wal.status().durable_seq;
            groups += u64::from(now != durable_seq);
            durable_seq = now;
            if begin.elapsed() < time {
                flying.push(append(number));
                number += 1;
            }
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    drop(wal);
    thread.finish().unwrap();
    latencies.sort_unstable();
    Rate {
        appends: latencies.len() as f64 / seconds,
        groups: groups as f64 / seconds,
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
    }
}

/// One write of a frame's size and one fdatasync after the other.
fn run_plain(folder: &Path, time: Duration) -> Rate {
    let path = folder.join("plain");
    let file = std::fs::File::create(&path).unwrap();
    let begin = Instant::now();
    let mut latencies = Vec::new();
    let mut offset = 0;
    while begin.elapsed() < time {
        let start = Instant::now();
        file.write_all_at(&[7; 150], offset).unwrap();
        file.sync_data().unwrap();
        offset += 150;
        latencies.push(start.elapsed());
    }
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    latencies.sort_unstable();
    let appends = latencies.len() as f64 / seconds;
    let (p50, p99) = (latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]);
    Rate { appends, groups: appends, p50, p99 }
}

/// What the queue takes when nobody waits.
fn run_volatile(folder: &Path, time: Duration) -> Rate {
    let path = folder.join("journal");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    let clock = Arc::new(SystemClock(Instant::now()));
    let settings = Settings { log_id: 1, ..Settings::default() };
    let thread = spawn_writer_thread(&path, Mode::Auto, clock, settings, 0).unwrap();
    let begin = Instant::now();
    let (mut number, mut latencies) = (0, Vec::new());
    while begin.elapsed() < time {
        let start = Instant::now();
        if thread.wal.ready().is_err() {
            std::thread::yield_now();
            continue;
        }
        thread.wal.append(vec![record(number)]).unwrap();
        number += 1;
        latencies.push(start.elapsed());
    }
    thread.finish().unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let (p50, p99) = (latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]);
    Rate { appends: number as f64 / seconds, groups: 0.0, p50, p99 }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "commit-rate".into()));
    let seconds: f64 = args.next().map_or(1.0, |text| text.parse().unwrap());
    let repeats: usize = args.next().map_or(5, |text| text.parse().unwrap());
    let time = Duration::from_secs_f64(seconds);
    std::fs::create_dir_all(&folder).unwrap();
    type Run<'r> = Box<dyn Fn() -> Rate + 'r>;
    let mut runs: Vec<(String, Run<'_>)> = vec![("write + fdatasync".into(), Box::new(|| run_plain(&folder, time)))];
    for (name, mode) in [("io_uring", Mode::Auto), ("blocking", Mode::Blocking)] {
        for in_flight in [1, 32, 256] {
            let folder = &folder;
            runs.push((format!("{name}, {in_flight}"), Box::new(move || run_journal(folder, mode, in_flight, time))));
        }
    }
    runs.push(("nobody waits".into(), Box::new(|| run_volatile(&folder, time))));
    let mut rates: Vec<Vec<Rate>> = runs.iter().map(|_| vec![]).collect();
    for _ in 0..repeats {
        runs.iter().zip(&mut rates).for_each(|((_, run), rates)| rates.push(run()));
    }
    println!("{:<20} {:>12} {:>10} {:>12} {:>12}", "how", "appends/s", "groups/s", "p50 us", "p99 us");
    for ((name, _), mut rates) in runs.iter().zip(rates) {
        rates.sort_by(|one, other| one.appends.total_cmp(&other.appends));
        let rate = &rates[rates.len() / 2];
        println!(
            "{name:<20} {:>12.0} {:>10.0} {:>12.1} {:>12.1}",
            rate.appends,
            rate.groups,
            rate.p50.as_secs_f64() * 1e6,
            rate.p99.as_secs_f64() * 1e6
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
