//! `server/deploy`: what is shipped to start kvtierd with agrees with kvtierd and with itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kvtier_tests::binary;

/// Where the unit and the container file say that the binaries are.
const PROGRAM: &str = "/usr/bin/kvtierd";
/// The user's home and the data directory.
const STATE: &str = "/var/lib/kvtier";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `Key=value` lines of a unit; of a key that is there twice, both values.
fn unit() -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let text = read("server/deploy/kvtierd.service");
    for (key, value) in text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        keys.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    keys
}

/// Instructions of the container file, continuation lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("server/deploy/Containerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect()
}

fn check_config(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary::kvtierd());
    command.arg("check-config").args(arguments).env_clear().envs(environment.iter().copied());
    command.output().expect("kvtierd can be run")
}

#[track_caller]
fn assert_good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sizes, because what the defaults ask for must not depend on the disk a test runs on.
const SMALL: [&str; 8] = [
    "--host-bytes",
    "64MiB",
    "--nvme-bytes",
    "128MiB",
    "--set",
    "wal.retain_bytes=0B",
    "--set",
    "wal.bytes_max=256MiB",
];

#[test]
fn the_units_command_line_is_taken_with_the_shipped_settings() {
    let unit = unit();
    let command: Vec<&str> = unit["ExecStart"][0].split(' ').collect();
    let [program, "--config", settings] = command[..] else { panic!("{command:?}") };
    assert_eq!(program, PROGRAM);
    assert!(
        read("docs/operating/install.md").contains(&format!("server/deploy/kvtier.toml {settings}\n")),
        "{settings}"
    );

    // The shipped file as it is, on another directory: the one it names needs root.
    let folder = tempfile::tempdir().expect("a folder can be made");
    let shipped = read("server/deploy/kvtier.toml");
    assert!(shipped.contains(STATE));
    let copy = folder.path().join("kvtier.toml");
    std::fs::write(&copy, shipped.replace(STATE, folder.path().to_str().expect("UTF-8")))
        .expect("a file can be written");
    let copy = copy.to_str().expect("UTF-8");
    assert_good(&check_config(&[&["--config", copy][..], &SMALL].concat(), &[]));
}

#[test]
fn the_units_directories_user_and_limits_are_the_ones_kvtierd_needs() {
    let unit = unit();
    assert_eq!(unit["StateDirectory"], ["kvtier"], "systemd makes {STATE} for it");
    assert_eq!(unit["StateDirectoryMode"], ["0700"]);
    assert_eq!(unit["WorkingDirectory"], [STATE]);
    assert_eq!((&*unit["User"][0], &*unit["Group"][0]), ("kvtier", "kvtier"));
    assert!(read("docs/operating/install.md").contains(&format!("useradd --system --home-dir {STATE} kvtier\n")));
    assert_eq!(unit["RestartPreventExitStatus"], [kvtierd::command::EXIT_SETTINGS.to_string()]);
    assert!(!unit.contains_key("ExecStartPre"), "its exit code would be retried for ever");
    assert!(unit["SystemCallFilter"].iter().any(|calls| calls.contains("io_uring_setup")));
    assert_eq!(unit["LimitMEMLOCK"], ["infinity"]);
}

#[test]
fn what_the_container_file_copies_runs_and_sets_exists() {
    let all = instructions();
    let of = |word: &str| all.iter().filter(|(key, _)| key == word).map(|(_, rest)| rest.as_str()).collect::<Vec<_>>();
    assert_eq!(of("ENTRYPOINT"), [format!("[\"{PROGRAM}\"]")]);
    assert_eq!(of("USER"), ["kvtier"], "not root");
    assert_eq!(of("VOLUME"), [STATE]);
    assert_eq!(of("COPY")[0], ". .");
    let copied: Vec<&str> = of("COPY")[1].split(' ').collect();
    assert_eq!(copied, ["--from=build", "/build/target/release/kvtierd", "/build/target/release/kvtier", "/usr/bin/"]);
    assert!(of("RUN").iter().any(|run| run.contains("cargo build --release --locked --workspace --bins")));
    let manifest = read("Cargo.toml");
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("it is stated");
    assert!(
        of("FROM")[0].contains(&format!("rust:{}-", rust.trim_matches('"'))),
        "{} builds with {rust}",
        of("FROM")[0]
    );
    for package in ["g++", "libclang-dev"] {
        assert!(of("RUN")[0].contains(package) && read("make/setup.sh").contains(package), "{package}");
    }
}

#[test]
fn the_containers_environment_and_the_documented_command_are_taken() {
    let all = instructions();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let directory = folder.path().to_str().expect("UTF-8");
    let environment: Vec<(String, String)> = all
        .iter()
        .filter(|(word, _)| word == "ENV")
        .flat_map(|(_, rest)| rest.split(' ').filter_map(|set| set.split_once('=')))
        .map(|(name, value)| (name.to_owned(), value.replace(STATE, directory)))
        .collect();
    assert!(environment.iter().any(|(name, value)| name == "KVTIER_DATA_DIRECTORY" && value == directory));
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();

    let install = read("docs/operating/install.md");
    let run = install.split_once("podman run").and_then(|(_, rest)| rest.split_once("\n\n")).expect("it is shown").0;
    let run = run.replace("\\\n", " ");
    let arguments: Vec<&str> = run.split_whitespace().skip_while(|word| *word != "kvtierd").skip(1).collect();
    assert!(arguments.contains(&"--tcp"), "{arguments:?}");
    let comment = read("server/deploy/Containerfile").replace("\n#", " ");
    let squeezed = |text: &str| text.replace('\\', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed(&comment).contains(&squeezed(&run)), "the container file shows another command than install.md");
    assert_good(&check_config(&[&arguments[..], &SMALL].concat(), &environment));
}
