mod domains;
mod garbage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::machine::{DirectoryState, Disk, FileState, Machine};
use super::sections::settings;
use super::table::Preset;
use super::unit::{GIB, MIB};
use super::value::{Kind, Literal, Value};
use super::*;

/// A machine with 16 GiB of memory and one disk with 100 GiB free, on which nothing exists yet.
struct Fixed {
    memory_bytes: u64,
    free_bytes: u64,
    files: BTreeMap<PathBuf, FileState>,
    directory: DirectoryState,
}

fn machine() -> Fixed {
    Fixed {
        memory_bytes: 16 * GIB,
        free_bytes: 100 * GIB,
        files: BTreeMap::new(),
        directory: DirectoryState::Missing { creatable: true },
    }
}

impl Machine for Fixed {
    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
    fn disk(&self, _: &Path) -> Option<Disk> {
        Some(Disk { file_system: 1, free_bytes: self.free_bytes })
    }
    fn file(&self, path: &Path) -> FileState {
        self.files.get(path).copied().unwrap_or(FileState::Missing)
    }
    fn directory(&self, _: &Path) -> DirectoryState {
        self.directory.clone()
    }
    fn directory_bytes(&self, _: &Path) -> u64 {
        0
    }
    fn unreadable(&self, path: &Path) -> Option<String> {
        (!path.exists()).then(|| "no such file".to_owned())
    }
}

fn flags(pairs: &[(&str, &str)]) -> Sources {
    let flags = pairs.iter().map(|(path, text)| FlagValue {
        flag: format!("--set {path}={text}"),
        path: (*path).to_owned(),
        text: (*text).to_owned(),
    });
    Sources { flags: flags.collect(), ..Sources::default() }
}

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvtier.toml");
    std::fs::write(&path, text).unwrap();
    (folder, Sources { file: Some(path), ..Sources::default() })
}

