//! `kvtier bench`: load the node and measure it, every block verified. A quick look; figures to quote come from
//! `kvtier-bench` (docs/benchmarks/jobs.md, METHOD.md).
//!
//! Three phases, one after another: put every chain, get every chain, look every chain up. A chain is one call, so the
//! latencies are those of calls. The blocks go to a space of their own, which is dropped at the end.

mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvtier_client::{Client, ClientError, GetAnswer, PutBlock, PutOutcome, SpaceDescription, SpaceDigest};
use tokio::task::JoinSet;

use crate::amount::parse_block_size;
use crate::clock::Stopwatch;
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::latency::Latency;
use crate::pattern::Pattern;
use crate::{output, progress};
use report::Phase;

/// Arguments of `kvtier bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Blocks to put
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    blocks: u32,
    /// Bytes of one block
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_block_size)]
    block_bytes: u32,
    /// Blocks of one chain: a call puts, gets or looks up one chain
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    chain: u32,
    /// Calls at a time
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// How often every chain is got and looked up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    /// Put durably: wait until bytes and journal are synced on NVMe
    #[arg(long)]
    durable: bool,
    /// Keep the blocks and their space afterwards
    #[arg(long)]
    keep: bool,
}

/// One operation per chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Put,
    Get,
    Lookup,
}

/// What the workers of all phases share.
struct Load {
    client: Client,
    space: SpaceDigest,
    pattern: Pattern,
    arguments: Bench,
}

/// What one worker, or all of a phase, did.
#[derive(Debug, Default)]
struct Work {
    latency: Latency,
    blocks: u64,
    bytes: u64,
    missed: u64,
    declined: u64,
    wrong: u64,
}

impl Bench {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let name = format!("bench-{}", &client.id()[..8]);
        let mut description = SpaceDescription::single_part("kvtier-bench", &name, 16, self.block_bytes);
        description.layout = "pattern-v1".into();
        let space = client.open_space(&name, &description).await?.space;
        let load = Arc::new(Load { client: client.clone(), space, pattern: Pattern::default(), arguments: self });
        let phases = run_phases(&load, global.json).await;
        if !load.arguments.keep {
            client.drop_space(space).await?;
        }
        let phases = phases?;
        match global.json {
            true => output::json(&report::as_json(&phases))?,
            false => output::line(report::describe(&phases))?,
        }
        report::verdict(&phases)
    }

    fn chains(&self) -> u64 {
        u64::from(self.blocks).div_ceil(u64::from(self.chain))
    }
}

async fn run_phases(load: &Arc<Load>, quiet: bool) -> Result<Vec<Phase>, Failure> {
    let mut phases = Vec::new();
    for operation in [Operation::Put, Operation::Get, Operation::Lookup] {
        let phase = tokio::select! {
            phase = run_phase(load, operation, quiet) => phase?,
            _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
        };
        phases.push(phase);
    }
    Ok(phases)
}

async fn run_phase(load: &Arc<Load>, operation: Operation, quiet: bool) -> Result<Phase, Failure> {
    let chains = load.arguments.chains();
    let repeat = if operation == Operation::Put { 1 } else { u64::from(load.arguments.repeat) };
    let bar = progress::over(chains * repeat, operation.name(), quiet);
    let next = Arc::new(AtomicU64::new(0));
    let watch = Stopwatch::start();
    let mut workers = JoinSet::new();
    for _ in 0..load.arguments.concurrency {
        let (load, next, bar) = (Arc::clone(load), Arc::clone(&next), bar.clone());
        workers.spawn(async move {
            let mut work = Work::default();
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                if call >= chains * repeat {
                    return Ok::<_, ClientError>(work);
                }
                load.call(operation, call % chains, &mut work).await?;
                bar.inc(1);
            }
        });
    }
    let mut total = Work::default();
    while let Some(worker) = workers.join_next().await {
        total.merge(&worker.expect("a worker neither panics nor is cancelled")?);
    }
    let time = watch.elapsed();
    bar.finish_and_clear();
    Ok(Phase::new(operation.name(), total, time))
}

impl Load {
    async fn call(&self, operation: Operation, chain: u64, work: &mut Work) -> Result<(), ClientError> {
        let first = chain * u64::from(self.arguments.chain);
        let last = (first + u64::from(self.arguments.chain)).min(u64::from(self.arguments.blocks));
        let keys: Vec<Bytes> = (first..last).map(|block| Bytes::copy_from_slice(&block.to_be_bytes())).collect();
        let watch = Stopwatch::start();
        match operation {
            Operation::Put => self.put(first, &keys, work).await?,
            Operation::Get => self.get(first, &keys, work).await?,
            Operation::Lookup => {
                let found = self.client.lookup(self.space, &keys, None).await?.prefix.len() as u64;
                work.blocks += found;
                work.missed += keys.len() as u64 - found;
            }
        }
        work.latency.record(watch.elapsed());
        Ok(())
    }

    async fn put(&self, first: u64, keys: &[Bytes], work: &mut Work) -> Result<(), ClientError> {
        let length = self.arguments.block_bytes as usize;
        let blocks = (0..keys.len()).map(|at| {
            let block = PutBlock::new(keys[at].clone(), self.pattern.make(first + at as u64, length));
            let block = if at == 0 { block } else { block.after(keys[at - 1].clone()) };
            if self.arguments.durable { block.durable() } else { block }
        });
        for outcome in self.client.put_many(self.space, blocks).await? {
            match outcome {
                PutOutcome::Stored { .. } | PutOutcome::Duplicate => work.add_block(length),
                _ => work.declined += 1,
            }
        }
        Ok(())
    }

    async fn get(&self, first: u64, keys: &[Bytes], work: &mut Work) -> Result<(), ClientError> {
        let length = self.arguments.block_bytes as usize;
        let mut answers = self.client.get_keys(self.space, keys).await?;
        loop {
            match answers.next().await {
                Ok(Some(GetAnswer::Block(block))) => {
                    let number = first + u64::from(block.index);
                    match self.pattern.check(number, &block.bytes, length) {
                        true => work.add_block(length),
                        false => work.wrong += 1,
                    }
                }
                Ok(Some(GetAnswer::Miss(_))) => work.missed += 1,
                Ok(None) => return Ok(()),
                Err(ClientError::Corrupt { .. }) => work.wrong += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Lookup => "lookup",
        }
    }
}

impl Work {
    fn add_block(&mut self, bytes: usize) {
        self.blocks += 1;
        self.bytes += bytes as u64;
    }

    fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.missed += other.missed;
        self.declined += other.declined;
        self.wrong += other.wrong;
    }
}
