//! Every key of a job: its name, what it means for blocks, how it is read and written. Files, flags, `--cmdhelp` and the
//! settings in a result all come from this table.

use std::path::PathBuf;
use std::time::Duration;

use super::amount::{parse_bytes, parse_duration, show_bytes, show_duration};
use super::model::Model;
use super::spread::{ChainLengths, Popularity, Sizes};
use super::{Arrivals, Job, Rw, Speed};

/// One key.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What may be written.
    pub form: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Reads a value into a job.
    pub set: fn(&mut Job, &str) -> Result<(), String>,
    /// The value of a job; `None`: it is not set.
    pub show: fn(&Job) -> Option<String>,
}

const SECOND: Duration = Duration::from_secs(1);
const MICROSECOND: Duration = Duration::from_micros(1);

macro_rules! key {
    ($name:literal, $form:literal, $help:literal, $set:expr, $show:expr $(,)?) => {
        Key { name: $name, form: $form, help: $help, set: $set, show: $show }
    };
}

/// All of them, in the order they are written.
pub const KEYS: &[Key] = &[
    key!(
        "target",
        "NAME",
        "what is measured: see --targets",
        |job, text| store(&mut job.target, Ok(text.to_owned())),
        |job| Some(job.target.clone()),
    ),
    key!(
        "endpoint",
        "WHERE",
        "a running server instead of one of the run's own; for kvtier its data directory",
        |job, text| store(&mut job.endpoint, some(text).map(Some)),
        |job| job.endpoint.clone(),
    ),
    key!(
        "directory",
        "PATH",
        "where the run makes its folder: the file system that is measured; default: the temporary folder",
        |job, text| store(&mut job.directory, some(text).map(|text| Some(PathBuf::from(text)))),
        |job| job.directory.as_ref().map(|path| path.display().to_string()),
    ),
    key!(
        "host_bytes",
        "SIZE",
        "memory the target has for payloads; the rest of the working set lies in the tier below",
        |job, text| store(&mut job.host_bytes, parse_bytes(text)),
        |job| Some(show_bytes(job.host_bytes)),
    ),
    key!(
        "rw",
        "read|write|randread|randwrite|rw|randrw",
        "read: get the working set's chains in order; write: put fresh chains; randread: get by popularity; randwrite: put \
         the working set's chains by popularity; rw, randrw: the gets of read or randread mixed with puts of fresh chains",
        |job, text| store(&mut job.rw, word(text, &Rw::ALL)),
        |job| Some(name_of(&job.rw, &Rw::ALL)),
    ),
    key!(
        "rwmixread",
        "PERCENT",
        "share of the requests of rw and randrw that are gets",
        |job, text| store(&mut job.rwmixread, percent(text)),
        |job| Some(job.rwmixread.to_string()),
    ),
    key!(
        "lookupmix",
        "PERCENT",
        "share of the gets that only look the chain up",
        |job, text| store(&mut job.lookupmix, percent(text)),
        |job| Some(job.lookupmix.to_string()),
    ),
    key!("bs", "SIZE", "bytes of a block", |job, text| store(&mut job.sizes, Sizes::parse_one(text)), |job| job
        .model
        .is_none()
        .then(|| job.sizes.only())
        .flatten()
        .map(|size| show_bytes(u64::from(size))),),
    key!(
        "bssplit",
        "SIZE/PERCENT:…",
        "sizes of blocks and their shares",
        |job, text| store(&mut job.sizes, Sizes::parse_split(text)),
        |job| (job.model.is_none() && job.sizes.only().is_none()).then(|| job.sizes.show()),
    ),
    key!(
        "model",
        "NAME",
        "block size from a model's KV bytes per token instead of bs: see --models",
        |job, text| store(&mut job.model, Model::named(text).map(|model| Some(model.name.to_owned()))),
        |job| job.model.clone(),
    ),
    key!(
        "model_tp",
        "RANKS",
        "tensor parallelism: a block is one rank's share of the model's KV",
        |job, text| store(&mut job.model_tp, count(text, 1, 1024)),
        |job| job.model.is_some().then(|| job.model_tp.to_string()),
    ),
    key!(
        "block_tokens",
        "TOKENS",
        "tokens of a block of the model",
        |job, text| store(&mut job.block_tokens, count(text, 1, 65_536)),
        |job| job.model.is_some().then(|| job.block_tokens.to_string()),
    ),
    key!(
        "chain",
        "N|MIN-MAX|geometric:MEAN",
        "blocks of a chain; a request is one chain",
        |job, text| store(&mut job.chain, ChainLengths::parse(text)),
        |job| Some(job.chain.show()),
    ),
    key!(
        "prefixes",
        "N",
        "how many prefixes the chains share among them",
        |job, text| store(&mut job.prefixes, count(text, 1, 1 << 20)),
        |job| Some(job.prefixes.to_string()),
    ),
    key!(
        "prefix_blocks",
        "N",
        "blocks of a shared prefix; at least a chain's last block is its own",
        |job, text| store(&mut job.prefix_blocks, count(text, 0, 65_535)),
        |job| Some(job.prefix_blocks.to_string()),
    ),
    key!(
        "random_distribution",
        "random|zipf:THETA",
        "popularity of the chains of randread, randwrite and randrw",
        |job, text| store(&mut job.popularity, Popularity::parse(text)),
        |job| Some(job.popularity.show()),
    ),
    key!(
        "iodepth",
        "N",
        "requests in flight of one client",
        |job, text| store(&mut job.iodepth, count(text, 1, 1024)),
        |job| Some(job.iodepth.to_string()),
    ),
    key!(
        "numjobs",
        "N",
        "clients; they share the working set and have random numbers of their own",
        |job, text| store(&mut job.numjobs, count(text, 1, 1024)),
        |job| Some(job.numjobs.to_string()),
    ),
    key!(
        "size",
        "SIZE",
        "payload of the working set, laid down before a job that reads; also what each client moves unless time_based",
        |job, text| store(&mut job.size, parse_bytes(text)),
        |job| Some(show_bytes(job.size)),
    ),
    key!(
        "runtime",
        "TIME",
        "longest time, ramp_time included; seconds without a unit",
        |job, text| store(&mut job.runtime, parse_duration(text, SECOND).map(Some)),
        |job| job.runtime.map(show_duration),
    ),
    key!(
        "time_based",
        "0|1",
        "go on until runtime, however much was moved",
        |job, text| store(&mut job.time_based, yes(text)),
        |job| Some(u8::from(job.time_based).to_string()),
    ),
    key!(
        "ramp_time",
        "TIME",
        "time before anything is counted",
        |job, text| store(&mut job.ramp_time, parse_duration(text, SECOND)),
        |job| Some(show_duration(job.ramp_time)),
    ),
    key!(
        "rate",
        "SIZE",
        "bytes per second of one client: requests are due at their time, and latency counts from then (open loop)",
        |job, text| store(&mut job.rate, parse_bytes(text).map(Some)),
        |job| job.rate.map(show_bytes),
    ),
    key!(
        "rate_iops",
        "NUMBER",
        "requests (chains) per second of one client, likewise",
        |job, text| store(&mut job.rate_iops, number(text).map(Some)),
        |job| job.rate_iops.map(|rate| rate.to_string()),
    ),
    key!(
        "rate_process",
        "linear|poisson",
        "gaps between due requests: even, or exponential as of independent users",
        |job, text| store(&mut job.rate_process, word(text, ARRIVALS)),
        |job| Some(name_of(&job.rate_process, ARRIVALS)),
    ),
    key!(
        "thinktime",
        "TIME",
        "pause of a lane after each request (closed loop); microseconds without a unit",
        |job, text| store(&mut job.thinktime, parse_duration(text, MICROSECOND)),
        |job| Some(show_duration(job.thinktime)),
    ),
    key!(
        "verify",
        "0|1",
        "1: every byte of every get is compared with what was put; 0: every byte is summed",
        |job, text| store(&mut job.verify, yes(text)),
        |job| Some(u8::from(job.verify).to_string()),
    ),
    key!(
        "sync",
        "0|1",
        "1: a put waits until its blocks would survive a crash",
        |job, text| store(&mut job.sync, yes(text)),
        |job| Some(u8::from(job.sync).to_string()),
    ),
    key!(
        "cold",
        "0|1",
        "1: memory is emptied before the job, so that it begins with the tier below",
        |job, text| store(&mut job.cold, yes(text)),
        |job| Some(u8::from(job.cold).to_string()),
    ),
    key!(
        "stonewall",
        "0|1",
        "1: begin when the jobs before have ended, not beside them",
        |job, text| store(&mut job.stonewall, yes(text)),
        |job| Some(u8::from(job.stonewall).to_string()),
    ),
    key!(
        "randseed",
        "N",
        "seed of everything random: same seed, same requests",
        |job, text| {
            store(&mut job.randseed, text.parse().map_err(|_| format!("{text:?} is no seed; write a whole number")))
        },
        |job| Some(job.randseed.to_string()),
    ),
    key!(
        "trace",
        "FILE",
        "replay a trace of bench/traces instead of rw: look up, get what is there, put the rest",
        |job, text| store(&mut job.trace, some(text).map(|text| Some(PathBuf::from(text)))),
        |job| job.trace.as_ref().map(|path| path.display().to_string()),
    ),
    key!(
        "trace_speed",
        "max|NUMBERx",
        "max: as fast as iodepth allows; 1x, 10x: at the trace's pace or a multiple, latency from the scheduled time",
        |job, text| store(&mut job.trace_speed, speed(text)),
        |job| job.trace.is_some().then(|| show_speed(job.trace_speed)),
    ),
    key!(
        "trace_limit",
        "REQUESTS",
        "only so many requests of the trace",
        |job, text| store(&mut job.trace_limit, count(text, 1, 10_000_000).map(|limit| Some(u64::from(limit)))),
        |job| job.trace_limit.map(|limit| limit.to_string()),
    ),
];

