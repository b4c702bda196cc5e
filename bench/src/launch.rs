//! `kvtier-bench [FILE…] [--KEY=VALUE…]`: from a command line to a result.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use crate::job::file::{Given, Problems, from_flags, parse};
use crate::job::keys::{KEYS, help};
use crate::job::model::MODELS;
use crate::job::{Job, amount};
use crate::report::Facts;
use crate::result::{RunResult, TargetFacts, is_saved, page, refuse_comparison, table};
use crate::run::Plan;
use crate::target::Target;
use crate::target::known::{KNOWN, find};

/// What runs without arguments.
pub const CANONICAL: &str = include_str!("../jobs/canonical.ini");
/// The job is wrong: nothing was measured.
const EXIT_USAGE: u8 = 2;
/// Longest job file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Files and flags of a run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    files: Vec<PathBuf>,
    flags: Vec<Given>,
    name: Option<String>,
    json: bool,
    output: Option<PathBuf>,
    html: Option<PathBuf>,
    shows: Option<Show>,
}

#[derive(Debug, Clone, Copy)]
enum Show {
    Keys,
    Targets,
    Models,
    Canonical,
    Jobs,
}

const SHOWS: [(&str, &str, Show); 5] = [
    ("cmdhelp", "List the keys of a job and what they mean", Show::Keys),
    ("targets", "List what can be measured", Show::Targets),
    ("models", "List models and their KV bytes per token", Show::Models),
    ("canonical", "Print the job file that runs without arguments", Show::Canonical),
    ("parse-only", "Print the jobs as they were understood, and run nothing", Show::Jobs),
];

