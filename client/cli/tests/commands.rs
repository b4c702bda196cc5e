//! The program itself, run as a user would, against the fake service.

#[path = "../../rust/tests/fake/mod.rs"]
mod fake;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake::{Fake, Fault};
use serde_json::Value;

/// Runs `kvtier` in a folder of its own, with no settings from outside.
fn run_in(folder: &Path, endpoint: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvtier"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_remove("KVTIER_ENDPOINT");
    if let Some(endpoint) = endpoint {
        command.env("KVTIER_ENDPOINT", endpoint);
    }
    command.output().expect("the program starts")
}

struct World {
    fake: Fake,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { fake: Fake::tcp(), folder: tempfile::tempdir().expect("a folder") }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run_in(self.folder.path(), Some(&self.fake.endpoint), arguments)
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.succeed(&arguments)).expect("one JSON document")
    }

    /// Runs a command that must fail, and returns its code and what it said.
    #[track_caller]
    fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        (output.status.code().expect("a code"), String::from_utf8(output.stderr).expect("text"))
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).expect("writes");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).expect("reads")
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn trace() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/traces/mooncake_conv_dev.rjsonl.zst").to_owned()
}

#[test]
fn a_file_comes_back_as_it_was() {
    let world = World::new();
    world.write("in", &bytes(2_500_000));
    let put = world.succeed(&["put", "in", "--keys-out", "keys", "--block-bytes", "1MiB"]);
    assert!(put.contains("│ in   ┆ 2.4 MiB ┆      3 ┆      3 ┆             0 ┆       0 ┆"), "{put}");
    let got = world.succeed(&["get", "--keys", "keys", "--output", "out"]);
    assert!(got.starts_with("out: 3 blocks (3 from host), 2.4 MiB, all verified"), "{got}");
    assert_eq!(world.read("out"), world.read("in"));

    let again = world.json(&["put", "in"]);
    assert_eq!((&again["files"][0]["duplicate"], &again["files"][0]["stored"]), (&3.into(), &0.into()));
    let by_content = world.run(&["get", "--of-file", "in", "--output", "-"]);
    assert_eq!(by_content.stdout, world.read("in"));
}

#[test]
fn a_get_that_misses_leaves_no_file() {
    let world = World::new();
    world.write("in", &bytes(3000));
    world.succeed(&["put", "in", "--keys-out", "keys", "--block-bytes", "1000"]);
    let last = String::from_utf8(world.read("keys")).expect("text").lines().last().expect("a key").to_owned();
    world.succeed(&["delete", &last]);
    let (code, said) = world.fail(&["get", "--keys", "keys", "--output", "out"]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("block 2 is a miss: never stored"), "{said}");
    assert_eq!(std::fs::read_dir(world.folder.path()).expect("lists").count(), 2, "in and keys, no out, no out.part");

    world.write("there", b"precious");
    let (code, said) = world.fail(&["get", "--keys", "keys", "--output", "there"]);
    assert_eq!((code, world.read("there").as_slice()), (2, &b"precious"[..]), "{said}");
}