const ARRIVALS: &[(&str, Arrivals)] = &[("linear", Arrivals::Linear), ("poisson", Arrivals::Poisson)];

/// Finds a key, or says which is nearest.
pub fn find(name: &str) -> Result<&'static Key, String> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let nearest = nearest(name, KEYS.iter().map(|key| key.name));
        format!("unknown key {name:?}; {nearest}`kvtier-bench --cmdhelp` lists all")
    })
}

/// "did you mean …; " or nothing.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|other| (strsim::jaro_winkler(name, other), other)).filter(|(likeness, _)| *likeness > 0.75);
    let best = near.max_by(|one, other| one.0.total_cmp(&other.0));
    best.map_or_else(String::new, |(_, other)| format!("did you mean {other:?}? "))
}

/// The settings of a job, as a file has them.
pub fn settings(job: &Job) -> Vec<(&'static str, String)> {
    KEYS.iter().filter_map(|key| Some((key.name, (key.show)(job)?))).collect()
}

/// A section that reads back as the job.
pub fn section(job: &Job) -> String {
    let lines = settings(job).into_iter().map(|(name, value)| format!("{name}={value}\n"));
    format!("[{}]\n{}", job.name, lines.collect::<String>())
}

/// The table for people.
pub fn help() -> String {
    let job = Job::default();
    let lines = KEYS.iter().map(|key| {
        let default = (key.show)(&job).map_or_else(String::new, |value| format!(" [{value}]"));
        format!("{}={}{default}\n    {}\n", key.name, key.form, key.help)
    });
    lines.collect()
}

fn store<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *place = value)
}

fn some(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("the value is missing".into()) } else { Ok(text.to_owned()) }
}

fn yes(text: &str) -> Result<bool, String> {
    match text {
        "1" | "yes" | "true" => Ok(true),
        "0" | "no" | "false" => Ok(false),
        _ => Err(format!("{text:?} is neither 0 nor 1")),
    }
}

fn count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("{text:?} is out of bounds; {min} to {max} are allowed"))
}

fn percent(text: &str) -> Result<u32, String> {
    count(text.trim_end_matches('%'), 0, 100)
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.001..=1e7).contains(number));
    number.ok_or_else(|| format!("{text:?} is out of bounds; 0.001 to 10000000 a second are allowed"))
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

fn name_of<T: PartialEq>(value: &T, words: &[(&str, T)]) -> String {
    words.iter().find(|(_, other)| other == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err(format!("{text:?} is no speed; write max, 1x or 10x")),
    }
}

fn show_speed(speed: Speed) -> String {
    match speed {
        Speed::Max => "max".into(),
        Speed::Times(times) => format!("{times}x"),
    }
}
