//! Job files: sections of `key=value` lines.

use super::keys::{self, find};
use super::model::Model;
use super::spread::Sizes;
use super::{Job, problems};

/// Lines of a file; more is no job file.
const LINES_MAX: usize = 10_000;

/// Everything that is wrong with a job, in the order it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A value that was given, and where: "job.ini:7" or "--bs".
#[derive(Debug, Clone)]
pub struct Given {
    /// Where it stands.
    pub place: String,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// A section: its name, and what stands in it and in the `[global]` sections before it.
type Section = (String, Vec<Given>);

/// Reads the jobs of a file's text; `origin` names it in problems. Flags win over what stands in the file.
pub fn parse(origin: &str, text: &str, flags: &[Given]) -> Result<Vec<Job>, Problems> {
    let mut wrong = Vec::new();
    let sections = sections(origin, text, &mut wrong);
    let jobs = sections.into_iter().map(|(name, given)| job(name, given.iter().chain(flags), &mut wrong));
    let jobs = checked(jobs.collect(), wrong)?;
    Ok(jobs)
}

/// The job of flags alone.
pub fn from_flags(name: &str, flags: &[Given]) -> Result<Vec<Job>, Problems> {
    let mut wrong = Vec::new();
    let job = job(name.to_owned(), flags.iter(), &mut wrong);
    checked(vec![job], wrong)
}

fn checked(jobs: Vec<Job>, mut wrong: Vec<String>) -> Result<Vec<Job>, Problems> {
    wrong.extend(problems(&jobs));
    let mut seen = std::collections::BTreeSet::new();
    // What stands in [global] is met once for each job.
    wrong.retain(|problem| seen.insert(problem.clone()));
    if wrong.is_empty() { Ok(jobs) } else { Err(Problems(wrong)) }
}

fn sections(origin: &str, text: &str, wrong: &mut Vec<String>) -> Vec<Section> {
    let mut global: Vec<Given> = Vec::new();
    let mut sections: Vec<Section> = Vec::new();
    let mut at_global = None;
    for (index, line) in text.lines().enumerate() {
        let place = format!("{origin}:{}", index + 1);
        if index == LINES_MAX {
            wrong.push(format!("{place}: more than {LINES_MAX} lines; is this a job file?"));
            break;
        }
        let line = line.split([';', '#']).next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let Some(name) = name.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty()) else {
                wrong.push(format!("{place}: {line:?} is no section; write [name]"));
                continue;
            };
            at_global = Some(name == "global");
            if name != "global" {
                sections.push((name.to_owned(), global.clone()));
            }
            continue;
        }
        let (key, value) = line.split_once('=').map_or((line, "1"), |(key, value)| (key.trim(), value.trim()));
        let given = Given { place, key: key.to_owned(), value: value.to_owned() };
        match (at_global, sections.last_mut()) {
            (Some(true), _) => global.push(given),
            (Some(false), Some((_, section))) => section.push(given),
            _ => {
                wrong.push(format!("{}: {key:?} stands before any section; begin with [global] or [name]", given.place))
            }
        }
    }
    if let Some(given) = global.iter().filter(|_| sections.is_empty()).find(|given| find(&given.key).is_err()) {
        wrong.push(format!("{}: {}", given.place, find(&given.key).err().unwrap_or_default()));
    }
    sections
}

fn job<'a>(name: String, given: impl Iterator<Item = &'a Given>, wrong: &mut Vec<String>) -> Job {
    let mut job = Job { name, ..Job::default() };
    let mut sized = None;
    for Given { place, key, value } in given {
        let set = find(key).and_then(|key| (key.set)(&mut job, value).map_err(|why| format!("{}: {why}", key.name)));
        if let Err(why) = set {
            wrong.push(format!("{place}: {why}"));
        }
        if matches!(key.as_str(), "bs" | "bssplit") {
            sized = Some(place);
        }
    }
    if let Some(model) = job.model.as_deref().and_then(|name| Model::named(name).ok()) {
        if let Some(place) = sized {
            wrong.push(format!("{place}: the block size follows from model={}; leave bs and bssplit out", model.name));
        }
        let bytes = u64::from(model.token_bytes(job.model_tp)) * u64::from(job.block_tokens);
        match Sizes::parse_one(&bytes.to_string()) {
            Ok(sizes) => job.sizes = sizes,
            Err(why) => wrong.push(format!("job {:?}: {why}; lower block_tokens", job.name)),
        }
    }
    job
}