#[test]
fn corrupt_bytes_are_exit_code_4_and_never_a_file() {
    let world = World::new();
    world.write("in", &bytes(3000));
    world.succeed(&["put", "in", "--keys-out", "keys", "--block-bytes", "1000"]);
    world.fake.store.set_fault(Fault::FlipBit(1));
    let (code, said) = world.fail(&["get", "--keys", "keys", "--output", "out"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("block 1 is corrupt"), "{said}");
    assert!(!world.folder.path().join("out").exists() && !world.folder.path().join("out.part").exists());
}

#[test]
fn declined_puts_are_exit_code_6_with_the_reason() {
    let world = World::new();
    world.write("in", &bytes(3000));
    world.fake.store.set_fault(Fault::Decline(kvtier_client::DeclineReason::HostFull));
    let (code, said) = world.fail(&["put", "in", "--block-bytes", "1000"]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("3 blocks were declined") && said.contains("host full: told to"), "{said}");
}

#[test]
fn lookups_pins_and_spaces_are_shown() {
    let world = World::new();
    world.write("in", &bytes(3000));
    world.succeed(&["put", "in", "--block-bytes", "1000"]);
    let of_file = ["--of-file", "in", "--block-bytes", "1000"];
    let lookup = world.json(&[&["lookup"], &of_file[..]].concat());
    assert_eq!((&lookup["prefix_blocks"], &lookup["prefix"][2]["tier"]), (&3.into(), &"host".into()));
    assert!(
        world
            .succeed(&[&["pin", "--name", "system"], &of_file[..]].concat())
            .contains("pinned 3 of 3 blocks (2.9 KiB)")
    );
    assert_eq!(world.json(&["unpin", "system"])["unpinned"], true);
    assert_eq!(world.fail(&["unpin", "system"]).0, 5);
    assert_eq!(world.json(&[&["prefetch"], &of_file[..]].concat())["resident"], 3);
    assert_eq!(world.fail(&["lookup", "ff"]).0, 5);

    let open = ["spaces", "open", "llama", "--tenant", "t", "--model", "m", "--tokens-per-block", "16"];
    assert_eq!(world.json(&[&open[..], &["--part-bytes", "1MiB,1MiB"]].concat())["created"], true);
    let (code, said) = world.fail(&[&open[..], &["--part-bytes", "2MiB"]].concat());
    assert_eq!(code, 1, "{said}");
    assert!(world.succeed(&["spaces", "list"]).contains("│ llama ┆ t      ┆ m     ┆       2 MiB ┆     16 ┆"));
    assert_eq!(world.fail(&["spaces", "drop", "files"]).0, 2, "dropping needs --yes");
    assert_eq!(world.json(&["spaces", "drop", "files", "--yes"])["dropped_blocks"], 3);
    let (code, said) = world.fail(&["lookup", "ff"]);
    assert!(code == 5 && said.contains("open spaces: llama"), "{said}");
}

#[test]
fn status_top_scrub_and_drain_answer() {
    let world = World::new();
    assert_eq!(world.json(&["status"])["tiers"][0]["tier"], "host");
    assert!(world.succeed(&["status"]).contains("kvtierd 0.1.0-fake at http://127.0.0.1:"));
    let top = world.succeed(&["top", "--once", "--interval", "10ms"]);
    assert!(top.contains("per second") && top.contains("host"), "{top}");
    assert_eq!(world.fail(&["top"]).0, 2, "no terminal here");
    assert_eq!(world.json(&["scrub"])["corrupt_blocks"], 0);
    assert_eq!(world.json(&["drain"])["written_back_blocks"], 3);
}

#[test]
fn events_end_at_the_present_unless_followed() {
    let world = World::new();
    world.write("in", &bytes(3000));
    world.succeed(&["put", "in", "--block-bytes", "1000"]);
    let lines = world.succeed(&["events", "--json"]);
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(kinds, ["reset", "stored", "stored", "stored", "snapshot_end"]);
    let rest = world.succeed(&["events", "--from", "1:2"]);
    assert!(rest.starts_with("1:3 ") && rest.lines().count() == 1, "{rest}");
    let followed = world.succeed(&["events", "--follow", "--from", "1:0", "--limit", "2"]);
    assert_eq!(followed.lines().count(), 2);
}

#[test]
fn a_replay_gets_every_hit_there_is_and_verifies_it() {
    let world = World::new();
    let replay = ["trace", "replay", &trace(), "--limit", "60", "--block-bytes", "4KiB"];
    let cold = world.json(&[&replay[..], &["--concurrency", "1"]].concat());
    assert_eq!(cold["hit_blocks"], cold["ideal_hit_blocks"], "one at a time, nothing is ever evicted: {cold}");
    assert!(cold["hit_blocks"].as_u64().expect("a number") > 0);
    assert_eq!(cold["verified_blocks"], cold["hit_blocks"]);
    assert_eq!(cold["verification_errors"], 0);
    assert_eq!(cold["tiers"][0]["tier"], "host");
    assert!(world.fake.store.leases.lock().expect("not poisoned").is_empty(), "every lease was released");

    let warm = world.succeed(&replay);
    assert!(warm.contains("100.0 %") && warm.contains("is what was put ✔"), "{warm}");
    let fresh = world.json(&[&replay[..], &["--fresh", "--concurrency", "8"]].concat());
    assert_eq!(fresh["verification_errors"], 0);
    assert_eq!(fresh["requests"], 60);
}

#[test]
fn a_replay_notices_right_checksums_over_wrong_blocks() {
    let world = World::new();
    let replay = ["trace", "replay", &trace(), "--limit", "20", "--block-bytes", "4KiB", "--concurrency", "1"];
    world.succeed(&replay);
    for fault in [Fault::Substitute, Fault::FlipBit(0)] {
        world.fake.store.set_fault(fault);
        let (code, said) = world.fail(&replay);
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("came back with wrong bytes"), "{said}");
    }
}