fn problems(sources: &Sources, machine: &Fixed) -> Vec<String> {
    Config::read(sources, false, machine).problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn one_problem(sources: &Sources, machine: &Fixed) -> String {
    let told = problems(sources, machine);
    assert_eq!(told.len(), 1, "{told:#?}");
    told[0].clone()
}

#[test]
fn no_configuration_at_all_is_a_working_configuration() {
    let config = Config::load(&Sources::default(), false, &machine()).unwrap();
    assert_eq!(config.data_directory, Path::new("./kvtier-data"));
    assert_eq!(config.listen.unix.as_deref(), Some(Path::new("./kvtier-data/kvtierd.sock")));
    assert_eq!(config.host.bytes, 2 * GIB, "an eighth of memory");
    assert_eq!(config.nvme.bytes, 20 * GIB, "a fifth of the free disk");
    assert_eq!(config.wal.group_commit_max_delay, Duration::from_millis(5));
    assert_eq!(config.limits.pin_quota_bytes, 512 * MIB);
    assert!(config.creates_data_directory && !config.listen.insecure && config.trace.otlp_endpoint.is_none());
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_file() {
    let (_folder, mut sources) =
        file("[host]\nbytes = \"1GiB\"\n[index]\ncache_bytes = \"8MiB\"\n[nvme]\nqueue_depth = 7\n");
    sources.environment = vec![
        ("KVTIER_HOST__BYTES".to_owned(), "2GiB".to_owned()),
        ("KVTIER_INDEX__CACHE_BYTES".to_owned(), "16MiB".to_owned()),
    ];
    sources.flags = flags(&[("host.bytes", "3GiB")]).flags;
    let reading = Config::read(&sources, false, &machine());
    assert_eq!(reading.problems, []);
    assert_eq!(reading.config.host.bytes, 3 * GIB);
    assert_eq!(reading.config.index.cache_bytes, 16 * MIB);
    assert_eq!(reading.config.nvme.queue_depth, 7);
    assert_eq!(reading.origin("host.bytes").to_string(), "--set host.bytes=3GiB");
    assert_eq!(reading.origin("wal.segment_bytes"), Origin::Preset);
}

#[test]
fn the_data_directory_moves_everything_that_is_inside_it() {
    let config = Config::load(&flags(&[("data_directory", "/srv/kv")]), true, &machine()).unwrap();
    assert_eq!(config.nvme.files, [PathBuf::from("/srv/kv/nvme-0.kv")]);
    assert_eq!(config.wal.directory, Path::new("/srv/kv/wal"));
    assert_eq!(config.index.directory, Path::new("/srv/kv/index"));
}

#[test]
fn an_unknown_key_names_the_nearest_and_its_line() {
    let (_folder, sources) = file("# comment\n[host]\nbites = \"1GiB\"\n");
    let told = one_problem(&sources, &machine());
    assert!(told.contains("kvtier.toml:3: unknown setting \"host.bites\"; the nearest is \"host.bytes\""), "{told}");
    let (_folder, sources) = file("[nvme]\nbytes_max = \"1GiB\"\n");
    let told = one_problem(&sources, &machine());
    assert!(told.contains("the nearest is \"nvme.bytes\""), "not wal.bytes_max: {told}");
}

#[test]
fn a_section_without_settings_is_told_if_it_means_nothing() {
    let (_folder, sources) = file("[nvme]\n# bytes = \"1GiB\"\n");
    assert_eq!(problems(&sources, &machine()), [""; 0], "everything in it is commented out");
    let (_folder, sources) = file("[nwme]\n");
    let told = one_problem(&sources, &machine());
    assert!(told.contains("kvtier.toml:1: unknown section [nwme]"), "{told}");
    let (_folder, sources) = file("[engine_events.b]\n");
    let told = one_problem(&sources, &machine());
    assert!(told.contains("kvtier.toml:1: [engine_events.b] sets nothing"), "{told}");
}

/// `check-config` said that the settings were good, and the start was refused: a file of exactly one extent, a log of
/// three segments, extents of 2 GiB, a cool-down of an hour.
#[test]
fn what_is_good_here_is_good_to_every_component() {
    use crate::assemble::{arena_settings, nvme_settings, wal_settings};
    let folder = tempfile::tempdir().unwrap();
    let home = crate::home::Home::open(folder.path(), true).unwrap();
    let machine = Fixed { memory_bytes: 1 << 50, free_bytes: 1 << 60, ..machine() };
    let mut taken = 0;
    for setting in super::sections::settings().filter(|setting| setting.bound != super::table::Bound::NONE) {
        for extreme in [setting.bound.least, setting.bound.most] {
            let text = match setting.kind {
                Kind::Time => format!("{}us", extreme / 1000),
                Kind::Size | Kind::SizeOf(_) => format!("{extreme}B"),
                _ => extreme.to_string(),
            };
            let path = setting.path();
            let Ok(config) = Config::load(&flags(&[(&path, &text)]), false, &machine) else { continue };
            taken += 1;
            assert_eq!(nvme_settings(&config).validate(), Ok(()), "{path} = {text}");
            for arena in arena_settings(&config) {
                assert_eq!(arena.validate(), Ok(()), "{path} = {text}");
            }
            assert_eq!(wal_settings(&config, &home).validate(), [], "{path} = {text}");
        }
    }
    assert!(taken > 40, "only {taken} extremes were taken: the values are not written as they should be");
    let least = |bytes: &str| flags(&[("nvme.extent_bytes", "16MiB"), ("nvme.bytes", bytes)]);
    assert!(one_problem(&least("16MiB"), &machine).contains("does not hold 1 MiB and one extent, \"17MiB\""));
    assert_eq!(nvme_settings(&Config::load(&least("17MiB"), false, &machine).unwrap()).validate(), Ok(()));
}

#[test]
fn a_key_like_no_other_names_none() {
    let told = one_problem(&flags(&[("foo.x", "3")]), &machine());
    assert!(told.contains("unknown section and setting \"foo.x\"; `kvtierd settings` lists all"), "{told}");
}

#[test]
fn a_key_in_the_wrong_section_names_the_right_section() {
    let told = one_problem(&flags(&[("host.queue_depth", "3")]), &machine());
    assert!(told.contains("nearest is \"nvme.queue_depth\""), "{told}");
}

#[test]
fn an_unknown_section_and_a_section_used_as_a_key_are_told() {
    let (_folder, sources) = file("hots.bytes = \"1GiB\"\nlisten = \"here\"\n");
    let told = problems(&sources, &machine());
    assert!(
        told.iter()
            .any(|told| told.contains("unknown section and setting \"hots.bytes\"") && told.contains("host.bytes")),
        "{told:?}"
    );
    assert!(told.iter().any(|told| told.contains("\"listen\" is a section")), "{told:?}");
}

#[test]
fn a_misspelt_variable_is_told_and_other_programs_variables_are_left_alone() {
    let mut sources = Sources::default();
    for name in ["KVTIER_HOST__BYTS", "KVTIER_DATA_DIRECTROY", "KVTIER_ADDRESS", "KVTIER_CONFIG", "HOME"] {
        sources.environment.push((name.to_owned(), "x".to_owned()));
    }
    let told = problems(&sources, &machine());
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("KVTIER_HOST__BYTS: unknown setting"), "{told:?}");
    assert!(told[1].contains("the nearest is \"data_directory\""), "{told:?}");
}

#[test]
fn wrong_units_name_key_value_and_allowed_forms() {
    for (key, text, forms) in [
        ("host.bytes", "4", "has no unit; write a size with a unit, such as"),
        ("host.bytes", "4 gigs", "has the unknown unit \"gigs\""),
        ("host.bytes", "-4GiB", "is negative"),
        ("wal.group_commit_max_delay", "5", "has no unit; write a duration"),
        ("wal.group_commit_max_delay", "5MiB", "unknown unit \"MiB\""),
        ("nvme.queue_depth", "64KiB", "is not a whole number"),
        ("nvme.queue_depth", "-1", "is negative"),
        ("trace.sample", "2", "is not a percentage"),
        ("listen.tcp", "localhost", "is not an IP address and a port"),
        ("listen.insecure", "yes", "is not true or false"),
        ("nvme.io", "uring", "is not one of \"auto\", \"io_uring\", \"threads\""),
        ("nvme.files", "a,,b", "is not a list of paths"),
        ("log.level", "loud", "\"loud\" is no level"),
    ] {
        let told = one_problem(&flags(&[(key, text)]), &machine());
        assert!(told.contains(key) && told.contains(text) && told.contains(forms), "{told}");
    }
}

#[test]
fn values_of_the_wrong_toml_type_are_refused() {
    let (_folder, sources) =
        file("[nvme]\nfiles = [1, 2]\nenabled = \"maybe\"\n[host]\nbytes = true\nprefault = 2026-01-01\n");
    assert_eq!(problems(&sources, &machine()).len(), 4);
}

#[test]
fn a_value_out_of_its_bound_says_the_bound_and_what_would_break() {
    let told = one_problem(&flags(&[("nvme.queue_depth", "100000")]), &machine());
    assert!(told.contains("is above the most allowed, 4096") && told.contains("loads wait"), "{told}");
    let told = one_problem(&flags(&[("host.extent_bytes", "3MiB")]), &machine());
    assert!(told.contains("is not a multiple of 2MiB"), "{told}");
}

#[test]
fn all_problems_are_told_at_once_with_their_lines() {
    let (_folder, sources) = file(concat!(
        "data_directroy = \"x\"\n[host]\nbytes = \"4\"\n[wal]\nsegment_bytes = \"-1B\"\nbytes_max = \"5MiB\"\n",
        "[listen]\ntcp = \"0.0.0.0:7070\"\n[tls]\nkey = \"/nowhere\"\n"
    ));
    let told = problems(&sources, &machine());
    for (line, needle) in [
        (1, "data_directory"),
        (3, "no unit"),
        (5, "negative"),
        (6, "retain_bytes"),
        (8, "without TLS"),
        (10, "tls.certificate"),
    ] {
        let found = told.iter().any(|told| told.contains(&format!("kvtier.toml:{line}: ")) && told.contains(needle));
        assert!(found, "line {line}, {needle}: {told:#?}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line_and_the_rest_is_still_checked() {
    let (_folder, sources) = file("[host]\nbytes = \"4\"\nprefault == true\n");
    let told = problems(&sources, &machine());
    assert!(told.iter().any(|told| told.contains(":3: not valid TOML")), "{told:#?}");
    assert!(told.iter().any(|told| told.contains(":2: host.bytes")), "{told:#?}");
}

#[test]
fn a_missing_configuration_file_is_a_problem() {
    let sources = Sources { file: Some(PathBuf::from("/nowhere/kvtier.toml")), ..Sources::default() };
    assert!(one_problem(&sources, &machine()).contains("cannot be read"));
}

#[test]
fn an_open_address_needs_tls_or_consent() {
    for key in ["listen.tcp", "listen.http"] {
        let told = one_problem(&flags(&[(key, "0.0.0.0:7999")]), &machine());
        assert!(told.contains("without TLS") && told.contains("listen.insecure = true"), "{told}");
        assert_eq!(problems(&flags(&[(key, "0.0.0.0:7999"), ("listen.insecure", "true")]), &machine()), [""; 0]);
        assert_eq!(problems(&flags(&[(key, "[::1]:7999")]), &machine()), [""; 0]);
    }
}

#[test]
fn a_cap_over_the_free_disk_is_refused_and_what_the_file_already_has_counts_as_ours() {
    let mut machine = machine();
    let wanted = flags(&[("nvme.bytes", "120GiB")]);
    let told = one_problem(&wanted, &machine);
    assert!(told.contains("nvme.bytes") && told.contains("124.0 GiB") && told.contains("100.0 GiB free"), "{told}");

    let state = FileState::File { bytes: 120 * GIB, allocated_bytes: 120 * GIB };
    machine.files.insert(PathBuf::from("./kvtier-data/nvme-0.kv"), state);
    assert_eq!(problems(&wanted, &machine), [""; 0]);
}

#[test]
fn two_files_on_one_disk_are_added_up() {
    let wanted = flags(&[("nvme.files", "./kvtier-data/a,./kvtier-data/b"), ("nvme.bytes", "60GiB")]);
    assert!(one_problem(&wanted, &machine()).contains("124.0 GiB"));
}

#[test]
fn a_size_taken_by_default_is_kept_although_the_disk_has_filled_meanwhile() {
    let mut machine = machine();
    machine.free_bytes = 6 * GIB;
    let state = FileState::File { bytes: 20 * GIB, allocated_bytes: 20 * GIB };
    machine.files.insert(PathBuf::from("./kvtier-data/nvme-0.kv"), state);
    assert_eq!(Config::load(&Sources::default(), false, &machine).unwrap().nvme.bytes, 20 * GIB);
}

#[test]
fn a_percentage_of_disk_or_memory_becomes_bytes() {
    let wanted =
        flags(&[("nvme.bytes", "50%"), ("host.bytes", "25%"), ("nvme.files", "./kvtier-data/a,./kvtier-data/b")]);
    let config = Config::load(&wanted, false, &machine()).unwrap();
    assert_eq!((config.nvme.bytes, config.host.bytes), (25 * GIB, 4 * GIB));
}

#[test]
fn more_memory_than_the_machine_has_is_refused() {
    let told = one_problem(&flags(&[("host.bytes", "16GiB")]), &machine());
    assert!(told.contains("the machine has 16.0 GiB") && told.contains("lower host.bytes"), "{told}");
}

#[test]
fn a_data_directory_that_is_missing_read_only_or_a_file_is_told_with_its_remedy() {
    let named = flags(&[("data_directory", "/srv/kv")]);
    for (state, needle) in [
        (DirectoryState::Missing { creatable: true }, "mkdir -p /srv/kv"),
        (DirectoryState::Missing { creatable: false }, "cannot be created"),
        (DirectoryState::ReadOnly("Read-only file system".to_owned()), "Read-only file system"),
        (DirectoryState::NotADirectory, "is not a directory"),
    ] {
        let machine = Fixed { directory: state, ..machine() };
        let told = one_problem(&named, &machine);
        assert!(told.contains(needle), "{told}");
    }
    assert!(Config::load(&named, true, &machine()).is_ok(), "--create makes a missing one fine");
}

#[test]
fn contradictions_between_settings_are_told() {
    for (pairs, needle) in [
        (vec![("listen.tcp", "off"), ("listen.unix", "off")], "both off"),
        (vec![("listen.tcp", "127.0.0.1:7071")], "the same address"),
        (
            vec![(
                "listen.unix",
                "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            )],
            "at most 107",
        ),
        (
            vec![("host.extent_bytes", "64MiB"), ("host.bytes", "32MiB"), ("limits.put_bytes_in_flight_max", "1MiB")],
            "more than host.bytes",
        ),
        (vec![("nvme.files", "./kvtier-data/a,./kvtier-data/a")], "twice"),
    ] {
        let told = one_problem(&flags(&pairs), &machine());
        assert!(told.contains(needle), "{told}");
    }
}

#[test]
fn every_row_of_the_table_has_a_default_of_its_kind_within_its_bound() {
    let config = Config::read(&Sources::default(), false, &machine());
    for setting in settings() {
        let path = setting.path();
        assert!(!setting.text().is_empty() && !setting.wrong.is_empty(), "{path} is not documented");
        let shown = config.show(&path).expect("every setting has a value");
        if let Preset::Text(text) = setting.default {
            let value = setting.kind.parse(&Literal::Text(text.to_owned())).unwrap();
            assert_eq!(setting.bound.refuses(setting.kind, &value), None, "{path}");
            assert_eq!(value.show(), shown, "{path}");
        }
    }
}

#[test]
fn what_settings_prints_reads_back_as_the_same_settings() {
    let reading = Config::read(
        &flags(&[("host.bytes", "3GiB"), ("nvme.files", "./kvtier-data/a,./kvtier-data/b")]),
        false,
        &machine(),
    );
    let (_folder, sources) = file(&print::toml(&reading));
    let again = Config::read(&sources, false, &machine());
    assert_eq!(again.problems, []);
    assert_eq!(again.config, reading.config);
}

#[test]
fn the_document_of_settings_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating/settings.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == print::markdown(), "docs/operating/settings.md is out of date: run `make docs`");
}

#[test]
fn the_configuration_that_comes_with_the_systemd_unit_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kvtier.toml");
    let sources = Sources { file: Some(path), ..Sources::default() };
    let config = Config::load(&sources, true, &machine()).unwrap();
    assert_eq!(config.data_directory, Path::new("/var/lib/kvtier"));
}

#[test]
fn no_literal_makes_a_kind_panic() {
    let texts = ["", " ", "%", "-", "1", "9".repeat(60).as_str(), "1.1.1", "off", "é", "1e400%", "\u{0}", "::1", ","]
        .map(str::to_owned);
    let kinds = [
        Kind::Size,
        Kind::Time,
        Kind::Percent,
        Kind::Count,
        Kind::Flag,
        Kind::Paths,
        Kind::AddressOrOff,
        Kind::Choice(&["a"]),
    ];
    for text in texts {
        for kind in kinds {
            for literal in
                [Literal::Text(text.clone()), Literal::Number(text.clone()), Literal::List(vec![text.clone()])]
            {
                if let Ok(Value::Share(share)) = kind.parse(&literal) {
                    assert!((0.0..=1.0).contains(&share));
                }
            }
        }
    }
}
