//! The run as a whole, against a target that misbehaves on purpose and a clock that is made up.

use std::time::Duration;

use bytes::Bytes;

use super::clock::Clock;
use super::*;
use crate::job::spread::{ChainLengths, Sizes};
use crate::job::{Job, Rw};
use crate::target::memory::Memory;
use crate::target::{Consumer, Put, PutTally};

/// Stands still until somebody moves it.
#[derive(Default)]
struct MadeUpClock(Mutex<Duration>);

impl Clock for MadeUpClock {
    fn now(&self) -> Duration {
        *self.0.lock().expect("not poisoned")
    }

    fn wait_until(&self, moment: Duration) {
        let mut now = self.0.lock().expect("not poisoned");
        *now = (*now).max(moment);
    }
}

/// Answers in a millisecond, but once, from `stall_at` on, only after `stall`.
struct Staller {
    clock: Arc<MadeUpClock>,
    stall_at: Duration,
    stall: Duration,
    blocks: Vec<u8>,
}

impl Session for Staller {
    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        Ok(PutTally { stored: blocks.len(), ..PutTally::default() })
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        Ok(keys.len())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        let begun = self.clock.now();
        let stalls = begun >= self.stall_at && !self.stall.is_zero();
        let took = if stalls { std::mem::take(&mut self.stall) } else { Duration::from_millis(1) };
        self.clock.wait_until(begun + took);
        (0..keys.len()).for_each(|index| consumer.bytes(index, &self.blocks));
        Ok(())
    }
}

fn small(job: Job) -> Job {
    let (chain, sizes) = (ChainLengths::Fixed(1), Sizes::of(4096));
    Job { chain, sizes, verify: false, size: 1 << 20, ..job }
}

fn stalled(job: Job) -> Tally {
    let clock = Arc::new(MadeUpClock::default());
    let session = Staller {
        clock: Arc::clone(&clock),
        stall_at: Duration::from_secs(5),
        stall: Duration::from_secs(2),
        blocks: vec![0; 4096],
    };
    let prepared = [Prepared::of(&small(job), 0).expect("a job")];
    let outcomes = run_sessions(&*clock, &Pattern::default(), &prepared, vec![Box::new(session)]);
    outcomes.expect("it runs").remove(0).tally
}

#[test]
fn a_stalled_target_shows_its_stall_in_the_percentiles_of_an_open_loop() {
    // 100 requests a second for 10 s; for 2 s nothing is answered. A fifth of the requests are late, up to 2 s.
    let tally = stalled(Job {
        rate_iops: Some(100.0),
        runtime: Some(Duration::from_secs(10)),
        time_based: true,
        ..Job::default()
    });
    let ms = |percentile| tally.read.latency.value_at_percentile(percentile) / 1_000_000;
    assert_eq!(tally.read.requests, 1000);
    assert!(ms(50.0) <= 2, "half were served at once: {}", ms(50.0));
    assert!((900..=1200).contains(&ms(90.0)), "a tenth waited for more than a second: {}", ms(90.0));
    assert!(ms(99.0) > 1700, "{}", ms(99.0));
    // What the same run says when it forgets who had to wait: the stall was one request.
    assert!(tally.read.service.value_at_percentile(99.0) / 1_000_000 <= 2, "coordinated omission would look like this");
}

#[test]
fn a_closed_loop_has_one_slow_request_and_says_that_it_is_closed() {
    let job = Job { runtime: Some(Duration::from_secs(10)), time_based: true, ..Job::default() };
    assert!(!job.is_open_loop());
    let tally = stalled(job);
    assert!(tally.read.latency.value_at_percentile(99.9) / 1_000_000 <= 2);
    assert_eq!(tally.read.latency.max() / 1_000_000_000, 2);
}

#[test]
fn requests_that_could_not_begin_before_the_end_are_counted_as_late() {
    // The stall lasts beyond the end: what was due meanwhile never began.
    let job = Job { rate_iops: Some(100.0), runtime: Some(Duration::from_secs(6)), time_based: true, ..Job::default() };
    let tally = stalled(job);
    assert_eq!(tally.read.expired + tally.read.requests, 600);
    assert!(tally.read.expired >= 98, "{}", tally.read.expired);
    assert!(tally.read.latency.value_at_percentile(95.0) / 1_000_000 > 1_000);
}

#[test]
fn what_comes_before_the_end_of_the_ramp_is_not_counted() {
    let job = Job {
        rate_iops: Some(100.0),
        runtime: Some(Duration::from_secs(10)),
        ramp_time: Duration::from_secs(8),
        time_based: true,
        ..Job::default()
    };
    let tally = stalled(job);
    assert_eq!(tally.read.requests, 200);
    assert!(tally.read.latency.max() / 1_000_000 <= 2, "the stall was over by then");
    assert!(tally.windows.len() <= 21);
}

/// A table whose gets have one wrong byte.
struct Liar(Memory);

impl Target for Liar {
    fn name(&self) -> String {
        "liar".into()
    }

    fn guarantees(&self) -> String {
        "wrong bytes".into()
    }

    fn session(&self, lane: usize) -> Result<Box<dyn Session>, Failure> {
        self.0.session(lane)
    }
}

fn run_on_memory(jobs: &[Job], memory: Memory) -> Result<Vec<Outcome>, Failure> {
    Plan::of(jobs)?.run(&Liar(memory), &|_| ())
}

#[test]
fn a_mixed_run_counts_every_block_it_moved() {
    let job = |name: &str, rw| Job {
        name: name.into(),
        rw,
        lookupmix: 30,
        iodepth: 2,
        numjobs: 2,
        verify: true,
        ..small(Job::default())
    };
    let jobs = [job("mix", Rw::RandRw), job("put", Rw::Write)];
    let outcomes = run_on_memory(&jobs, Memory::default()).expect("it runs");
    let Tally { read, write, lookup, .. } = &outcomes[0].tally;
    assert_eq!((read.asked_blocks, lookup.asked_blocks), (read.blocks, lookup.blocks), "everything was laid down");
    let requests = read.requests + write.requests + lookup.requests;
    assert_eq!(requests, 2 * 256, "each of two clients moves its size");
    assert_eq!(outcomes[1].tally.write.bytes, 2 << 20);
}

#[test]
fn a_wrong_byte_ends_the_run_and_is_named() {
    let job = Job { verify: true, numjobs: 2, ..small(Job::default()) };
    let failure = run_on_memory(&[job], Memory::lying(1234)).expect_err("a byte is wrong").to_string();
    assert!(failure.contains("job \"job\": block ") && failure.contains("wrong at offset 1234"), "{failure}");
}

#[test]
fn a_trace_is_replayed_whole() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut text = String::from("{\"block\":16,\"name\":\"t\"}\n");
    for at in 0..50 {
        text += &format!("{{\"t\":0,\"s\":{},\"h\":[[0,3],[{},{}]]}}\n", at % 3, 3 + at, 2);
    }
    std::fs::write(file.path(), text).expect("it can be written");
    let job = Job { trace: Some(file.path().to_owned()), iodepth: 4, verify: true, ..small(Job::default()) };
    let outcomes = run_on_memory(&[job], Memory::default()).expect("it runs");
    assert_eq!(outcomes[0].tally.lookup.requests, 50);
    assert_eq!(outcomes[0].tally.lookup.asked_blocks, 250);
    assert!(outcomes[0].tally.write.blocks >= 54, "every block was put");
}