#[test]
fn a_bench_leaves_nothing_behind() {
    let world = World::new();
    let bench = world.json(&["bench", "--blocks", "50", "--block-bytes", "4KiB", "--chain", "8", "--repeat", "2"]);
    let operations = bench["operations"].as_array().expect("three phases");
    let calls: Vec<&Value> = operations.iter().map(|operation| &operation["calls"]).collect();
    assert_eq!(calls, [7, 14, 14]);
    assert!(
        operations.iter().all(|operation| operation["missed_blocks"] == 0 && operation["verification_errors"] == 0)
    );
    assert_eq!(world.json(&["spaces", "list"])["spaces"].as_array().map(Vec::len), Some(0));
    world.fake.store.set_fault(Fault::Substitute);
    assert_eq!(world.fail(&["bench", "--blocks", "16", "--block-bytes", "4KiB"]).0, 4);
}

#[test]
fn nobody_at_home_is_exit_code_3_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix://{}/none.sock", folder.path().display());
    let output = run_in(folder.path(), Some(&socket), &["status"]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&socket) && said.contains("help: start the daemon with `kvtierd`"), "{said}");
    let output = run_in(folder.path(), Some(&socket), &["status", "--json"]);
    let said: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!((&said["error"]["kind"], &said["error"]["exit_code"]), (&"unavailable".into(), &3.into()));
}

#[test]
fn a_daemon_that_never_answers_is_exit_code_3_after_the_timeout() {
    let world = World::new();
    world.fake.store.set_fault(Fault::NeverAnswer);
    let (code, said) = world.fail(&["status", "--timeout", "200ms"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("no answer within 200 ms"), "{said}");
}

#[test]
fn the_socket_of_a_daemon_started_here_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("kvtier-data")).expect("makes a folder");
    let _fake = Fake::unix(&folder.path().join("kvtier-data/kvtierd.sock"));
    let output = run_in(folder.path(), None, &["status"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_cannot_work_is_exit_code_2() {
    let world = World::new();
    let wrong: [&[&str]; 8] = [
        &["nonsense"],
        &["lookup", "xyz"],
        &["lookup"],
        &["put", "in", "--block-bytes", "65MiB"],
        &["events", "--from", "7"],
        &["trace", "replay", "no-such", "--speed", "0"],
        &["status", "--endpoint", "127.0.0.1:7070"],
        &["top", "--json"],
    ];
    for arguments in wrong {
        let (code, said) = world.fail(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
    }
    assert_eq!(world.fail(&["put", "no-such-file"]).0, 1, "a file that is not there");
}

#[test]
fn the_daemons_own_commands_are_handed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("kvtier");
    std::fs::copy(env!("CARGO_BIN_EXE_kvtier"), &program).expect("copies");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("PATH", folder.path()).output().expect("starts")
    };
    let absent = run(&["fsck"]);
    let said = String::from_utf8(absent.stderr).expect("text");
    assert_eq!(absent.status.code(), Some(5), "{said}");
    assert!(said.contains("install kvtierd next to kvtier"), "{said}");

    let daemon = folder.path().join("kvtierd");
    std::fs::write(&daemon, "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 7\n").expect("writes");
    std::fs::set_permissions(&daemon, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permits");
    let handed_over = run(&["fsck", "--data", "x y"]);
    assert_eq!(String::from_utf8(handed_over.stdout).expect("text"), "fsck|--data|x y|");
    assert_eq!(handed_over.status.code(), Some(7));
    // Both programs know --json; wherever it stands, the daemon's program has to hear of it.
    for arguments in [["--json", "fsck", "--quick"], ["fsck", "--json", "--quick"]] {
        assert_eq!(String::from_utf8(run(&arguments).stdout).expect("text"), "fsck|--json|--quick|");
    }
}

#[test]
fn completions_name_every_command() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.succeed(&["completions", shell]);
        assert!(["replay", "fsck", "events"].iter().all(|command| script.contains(command)), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let world = World::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvtier"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    drop(world);
}