impl clap::Args for Options {
    fn augment_args(command: Command) -> Command {
        let path = || clap::value_parser!(PathBuf);
        let files = Arg::new("files").value_name("JOBFILE").value_parser(path()).num_args(0..);
        let mut command = command
            .arg(files.help("Job file in fio's format; without one and without flags the canonical workload runs"))
            .arg(Arg::new("name").long("name").value_name("NAME").help("Name of the job that flags make"))
            .arg(
                Arg::new("output-format")
                    .long("output-format")
                    .value_parser(["normal", "json"])
                    .default_value("normal"),
            )
            .arg(
                Arg::new("output")
                    .long("output")
                    .value_name("FILE")
                    .value_parser(path())
                    .help("Write there, not to stdout"),
            )
            .arg(
                Arg::new("html").long("html").value_name("FILE").value_parser(path()).help("Write a report with plots"),
            );
        for (name, words, _) in SHOWS {
            command = command.arg(Arg::new(name).long(name).action(ArgAction::SetTrue).help(words));
        }
        for key in KEYS {
            let flag =
                Arg::new(key.name).long(key.name).value_name(key.form).help(key.help).help_heading("Keys of a job");
            command = command.arg(flag.num_args(0..=1).default_missing_value("1").action(ArgAction::Append));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Self::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let path = |name| matches.get_one::<PathBuf>(name).cloned();
        let given = |key: &crate::job::keys::Key| {
            let value = matches.get_many::<String>(key.name)?.next_back()?.clone();
            Some(Given { place: format!("--{}", key.name), key: key.name.to_owned(), value })
        };
        *self = Self {
            files: matches.get_many::<PathBuf>("files").into_iter().flatten().cloned().collect(),
            flags: KEYS.iter().filter_map(given).collect(),
            name: matches.get_one::<String>("name").cloned(),
            json: matches.get_one::<String>("output-format").is_some_and(|format| format == "json"),
            output: path("output"),
            html: path("html"),
            shows: SHOWS.iter().find(|(name, ..)| matches.get_flag(name)).map(|(.., show)| *show),
        };
        Ok(())
    }
}

/// Runs, and says how it ended: 0; 1 when the run failed, a wrong byte above all; 2 when nothing was run.
pub fn run(options: &Options) -> ExitCode {
    let jobs = match options.jobs() {
        Ok(jobs) => jobs,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Some(show) = options.shows {
        println!("{}", shown(show, &jobs).trim_end());
        return ExitCode::SUCCESS;
    }
    match measure(&jobs).and_then(|result| options.write(&result)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("kvtier-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn jobs(&self) -> Result<Vec<Job>, Problems> {
        let texts = self.files.iter().map(|path| Ok((path, read(path)?)));
        let texts = texts.collect::<Result<Vec<_>, String>>().map_err(|why| Problems(vec![why]))?;
        let saved: Vec<&Path> =
            texts.iter().filter(|(path, text)| is_saved(path, text)).map(|(path, _)| path.as_path()).collect();
        if !saved.is_empty() {
            return Err(Problems(vec![refuse_comparison(&saved)]));
        }
        let jobs = match texts.as_slice() {
            [] if self.flags.is_empty() => parse("canonical", CANONICAL, &[]),
            [] => from_flags(self.name.as_deref().unwrap_or("job"), &self.flags),
            [(path, text)] => parse(&path.display().to_string(), text, &self.flags),
            _ => Err(Problems(vec!["more than one job file; a run is described by one".into()])),
        }?;
        find(&jobs[0].target).map_err(|why| Problems(vec![why]))?;
        Ok(jobs)
    }

    fn write(&self, result: &RunResult) -> Result<(), String> {
        let text = if self.json {
            serde_json::to_string_pretty(result).map_err(|error| error.to_string())? + "\n"
        } else {
            table::text(result)
        };
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
        };
        match &self.output {
            Some(path) => write(path, &text)?,
            None => print!("{text}"),
        }
        self.html.as_ref().map_or(Ok(()), |path| write(path, &page::html(result)))
    }
}

fn read(path: &Path) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    match std::fs::metadata(path).map_err(wrong)?.len() {
        bytes if bytes > FILE_BYTES_MAX && !is_saved(path, "") => {
            Err(format!("{}: {bytes} bytes; a job file has at most {FILE_BYTES_MAX}", path.display()))
        }
        _ => std::fs::read_to_string(path).map_err(wrong),
    }
}

/// Runs jobs against the target they name.
fn measure(jobs: &[Job]) -> Result<RunResult, String> {
    let first = &jobs[0];
    let say = |words: &str| eprintln!("kvtier-bench: {words}");
    let plan = Plan::of(jobs).map_err(|error| error.to_string())?;
    let parent = first.directory.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("kvtier-bench-").tempdir_in(&parent);
    let folder = folder.map_err(|error| format!("no folder can be made in {}: {error}", parent.display()))?;
    let setup = plan.setup(folder.path().to_owned());
    let known = find(&first.target)?;
    say(&format!("starting {} for {} of payload", known.name, amount::show_bytes(setup.data_bytes)));
    let target = (known.open)(&setup).map_err(|error| error.to_string())?;
    let before = target.counters().map_err(|error| error.to_string())?;
    let outcomes = plan.run(target.as_ref(), &say).map_err(|error| error.to_string())?;
    let after = target.counters().map_err(|error| error.to_string())?;
    let facts = target_facts(target.as_ref(), &before, after);
    target.teardown().map_err(|error| error.to_string())?;
    Ok(RunResult::of(Facts::read(1), facts, &outcomes))
}

fn target_facts(target: &dyn Target, before: &[(String, u64)], after: Vec<(String, u64)>) -> TargetFacts {
    let start = |name: &str| before.iter().find(|(other, _)| other == name).map_or(0, |(_, count)| *count);
    let rise = |(name, count): (String, u64)| {
        let rise = i128::from(count) - i128::from(start(&name));
        (name, rise)
    };
    TargetFacts {
        name: target.name(),
        guarantees: target.guarantees(),
        facts: target.facts(),
        counters: after.into_iter().map(rise).collect(),
    }
}

fn shown(show: Show, jobs: &[Job]) -> String {
    match show {
        Show::Keys => help(),
        Show::Targets => KNOWN.iter().map(|known| format!("{:<13} {}\n", known.name, known.help)).collect(),
        Show::Models => {
            let lines = MODELS.iter().map(|model| {
                let heads = if model.kv_heads == 0 { "MLA".to_owned() } else { model.kv_heads.to_string() };
                let (name, layers, dim) = (model.name, model.layers, model.head_dim);
                let bytes = [1, 8].map(|tp| model.token_bytes(tp));
                format!(
                    "| {name} | {layers} | {heads} | {dim} | {} | {} | {} |\n",
                    model.dtype_bytes, bytes[0], bytes[1]
                )
            });
            let head = "| model | layers | KV heads | numbers per head | bytes per number | bytes per token | with tp 8 |\n\
                        |---|--:|--:|--:|--:|--:|--:|\n";
            head.to_owned() + &lines.collect::<String>()
        }
        Show::Canonical => CANONICAL.to_owned(),
        Show::Jobs => crate::job::file::write(jobs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        let command = <Options as clap::Args>::augment_args(Command::new("kvtier-bench").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).expect("good arguments");
        Options::from_arg_matches(&matches).expect("good arguments")
    }

    #[test]
    fn without_arguments_the_canonical_workload_runs() {
        let jobs = options(&[]).jobs().expect("a good job file");
        assert_eq!(jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["get", "put", "lookup"]);
        assert!(jobs.iter().all(|job| job.verify));
    }

    #[test]
    fn flags_make_a_job_of_the_same_kind() {
        let jobs =
            options(&["--name=x", "--rw=write", "--bs=64k", "--time_based", "--runtime", "2s"]).jobs().expect("a job");
        let text = "[x]\nrw=write\nbs=64k\ntime_based\nruntime=2s\n";
        assert_eq!(jobs, parse("x", text, &[]).expect("a job"));
    }

    #[test]
    fn the_page_of_jobs_has_every_key_model_and_target() {
        let page = include_str!("../../docs/benchmarks/jobs.md");
        for key in KEYS {
            assert!(page.contains(&format!("| `{}=", key.name)), "{}", key.name);
            assert!(page.contains(&key.help.replace('|', "\\|")), "the meaning of {} has changed", key.name);
        }
        for model in MODELS {
            assert!(page.contains(&format!("| {} | {} |", model.name, model.layers)), "{}", model.name);
        }
        for known in KNOWN {
            assert!(page.contains(&format!("| `{}` | {} |", known.name, known.help)), "{}", known.name);
        }
    }

    #[test]
    fn a_target_that_is_not_there_is_a_problem_before_anything_runs() {
        let problems = options(&["--target=archive"]).jobs().expect_err("no such target");
        assert!(problems.to_string().contains("not built yet"), "{problems}");
    }

    #[test]
    fn saved_results_are_no_jobs() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["a.json", "b.json"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::write(path, "{\"format\": 1}").expect("writes");
        }
        let names = paths.each_ref().map(|path| path.to_str().expect("a plain name"));
        let problems = options(&names).jobs().expect_err("results").to_string();
        assert!(
            problems.contains("saved results are not compared") && problems.contains("kvtier-bench compare"),
            "{problems}"
        );
    }
}