/// A file that reads back as these jobs.
pub fn write(jobs: &[Job]) -> String {
    jobs.iter().map(keys::section).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::spread::{ChainLengths, Popularity};
    use super::super::{Arrivals, Rw};
    use super::*;

    #[test]
    fn a_job_has_what_its_section_and_global_say() {
        let text = "; a comment\n[global]\nbs=256k\nruntime=10 # seconds\n\n[get]\nrw=randread\nrandom_distribution=zipf:0.9\n\
                    [put]\nrw=write\nrate=100m\ntime_based\n";
        let jobs = parse("x", text, &[]).expect("two jobs");
        assert_eq!(jobs.len(), 2);
        assert_eq!(
            (jobs[0].name.as_str(), jobs[0].rw, jobs[0].popularity),
            ("get", Rw::RandRead, Popularity::Zipf(0.9))
        );
        assert_eq!((jobs[1].rw, jobs[1].rate, jobs[1].time_based), (Rw::Write, Some(100 << 20), true));
        assert!(
            jobs.iter().all(|job| job.sizes.only() == Some(256 << 10) && job.runtime == Some(Duration::from_secs(10)))
        );
    }

    #[test]
    fn all_problems_come_at_once_with_their_lines() {
        let text = "bs=1m\n[global]\nrwmix=50\n[a]\nrw=sideways\niodept=4\nbs=0\n[a]\nruntime=1\nramp_time=2\n[";
        let Problems(problems) = parse("j.ini", text, &[]).expect_err("a bad file");
        let all = problems.join("\n");
        for expected in [
            "j.ini:1: \"bs\" stands before any section",
            "j.ini:3: unknown key \"rwmix\"; did you mean \"rwmixread\"",
            "j.ini:5: rw: \"sideways\" is none of read, write",
            "j.ini:6: unknown key \"iodept\"; did you mean \"iodepth\"",
            "j.ini:7: bs: \"0\" is out of bounds",
            "ramp_time is as long as runtime",
            "two jobs are called \"a\"",
            "j.ini:11: \"[\" is no section",
        ] {
            assert!(all.contains(expected), "{expected} is not in\n{all}");
        }
        assert_eq!(problems.len(), 8, "{all}");
    }

    #[test]
    fn jobs_of_two_targets_are_refused_as_a_comparison() {
        let text = "[a]\ntarget=local\n[b]\ntarget=redis\n";
        let Problems(problems) = parse("x", text, &[]).expect_err("two targets");
        assert!(problems[0].contains("take turns") && problems[0].contains("kvtier-bench compare"), "{problems:?}");
    }

    #[test]
    fn a_model_says_how_large_a_block_is() {
        let jobs = parse("x", "[a]\nmodel=llama-3.1-8b\nblock_tokens=16\n[b]\nmodel=llama-3.1-70b\nmodel_tp=8\n", &[]);
        let jobs = jobs.expect("two jobs");
        assert_eq!(jobs.iter().map(|job| job.sizes.only()).collect::<Vec<_>>(), [Some(2 << 20), Some(640 << 10)]);
        assert!(parse("x", "[a]\nmodel=llama-3.1-8b\nbs=1m\n", &[]).is_err());
    }

    #[test]
    fn flags_win_over_the_file() {
        let flag = Given { place: "--bs".into(), key: "bs".into(), value: "4k".into() };
        let jobs = parse("x", "[a]\nbs=1m\n", &[flag]).expect("a job");
        assert_eq!(jobs[0].sizes.only(), Some(4096));
    }

    #[test]
    fn a_file_of_nonsense_is_refused_and_nothing_panics() {
        for text in ["", "[global]\nbs=4k", "\u{0}", "[a\n=\n==\n[]", &"x\n".repeat(20_000)] {
            assert!(parse("x", text, &[]).is_err(), "{text:.40}");
        }
    }

    fn any_job() -> impl Strategy<Value = Job> {
        let sizes = prop_oneof![
            (1_u32..=64 << 20).prop_map(Sizes::of),
            Just(Sizes::parse_split("4k/10:64k/60:1m/30").expect("a split"))
        ];
        let chain = prop_oneof![
            (1_u32..65_536).prop_map(ChainLengths::Fixed),
            (1_u32..100, 0_u32..100).prop_map(|(from, more)| ChainLengths::Uniform(from, from + more)),
            (1_u32..4000).prop_map(ChainLengths::Geometric),
        ];
        let popularity = prop_oneof![
            Just(Popularity::Random),
            (1_u32..500).prop_map(|theta| Popularity::Zipf(f64::from(theta) / 100.0))
        ];
        let shape = (sizes, chain, popularity, 0_usize..6, 0_u32..=100, 0_u32..=100);
        let load = (1_u32..8, 1_u32..8, proptest::option::of(1_u64..1 << 40), 0_u64..1_000_000, any::<[bool; 6]>());
        (shape, load, any::<u64>()).prop_map(|(shape, load, randseed)| {
            let (sizes, chain, popularity, rw, rwmixread, lookupmix) = shape;
            let (iodepth, numjobs, rate, micros, [verify, sync, cold, stonewall, poisson, has_runtime]) = load;
            Job {
                name: "any".into(),
                rw: Rw::ALL[rw].1,
                rate_process: if poisson { Arrivals::Poisson } else { Arrivals::Linear },
                thinktime: if rate.is_none() { Duration::from_micros(micros) } else { Duration::ZERO },
                runtime: has_runtime.then(|| Duration::from_micros(micros + 1)),
                time_based: has_runtime && verify,
                size: u64::from(sizes.largest()) + micros,
                ..Job {
                    sizes,
                    chain,
                    popularity,
                    rwmixread,
                    lookupmix,
                    iodepth,
                    numjobs,
                    rate,
                    verify,
                    sync,
                    cold,
                    stonewall,
                    randseed,
                    ..Job::default()
                }
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_the_same_job(job in any_job()) {
            let text = write(std::slice::from_ref(&job));
            prop_assert_eq!(parse("x", &text, &[]).map_err(|problems| problems.to_string()), Ok(vec![job]), "{}", text);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\[[a-z]{0,3}\\]?\n|[a-z_]{0,9}=?[0-9a-z:/.-]{0,9}\n){0,20}") {
            parse("x", &text, &[]).ok();
        }
    }
}
