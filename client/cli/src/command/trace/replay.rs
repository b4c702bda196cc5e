//! `kvtier trace replay`: one run over a trace.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use kvtier_client::{Client, ClientError, SpaceDescription};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::file::{Request, TraceFile};
use super::report::{Report, Setting};
use super::tally::Tally;
use super::worker::Workbench;
use super::{ideal, report};
use crate::amount::{parse_block_size, show_percent};
use crate::clock::{Stopwatch, pause};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::pattern::Pattern;
use crate::rate::Rate;
use crate::{output, progress};

/// How long one request is repeated while the daemon is away before the replay gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The shortest wait between two tries.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(100);

/// Arguments of `kvtier trace replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The trace: .rjsonl.zst or .rjsonl
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replay only so many requests from the beginning
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Bytes of one block
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = parse_block_size)]
    block_bytes: u32,
    /// Requests served at a time
    #[arg(long, short, value_name = "REQUESTS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// max, or a multiple of the trace's own pace such as 1 or 10x
    #[arg(long, value_name = "SPEED", default_value = "max", value_parser = parse_speed)]
    speed: Speed,
    /// Put durably: every put waits until bytes and journal are synced on NVMe
    #[arg(long)]
    durable: bool,
    /// Forget what earlier replays of this trace left, and begin cold
    #[arg(long)]
    fresh: bool,
}

/// How fast requests are issued.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    Max,
    Times(f64),
}

/// A run in progress, shared by its workers.
struct Run {
    bench: Workbench,
    requests: Vec<Request>,
    description: SpaceDescription,
    space_name: String,
    /// Position of the request before in the same session.
    before: Vec<Option<usize>>,
    done: Vec<Semaphore>,
    next: AtomicUsize,
    stopped: AtomicBool,
    speed: Speed,
    watch: Stopwatch,
    bar: ProgressBar,
    hits: AtomicU64,
    blocks: AtomicU64,
}

impl Replay {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let trace = TraceFile::read(&self.file, self.limit.map(|limit| limit as usize))?;
        let client = global.connect().await?;
        let daemon = client.status().await?;
        let setting = Setting {
            trace: trace.header.name.clone(),
            source: trace.header.source.clone(),
            endpoint: client.endpoint().to_string(),
            daemon_version: daemon.version,
            tokens_per_block: trace.header.tokens_per_block,
            block_bytes: u64::from(self.block_bytes),
            concurrency: self.concurrency,
            durable: self.durable,
            ideal_hit_blocks: ideal::hit_blocks(&trace.requests),
        };
        let run = Arc::new(self.prepare(client, trace, global.json).await?);
        let tally = run_workers(&run, self.concurrency).await;
        run.bar.finish_and_clear();
        let report = Report::new(setting, tally?, &run.bench, run.watch.elapsed());
        match global.json {
            true => output::json(&report)?,
            false => output::line(report::describe(&report))?,
        }
        report.verdict()?;
        if run.stopped.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
    }

    async fn prepare(&self, client: Client, trace: TraceFile, quiet: bool) -> Result<Run, Failure> {
        let model = format!("trace {}", trace.header.name);
        let tokens = trace.header.tokens_per_block;
        let mut description = SpaceDescription::single_part("kvtier-trace", &model, tokens, self.block_bytes);
        description.layout = "pattern-v1".into();
        let space_name = format!("trace/{}/{}", trace.header.name, self.block_bytes);
        let mut space = client.open_space(&space_name, &description).await?;
        if self.fresh && !space.created {
            client.drop_space(space.space).await?;
            space = client.open_space(&space_name, &description).await?;
        }
        let bench = Workbench {
            client,
            space: space.space,
            block_bytes: self.block_bytes as usize,
            durable: self.durable,
            pattern: Pattern::default(),
            get_rate: Rate::default(),
            put_rate: Rate::default(),
        };
        Ok(Run {
            bench,
            description,
            space_name,
            before: turns(&trace.requests),
            done: trace.requests.iter().map(|_| Semaphore::new(0)).collect(),
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            speed: self.speed,
            watch: Stopwatch::start(),
            bar: progress::over(trace.requests.len() as u64, "requests", quiet),
            hits: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            requests: trace.requests,
        })
    }
}

