//! The command line of `kvtierd`: from arguments and environment to settings, and the commands that only print.
//!
//! Exit codes: 0 done; 1 the daemon could not start or failed, or fsck found damage; 2 wrong arguments or settings; 3 fsck
//! could not look.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::machine::Here;
use crate::config::problem::Problem;
use crate::config::{Config, FlagValue, Reading, Sources, print, unit};
use crate::fsck;

/// Exit code for wrong arguments and settings.
pub const EXIT_SETTINGS: u8 = 2;

/// KV-cache storage daemon for LLM inference.
///
/// Without a command it serves. Every setting can be given in a file (--config), as an environment variable
/// (KVTIER_SECTION__KEY) or as a flag (--set section.key=value); the last of these wins.
#[derive(Debug, Parser)]
#[command(name = "kvtierd", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML); also KVTIER_CONFIG.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any setting; may be repeated.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Create the data directory if it does not exist.
    #[arg(long, global = true)]
    create: bool,
    #[command(flatten)]
    shortcuts: Shortcuts,
}

/// The settings people reach for most, as flags of their own.
#[derive(Debug, clap::Args)]
struct Shortcuts {
    /// Where everything that outlives the daemon is kept.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data_directory: Option<String>,
    /// Address of gRPC over TCP, or off.
    #[arg(long, global = true, value_name = "IP:PORT")]
    tcp: Option<String>,
    /// Path of the unix socket, or off.
    #[arg(long, global = true, value_name = "PATH")]
    unix: Option<String>,
    /// Address of HTTP for metrics and health, or off.
    #[arg(long, global = true, value_name = "IP:PORT")]
    http: Option<String>,
    /// Size of the host tier.
    #[arg(long, global = true, value_name = "SIZE")]
    host_bytes: Option<String>,
    /// Size of each NVMe file.
    #[arg(long, global = true, value_name = "SIZE")]
    nvme_bytes: Option<String>,
    /// What is logged.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what no command means).
    Run,
    /// Print every setting with its value in force, unit, default, bound and document.
    Settings {
        /// A configuration file with comments, or the document.
        #[arg(long, value_enum, default_value = "toml")]
        format: Format,
    },
    /// Print everything that is wrong with the settings on this machine; exit with 2 if anything is.
    CheckConfig,
    /// Examine what is on disk, with no daemon running; exit with 1 if anything is damaged.
    Fsck(fsck::Options),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Toml,
    Markdown,
}

/// What is left to do.
#[derive(Debug)]
pub enum Next {
    /// Serve with these settings.
    Serve(Box<Config>),
    /// Examine what is on disk.
    Fsck(Box<Config>, fsck::Options),
    /// Print this and end.
    Exit {
        /// For standard output.
        out: String,
        /// For standard error.
        err: String,
        /// Exit code.
        code: u8,
    },
}

impl Next {
    fn printed(out: String) -> Self {
        Self::Exit { out, err: String::new(), code: 0 }
    }

    fn refused(err: String) -> Self {
        Self::Exit { out: String::new(), err, code: EXIT_SETTINGS }
    }
}

/// Reads arguments (the program's name first) and environment. Touches nothing on the machine.
pub fn read(arguments: impl IntoIterator<Item = OsString>, environment: Vec<(String, String)>) -> Next {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(told) if told.use_stderr() => return Next::refused(told.render().to_string()),
        Err(told) => return Next::printed(told.render().to_string()),
    };
    let reading = Config::read(&sources(&arguments, environment), arguments.create, &Here);
    match arguments.command {
        Some(Command::Settings { format: Format::Markdown }) => Next::printed(print::markdown()),
        Some(Command::Settings { format: Format::Toml }) => {
            Next::Exit { out: print::toml(&reading), err: told(&reading.problems), code: 0 }
        }
        Some(Command::CheckConfig) => check(&reading),
        Some(Command::Fsck(options)) if reading.problems.is_empty() => Next::Fsck(Box::new(reading.config), options),
        None | Some(Command::Run) if reading.problems.is_empty() => Next::Serve(Box::new(reading.config)),
        None | Some(Command::Run | Command::Fsck(_)) => Next::refused(told(&reading.problems)),
    }
}

