//! Running jobs against one target.
//!
//! ```text
//!   open target ─> lay down the working sets of jobs that read ─> settle ─> cold? empty memory
//!        └─> jobs, those up to a stonewall side by side:  numjobs × iodepth lanes, each a thread with its session
//!              source (mutex) ─ ticket, due ─> lane ─ put · get · lookup ─> tally
//! ```
//!
//! The first failure of a lane ends the run: a wrong byte above all ([`crate::target::consumer::Mismatch`]). Who owns what:
//! the run owns target and folder and drops them at its end, however that comes; a lane owns its session.

pub mod chains;
pub mod clock;
pub mod lane;
pub mod replay;
pub mod source;
pub mod steady;
pub mod tally;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::chains::Chains;
use self::clock::{Clock, RealClock};
use self::lane::{Lane, Requests, Surroundings, payloads};
use self::replay::Replay;
use self::source::Source;
use self::tally::Tally;
use crate::job::{Job, Rw};
use crate::pattern::Pattern;
use crate::target::{Failure, Session, Setup, Target};

/// How often a block is offered while a working set is laid down.
const LAYOUT_TRIES: usize = 50;

/// A job and what it counted.
#[derive(Debug)]
pub struct Outcome {
    /// The job.
    pub job: Job,
    /// Bytes of its working set.
    pub working_set_bytes: u64,
    /// How long it was measured, without its ramp.
    pub measured: Duration,
    /// What it counted.
    pub tally: Tally,
}

/// A job with what it needs.
struct Prepared {
    job: Job,
    chains: Arc<Chains>,
    replay: Option<Replay>,
    working_set_bytes: u64,
}

/// Jobs that are ready to run.
pub struct Plan {
    jobs: Vec<Prepared>,
}

impl Plan {
    /// Reads traces and sizes working sets.
    pub fn of(jobs: &[Job]) -> Result<Self, Failure> {
        if jobs.len() > chains::JOBS_MAX {
            return Err(format!("{} jobs; {} are the most of a run", jobs.len(), chains::JOBS_MAX).into());
        }
        let jobs = jobs.iter().enumerate().map(|(place, job)| Prepared::of(job, place)).collect::<Result<_, _>>()?;
        Ok(Self { jobs })
    }

    /// What the target must be able to hold.
    pub fn setup(&self, folder: std::path::PathBuf) -> Setup {
        let first = &self.jobs[0].job;
        let wanted = self.jobs.iter().map(|prepared| {
            let job = &prepared.job;
            let writes =
                !matches!(job.rw, crate::job::Rw::Read | crate::job::Rw::RandRead) && prepared.replay.is_none();
            let fresh = if writes { job.size.saturating_mul(u64::from(job.numjobs)) } else { 0 };
            prepared.working_set_bytes.saturating_add(fresh)
        });
        Setup {
            folder,
            block_bytes_max: self.jobs.iter().map(|prepared| prepared.job.sizes.largest()).max().unwrap_or(1),
            data_bytes: wanted.fold(0, u64::saturating_add),
            memory_bytes: first.host_bytes,
            lanes: self.jobs.iter().map(|prepared| prepared.job.lanes()).sum::<u64>() as usize,
            durable: first.sync,
            endpoint: first.endpoint.clone(),
        }
    }

    /// Runs everything. `say` is told what happens meanwhile.
    pub fn run(self, target: &dyn Target, say: &dyn Fn(&str)) -> Result<Vec<Outcome>, Failure> {
        let pattern = Pattern::default();
        for prepared in self.jobs.iter().filter(|prepared| prepared.replay.is_none() && prepared.job.rw.reads()) {
            let mib = prepared.working_set_bytes >> 20;
            say(&format!("laying down {mib} MiB for {}", prepared.job.name));
            lay_down(target, &pattern, prepared)?;
        }
        target.settle()?;
        let mut outcomes = Vec::new();
        let mut rest = self.jobs.as_slice();
        while !rest.is_empty() {
            let together = 1 + rest[1..].iter().take_while(|prepared| !prepared.job.stonewall).count();
            let (group, later) = rest.split_at(together);
            if group.iter().any(|prepared| prepared.job.cold) {
                say("emptying memory");
                target.chill()?;
            }
            let names: Vec<&str> = group.iter().map(|prepared| prepared.job.name.as_str()).collect();
            say(&format!("running {}", names.join(", ")));
            outcomes.extend(run_group(target, &pattern, group)?);
            rest = later;
        }
        Ok(outcomes)
    }
}

