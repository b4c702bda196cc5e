//! The harness against a real daemon: a short job with every byte compared, its JSON and its HTML.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kvtier_tests::binary::kvtierd;
use serde_json::Value;

/// The harness of this build, beside the daemon that it starts.
fn harness() -> PathBuf {
    let path = kvtierd().with_file_name("kvtier-bench");
    assert!(path.exists(), "{} is not built: cargo build --release --workspace --bins", path.display());
    path
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(harness()).args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    output.expect("the harness can be run")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const JOB: &str = "[global]\ndirectory=.\nhost_bytes=64m\nsize=96m\nbs=256k\nchain=2-8\nprefixes=2\nprefix_blocks=1\nruntime=2s\n\
    ramp_time=200ms\ntime_based\nverify\nsync\nrandom_distribution=zipf:0.9\n[get]\nrw=randread\ncold\niodepth=2\nlookupmix=20\n\
    [put]\nrw=write\nrate_iops=20\nrate_process=poisson\n";

#[test]
fn a_short_job_moves_verified_bytes_and_its_reports_stand_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("job.ini"), JOB).expect("writes");
    let output = run(folder.path(), &["job.ini", "--output-format=json", "--output=r.json", "--html=r.html"]);
    assert!(output.status.success(), "{}", words(&output));

    let text = std::fs::read_to_string(folder.path().join("r.json")).expect("a result");
    let result: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["is_comparison"], Value::Bool(false));
    assert_eq!(result["target"]["name"], "local");
    assert!(result["facts"]["processor"].as_str().is_some_and(|name| !name.is_empty()));
    let get = &result["jobs"][0];
    assert_eq!((get["is_verified"].as_bool(), get["is_open_loop"].as_bool()), (Some(true), Some(false)));
    assert_eq!(get["settings"]["random_distribution"], "zipf:0.9");
    assert!(get["read"]["bytes"].as_u64().is_some_and(|bytes| bytes > 8 << 20), "{get}");
    assert_eq!(get["read"]["blocks"], get["read"]["asked_blocks"], "nothing was evicted");
    assert!(get["lookup"]["requests"].as_u64().is_some_and(|requests| requests > 0));
    assert!(get["steadiness"]["verdict"].is_string() && get["windows"].as_array().is_some_and(|all| all.len() >= 10));
    let put = &result["jobs"][1];
    assert_eq!(put["is_open_loop"], Value::Bool(true));
    assert!(put["write"]["latency"]["percentiles_us"]["p50"].as_f64().is_some_and(|us| us > 0.0), "{put}");
    assert!(result["target"]["counters"]["nvme bytes read"].as_i64().is_some_and(|bytes| bytes > 0), "a tier was read");

    check_page(&std::fs::read_to_string(folder.path().join("r.html")).expect("a report"));
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("it is there").flatten().map(|file| file.file_name()).collect();
    assert_eq!(left.len(), 3, "the run's own folder is gone: {left:?}");
}

/// One file, well-formed as far as its elements go, that fetches nothing.
fn check_page(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for resource in ["http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link", "<img"] {
        assert!(!page.contains(resource), "the page refers to {resource}");
    }
    assert_eq!(page.matches("<svg").count(), 3, "three plots");
    assert!(page.matches("<polyline").count() >= 5 && page.contains("p99.9"));
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let name =
            tag.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '/')).next().unwrap_or_default();
        let alone = tag.split('>').next().is_some_and(|inside| inside.ends_with('/')) || ["meta", ""].contains(&name);
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "closed in order"),
            None if !alone => open.push(name),
            None => {}
        }
    }
    assert_eq!(open, Vec::<&str>::new(), "everything that was opened is closed");
}

#[test]
fn a_wrong_byte_ends_a_run_with_1_and_a_wrong_job_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let lies = run(folder.path(), &["--target=lying-memory", "--size=1m", "--bs=4k", "--chain=2", "--verify"]);
    assert_eq!(lies.status.code(), Some(1), "{}", words(&lies));
    assert!(words(&lies).contains("is wrong at offset 100:"), "block and offset are named: {}", words(&lies));
    let honest = run(folder.path(), &["--target=memory", "--size=1m", "--bs=4k", "--chain=2", "--verify"]);
    assert_eq!(honest.status.code(), Some(0), "{}", words(&honest));

    let archive = run(folder.path(), &["--target=archive"]);
    assert_eq!(archive.status.code(), Some(2));
    assert!(words(&archive).contains("not built yet") && words(&archive).contains("grpc-uds"), "{}", words(&archive));
    std::fs::write(folder.path().join("bad.ini"), "[a]\niodept=4\nbs=0\n").expect("writes");
    let bad = run(folder.path(), &["bad.ini"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(words(&bad).contains("\"iodepth\"") && words(&bad).contains("bad.ini:3: bs"), "{}", words(&bad));
}

#[test]
fn saved_results_are_not_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.json", "b.json"] {
        let arguments = ["--target=memory", "--size=1m", "--bs=4k", "--output-format=json", "--output", name];
        assert!(run(folder.path(), &arguments).status.success());
    }
    let refused = run(folder.path(), &["a.json", "b.json"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(words(&refused).contains("saved results are not compared") && words(&refused).contains("in turns"));
}