fn sources(arguments: &Arguments, environment: Vec<(String, String)>) -> Sources {
    let variable = environment.iter().find(|(name, _)| name == "KVTIER_CONFIG").map(|(_, path)| PathBuf::from(path));
    let shortcuts = &arguments.shortcuts;
    let own = [
        ("--data-directory", "data_directory", &shortcuts.data_directory),
        ("--tcp", "listen.tcp", &shortcuts.tcp),
        ("--unix", "listen.unix", &shortcuts.unix),
        ("--http", "listen.http", &shortcuts.http),
        ("--host-bytes", "host.bytes", &shortcuts.host_bytes),
        ("--nvme-bytes", "nvme.bytes", &shortcuts.nvme_bytes),
        ("--log-level", "log.level", &shortcuts.log_level),
        ("--log-format", "log.format", &shortcuts.log_format),
    ];
    let own = own.into_iter().filter_map(|(flag, path, text)| {
        let text = text.clone()?;
        Some(FlagValue { flag: format!("{flag} {text}"), path: path.to_owned(), text })
    });
    let set = arguments.set.iter().map(|(path, text)| FlagValue {
        flag: format!("--set {path}={text}"),
        path: path.clone(),
        text: text.clone(),
    });
    Sources { file: arguments.config.clone().or(variable), environment, flags: own.chain(set).collect() }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("write --set section.key=value")?;
    Ok((path.trim().to_owned(), value.trim().to_owned()))
}

fn check(reading: &Reading) -> Next {
    if !reading.problems.is_empty() {
        return Next::refused(told(&reading.problems));
    }
    let config = &reading.config;
    let nvme_bytes = if config.nvme.enabled { config.nvme.bytes * config.nvme.files.len() as u64 } else { 0 };
    Next::printed(format!(
        "settings are good: data in {}, host tier {}, NVMe tier {}\n",
        config.data_directory.display(),
        unit::show_size_about(config.host.bytes),
        unit::show_size_about(nvme_bytes),
    ))
}

fn told(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    let count = problems.len();
    let plural = if count == 1 { "" } else { "s" };
    format!("{lines}{count} problem{plural}; `kvtierd settings` explains every setting\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Next {
        let program = std::iter::once("kvtierd").chain(arguments.iter().copied());
        read(program.map(OsString::from), Vec::new())
    }

    #[track_caller]
    fn exit(next: Next) -> (String, String, u8) {
        match next {
            Next::Exit { out, err, code } => (out, err, code),
            Next::Serve(config) | Next::Fsck(config, _) => panic!("would go on with {config:?}"),
        }
    }

    #[test]
    fn check_config_prints_all_problems_and_exits_with_2() {
        let (_, err, code) =
            exit(run(&["check-config", "--host-bytes", "4", "--set", "nvme.queue_dept=1", "--tcp", "0.0.0.0:1"]));
        assert_eq!(code, EXIT_SETTINGS);
        for needle in ["--host-bytes 4: host.bytes", "nvme.queue_depth", "without TLS", "3 problems"] {
            assert!(err.contains(needle), "{needle} in {err}");
        }
    }

    #[test]
    fn serving_with_wrong_settings_is_refused_with_the_same_words() {
        assert_eq!(exit(run(&["--host-bytes", "4"])), exit(run(&["check-config", "--host-bytes", "4"])));
    }

    #[test]
    fn settings_prints_the_values_in_force_and_who_set_them() {
        let (out, _, code) = exit(run(&["settings", "--log-level", "debug"]));
        assert_eq!(code, 0);
        assert!(out.contains("# Set by --log-level debug.\nlevel = \"debug\""), "{out}");
    }

    #[test]
    fn a_flag_that_does_not_exist_and_a_set_without_a_value_exit_with_2() {
        assert_eq!(exit(run(&["--hots-bytes", "4"])).2, EXIT_SETTINGS);
        assert!(exit(run(&["--set", "host.bytes"])).1.contains("section.key=value"));
    }

    #[test]
    fn the_environment_names_the_file_and_a_flag_overrules_it() {
        let variable = |path: &str| vec![("KVTIER_CONFIG".to_owned(), path.to_owned())];
        let arguments =
            |more: &[&str]| ["kvtierd", "check-config"].iter().chain(more).map(OsString::from).collect::<Vec<_>>();
        let (_, err, _) = exit(read(arguments(&[]), variable("/nowhere/a.toml")));
        assert!(err.contains("/nowhere/a.toml cannot be read"), "{err}");
        let (_, err, _) = exit(read(arguments(&["--config", "/nowhere/b.toml"]), variable("/nowhere/a.toml")));
        assert!(err.contains("/nowhere/b.toml") && !err.contains("a.toml"), "{err}");
    }

    #[test]
    fn the_default_is_to_serve() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().to_str().unwrap();
        let next = run(&[
            "--data-directory",
            directory,
            "--nvme-bytes",
            "128MiB",
            "--host-bytes",
            "64MiB",
            "--set",
            "wal.retain_bytes=0",
            "--set",
            "wal.bytes_max=256MiB",
        ]);
        match next {
            Next::Serve(config) => assert_eq!(config.host.bytes, 64 * unit::MIB),
            Next::Exit { err, .. } => panic!("{err}"),
            Next::Fsck(..) => panic!("would examine"),
        }
    }
}