impl Prepared {
    fn of(job: &Job, place: usize) -> Result<Self, Failure> {
        let chains = Arc::new(Chains::of(job, place));
        let replay = job.trace.as_deref().map(|path| Replay::open(path, job)).transpose()?;
        let working_set_bytes = match &replay {
            Some(replay) => (replay.distinct_blocks() as f64 * job.sizes.mean()) as u64,
            None if job.rw.reads() || job.rw == Rw::RandWrite => set_bytes(&chains),
            None => 0,
        };
        Ok(Self { job: job.clone(), chains, replay, working_set_bytes })
    }
}

/// Bytes of all chains, shared prefixes counted as often as they are used: never too little.
fn set_bytes(chains: &Chains) -> u64 {
    (0..chains.count()).flat_map(|chain| chains.blocks(chain)).map(|block| u64::from(block.bytes)).sum()
}

fn lay_down(target: &dyn Target, pattern: &Pattern, prepared: &Prepared) -> Result<(), Failure> {
    let (mut session, mut spare) = (target.session(0)?, Vec::new());
    for chain in 0..prepared.chains.count() {
        let blocks = prepared.chains.blocks(chain);
        let keys: Vec<_> = blocks.iter().map(|block| prepared.chains.key(block)).collect();
        let puts = payloads(pattern, &mut spare, &keys, &blocks);
        session.prepare(&puts)?;
        let mut tries = 0;
        while session.put(None, &puts)?.declined > 0 {
            tries += 1;
            if tries == LAYOUT_TRIES {
                return Err(format!(
                    "{} does not take the working set of {:?}: blocks are declined again and again; lower size, or raise \
                     host_bytes",
                    target.name(),
                    prepared.job.name
                )
                .into());
            }
            // It has to write back before it takes more.
            target.settle()?;
        }
        spare.extend(puts.into_iter().filter_map(|put| put.bytes.try_into_mut().ok()));
    }
    Ok(())
}

fn run_group(target: &dyn Target, pattern: &Pattern, group: &[Prepared]) -> Result<Vec<Outcome>, Failure> {
    let mut sessions = Vec::new();
    let lanes: u64 = group.iter().map(|prepared| prepared.job.lanes()).sum();
    for lane in 0..lanes {
        sessions.push(target.session(lane as usize)?);
    }
    run_sessions(&RealClock::start(), pattern, group, sessions)
}

/// Runs jobs side by side, with these sessions dealt to their lanes.
fn run_sessions(
    clock: &dyn Clock,
    pattern: &Pattern,
    group: &[Prepared],
    mut sessions: Vec<Box<dyn Session>>,
) -> Result<Vec<Outcome>, Failure> {
    let stopped = AtomicBool::new(false);
    let surroundings: Vec<Surroundings<'_>> = group
        .iter()
        .map(|Prepared { job, chains, .. }| Surroundings { job, chains, pattern, clock, stopped: &stopped })
        .collect();
    let sources: Vec<Vec<Mutex<Source>>> = group.iter().map(sources).collect();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (at, (prepared, around)) in group.iter().zip(&surroundings).enumerate() {
            for lane in 0..prepared.job.lanes() as usize {
                let session = sessions.pop().ok_or("there are fewer sessions than lanes")?;
                let requests = match &prepared.replay {
                    Some(replay) => Requests::Traced(replay),
                    None => Requests::Made(&sources[at][lane / prepared.job.iodepth as usize]),
                };
                threads.push((at, scope.spawn(move || (Lane::new(around, session).work(&requests), clock.now()))));
            }
        }
        let mut ended: Vec<(Tally, Duration)> = group.iter().map(|_| Default::default()).collect();
        let mut failure = None;
        for (at, thread) in threads {
            let (tally, now) = thread.join().map_err(|_| "a lane panicked")?;
            match tally {
                Ok(tally) => {
                    ended[at].0.merge(&tally);
                    ended[at].1 = ended[at].1.max(now);
                }
                Err(why) => failure = failure.or(Some((at, why))),
            }
        }
        if let Some((at, why)) = failure {
            return Err(format!("job {:?}: {why}", group[at].job.name).into());
        }
        let outcome = |(prepared, (tally, now)): (&Prepared, (Tally, Duration))| Outcome {
            job: prepared.job.clone(),
            working_set_bytes: prepared.working_set_bytes,
            measured: now.saturating_sub(prepared.job.ramp_time),
            tally,
        };
        Ok(group.iter().zip(ended).map(outcome).collect())
    })
}

fn sources(prepared: &Prepared) -> Vec<Mutex<Source>> {
    let fresh = Arc::new(AtomicU64::new(prepared.chains.count()));
    let source =
        |clone| Mutex::new(Source::new(&prepared.job, clone, Arc::clone(&prepared.chains), Arc::clone(&fresh)));
    (0..prepared.job.numjobs).map(source).collect()
}
