//! Every journal by one suite, and the writer on a thread of its own, with real files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::{LocalPool, block_on};
use kvtier_engine::port::{BoxFuture, Clock, Journal, Moment};
use kvtier_wal::{MemoryJournal, Mode, Settings, Wal, WalThread, conformance, spawn_writer_thread};

use crate::world::{self, ManualClock, MemFolder, settings};

#[test]
fn the_fake_keeps_the_rules() {
    block_on(conformance::check_all(async || Arc::new(MemoryJournal::new()) as Arc<dyn Journal>));
}

#[test]
fn the_wal_over_a_folder_in_memory_keeps_the_rules() {
    use futures::task::LocalSpawnExt;
    for recent_bytes_max in [0, 1 << 20] {
        let mut pool = LocalPool::new();
        let spawner = pool.spawner();
        pool.run_until(conformance::check_all(async || {
            let clock = Arc::new(ManualClock::default());
            let folder = std::rc::Rc::new(MemFolder::default());
            folder.faults().yields.set(true);
            let settings = Settings { recent_bytes_max, ..settings() };
            let (wal, writer, _) = Wal::open(folder, clock, settings, 0).await.unwrap();
            spawner.spawn_local(writer.run()).unwrap();
            wal as Arc<dyn Journal>
        }));
    }
}

/// Real time, for a real thread.
struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.0.elapsed())
    }
    fn unix_ms(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
    }
    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(pause))
    }
}

fn open(path: &std::path::Path, mode: Mode, settings: Settings, covered_seq: u64) -> WalThread {
    spawn_writer_thread(path, mode, Arc::new(SystemClock(Instant::now())), settings, covered_seq).unwrap()
}

#[test]
fn the_wal_on_its_own_thread_keeps_the_rules() {
    for mode in [Mode::Auto, Mode::Blocking] {
        for recent_bytes_max in [0, 1 << 20] {
            let mut folders = vec![];
            block_on(conformance::check_all(async || {
                let folder = tempfile::tempdir().unwrap();
                let settings = Settings { recent_bytes_max, ..settings() };
                let thread = open(folder.path(), mode, settings, 0);
                folders.push(folder);
                thread.wal as Arc<dyn Journal>
            }));
        }
    }
}

#[test]
fn what_one_thread_finished_the_next_one_reads() {
    for mode in [Mode::Auto, Mode::Blocking] {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { segment_bytes_max: 1 << 16, group_commit_bytes_max: 1 << 16, ..settings() };
        let first = open(folder.path(), mode, settings.clone(), 0);
        let mut last = 0;
        for round in 0..60 {
            let numbers = round * 200..round * 200 + 200;
            last = first.wal.append(numbers.map(conformance::sample).collect()).unwrap().seq;
            block_on(first.wal.durable(last)).unwrap();
        }
        first.wal.append(vec![conformance::sample(12_000)]).unwrap();
        first.finish().unwrap();
        let second = open(folder.path(), mode, settings, 0);
        assert_eq!(second.recovered.torn_tail_bytes, 0);
        assert_eq!(second.recovered.last_seq, last + 1, "what nobody waited for was written at the close");
        assert_eq!(second.recovered.tail_record_count, 12_002);
        assert!(second.recovered.segment_count > 2, "{:?}", second.recovered);
        let (mut after, mut read) = (0, vec![]);
        while after < last + 1 {
            let page = block_on(second.wal.read(after, 1000)).unwrap();
            after = page.last().unwrap().0.seq;
            read.extend(page);
        }
        let read: Vec<_> = world::plain(&read).into_iter().map(|(_, record)| record).take(12_001).collect();
        assert_eq!(read, (0..=12_000).map(conformance::sample).collect::<Vec<_>>());
        second.finish().unwrap();
    }
}

#[test]
fn a_folder_that_is_not_there_is_a_clear_error() {
    let clock = Arc::new(SystemClock(Instant::now()));
    let error = spawn_writer_thread(std::path::Path::new("/nonexistent/wal"), Mode::Auto, clock, settings(), 0);
    assert_eq!(error.map(drop).unwrap_err().to_string(), "listing the journal's folder failed");
}

#[test]
fn appenders_on_many_threads_keep_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let thread = open(folder.path(), Mode::Auto, settings(), 0);
    std::thread::scope(|scope| {
        for appender in 0..4_u32 {
            let wal = Arc::clone(&thread.wal);
            scope.spawn(move || {
                for number in 0..500 {
                    let position = wal.append(vec![numbered(appender, number), numbered(appender, number)]).unwrap();
                    if number % 50 == 0 {
                        block_on(wal.durable(position.seq)).unwrap();
                    }
                }
            });
        }
    });
    let last = thread.wal.status().appended_seq;
    block_on(thread.wal.durable(last)).unwrap();
    let read = block_on(thread.wal.read(0, 10_000)).unwrap();
    assert_eq!(read.len(), 4001);
    assert!(read.windows(2).all(|pair| pair[1].0.seq == pair[0].0.seq + 1));
    for appender in 0..4 {
        let own: Vec<_> =
            read.iter().filter_map(|(position, record)| number_of(appender, record, position.seq)).collect();
        assert!(own.windows(2).all(|pair| pair[0].0 <= pair[1].0), "appender {appender} out of order");
        assert!(own.chunks(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1), "an append was split");
        assert_eq!(own.len(), 1000);
    }
    thread.finish().unwrap();
}

fn numbered(appender: u32, number: u32) -> kvtier_engine::port::Record {
    kvtier_engine::port::Record::SpaceDropped {
        space: appender << 16 | number,
        digest: kvtier_identity::SpaceDigest([7; 32]),
    }
}

fn number_of(appender: u32, record: &kvtier_engine::port::Record, seq: u64) -> Option<(u32, u64)> {
    match record {
        kvtier_engine::port::Record::SpaceDropped { space, .. } if space >> 16 == appender => {
            Some((space & 0xffff, seq))
        }
        _ => None,
    }
}