/// Serves every request, or those begun before Ctrl-C.
async fn run_workers(run: &Arc<Run>, workers: u32) -> Result<Tally, Failure> {
    let mut set = JoinSet::new();
    for _ in 0..workers {
        let run = Arc::clone(run);
        set.spawn(async move { run.work().await });
    }
    let mut tally = Tally::default();
    loop {
        tokio::select! {
            joined = set.join_next() => match joined {
                None => return Ok(tally),
                Some(worker) => tally.merge(worker.expect("a worker neither panics nor is cancelled")?),
            },
            _ = tokio::signal::ctrl_c(), if !run.stopped.load(Ordering::Relaxed) => {
                run.stopped.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Run {
    async fn work(&self) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        while !self.stopped.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = self.requests.get(at) else { break };
            self.wait_for_turn(at, request).await;
            let served = self.serve_patiently(request, &mut tally).await?;
            self.show(served.blocks, served.hit_blocks);
            tally.add(served);
            self.done[at].add_permits(1);
        }
        Ok(tally)
    }

    /// A request begins when its time has come and its session's request before it has ended. That one was taken
    /// earlier, by a worker that is at work on it, so the wait ends.
    async fn wait_for_turn(&self, at: usize, request: &Request) {
        if let Speed::Times(times) = self.speed {
            let due = Duration::try_from_secs_f64(request.seconds / times).unwrap_or(Duration::MAX);
            pause(due.saturating_sub(self.watch.elapsed())).await;
        }
        if let Some(before) = self.before[at] {
            let ended = self.done[before].acquire().await;
            ended.expect("nobody closes the semaphore").forget();
        }
    }

    /// Serves a request, again and again while the daemon is away or busy: a restart must not end a replay.
    async fn serve_patiently(&self, request: &Request, tally: &mut Tally) -> Result<super::tally::Served, Failure> {
        let watch = Stopwatch::start();
        loop {
            let error = match self.bench.serve(request.blocks().collect()).await {
                Ok(served) => return Ok(served),
                Err(error) => error,
            };
            let lost = matches!(error, ClientError::NotFound { .. });
            let wait = error.retry_after().or(lost.then_some(Duration::ZERO));
            match wait {
                Some(wait) if watch.elapsed() < PATIENCE => pause(wait.max(RETRY_WAIT_MIN)).await,
                _ => return Err(error.into()),
            }
            tally.retries += 1;
            self.bar.set_message(format!("retrying: {error}"));
            if lost {
                // The daemon forgot the space or the lease: opening again is harmless, and fails as the request would.
                let _ = self.bench.client.open_space(&self.space_name, &self.description).await;
            }
        }
    }

    fn show(&self, blocks: u64, hit_blocks: u64) {
        let hits = self.hits.fetch_add(hit_blocks, Ordering::Relaxed) + hit_blocks;
        let blocks = self.blocks.fetch_add(blocks, Ordering::Relaxed) + blocks;
        self.bar.inc(1);
        self.bar.set_message(format!("{} hit", show_percent(hits, blocks)));
    }
}

/// For every request, the position of the one before it in its session.
fn turns(requests: &[Request]) -> Vec<Option<usize>> {
    let mut last = BTreeMap::new();
    let before = requests.iter().enumerate().map(|(at, request)| {
        let in_session = request.session >= 0;
        in_session.then(|| last.insert(request.session, at)).flatten()
    });
    before.collect()
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err("write max, or a multiple of the trace's pace such as 1 or 10x".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_refused() {
        assert_eq!(parse_speed("max"), Ok(Speed::Max));
        assert_eq!(parse_speed("10x"), Ok(Speed::Times(10.0)));
        assert_eq!(parse_speed("0.5"), Ok(Speed::Times(0.5)));
        for text in ["", "x", "0", "-1", "inf", "NaN", "fast"] {
            assert!(parse_speed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_turns_of_a_session_follow_each_other() {
        let request = |session: i64| {
            serde_json::from_value(serde_json::json!({ "t": 0, "s": session, "h": [[0, 1]] })).expect("valid")
        };
        let requests: Vec<Request> = [1, 2, -1, 1, -1, 1].into_iter().map(request).collect();
        assert_eq!(turns(&requests), [None, None, None, Some(0), None, Some(3)]);
    }
}
